"""Reads the signatures of a SavedModel and the operators of its graph out of saved_model.pb, without TensorFlow.

Field numbers are those of TensorFlow's saved_model.proto, meta_graph.proto, graph.proto, function.proto and node_def.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from topwork_server import InvalidInput

FILE = "saved_model.pb"
#: numpy's names of TensorFlow's DataType, of those that an input or a tap may have; others by their number.
DTYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 9: "int64", 10: "bool"}
DTYPES |= {14: "bfloat16", 17: "uint16", 19: "float16", 22: "uint32", 23: "uint64"}
STRING = "string"

_Value: TypeAlias = int | memoryview


@dataclass(frozen=True)
class Tensor:
    """An input or output of a signature. `shape` has None for an axis of any length, and is None where the rank is not known."""

    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        axes = "of any rank" if self.shape is None else ["any" if axis is None else axis for axis in self.shape]
        return f"{self.dtype} {axes}".replace("'", "")


@dataclass(frozen=True)
class Signature:
    """One way to call the model: names and tensors."""

    name: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


@dataclass(frozen=True)
class SavedModel:
    """A folder's first graph: its tags, its signatures by name, and the operators of its graph and functions."""

    folder: Path
    tags: tuple[str, ...]
    signatures: Mapping[str, Signature]
    operators: frozenset[str]


def read(folder: Path) -> SavedModel:
    """Read the saved_model.pb of a folder. InvalidInput where it is not there or damaged."""
    path = folder / FILE
    try:
        state = path.stat()
        return _read(folder, state.st_mtime_ns, state.st_size)
    except FileNotFoundError:
        raise InvalidInput(f"{folder} has no {FILE}", remedy="name the folder that TensorFlow's saved_model.save wrote") from None
    except (ValueError, IndexError, OSError) as error:
        raise InvalidInput(f"{path} is damaged or no SavedModel: {error}", remedy="copy the model again") from error


@lru_cache(maxsize=64)
def _read(folder: Path, changed: int, size: int) -> SavedModel:
    """The model of a file with that time and size: it is asked for each time that the encoder is listed."""
    graphs = list(_all(memoryview((folder / FILE).read_bytes()), 2))
    if not graphs:
        raise ValueError("it holds no graph")
    graph = graphs[0]
    signatures = [_signature(*_entry(value)) for value in _all(graph, 5)]
    return SavedModel(
        folder,
        tuple(_text(tag) for info in _all(graph, 1) for tag in _all(info, 4)),
        {signature.name: signature for signature in signatures if not signature.name.startswith("__saved_model")},
        frozenset(operator for definition in _all(graph, 2) for operator in _operators(definition)),
    )


def _operators(graph: memoryview) -> Iterator[str]:
    nodes = [*_all(graph, 1)]
    nodes += [node for library in _all(graph, 2) for function in _all(library, 1) for node in _all(function, 3)]
    return (_text(operator) for node in nodes for operator in _all(node, 2))


def _signature(name: str, message: memoryview) -> Signature:
    inputs, outputs = (dict(_tensor(*_entry(value)) for value in _all(message, number)) for number in (1, 2))
    return Signature(name, inputs, outputs)


def _tensor(name: str, message: memoryview) -> tuple[str, Tensor]:
    fields = dict(_fields(message))
    dtype, shape = fields.get(2, 0), fields.get(3, memoryview(b""))
    if not isinstance(dtype, int) or isinstance(shape, int):
        raise ValueError("a tensor has no dtype")
    if any(number == 3 and value for number, value in _fields(shape)):  # unknown_rank
        return name, Tensor(_dtype(dtype), None)
    lengths = [next((size for number, size in _fields(axis) if number == 1), 0) for axis in _all(shape, 2)]
    known = [length if isinstance(length, int) and length < 1 << 63 else None for length in lengths]  # -1: of any length
    return name, Tensor(_dtype(dtype), tuple(known))


def _dtype(number: int) -> str:
    return DTYPES.get(number, f"type {number}")


def _entry(message: memoryview) -> tuple[str, memoryview]:
    """An entry of a map: its key and its value."""
    return next((_text(key) for key in _all(message, 1)), ""), next(_all(message, 2), memoryview(b""))


def _text(value: memoryview) -> str:
    return bytes(value).decode()


def _all(message: memoryview, field: int) -> Iterator[memoryview]:
    """The messages or texts of a field."""
    for number, value in _fields(message):
        if number == field:
            if isinstance(value, int):
                raise ValueError(f"field {field} is a number")
            yield value


def _fields(message: memoryview) -> Iterator[tuple[int, _Value]]:
    """The fields of a message in protobuf's encoding. ValueError or IndexError where it is none."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"byte {at} begins no field")
        if at + length > len(message):
            raise ValueError("it was cut short")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = message[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError(f"byte {at} begins no number")
