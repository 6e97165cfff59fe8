"""Tensors of the Open Inference Protocol, and the items that an input holds: bytes of one each, or one array each."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from topwork._display.excerpts import excerpt, listed

from topwork_server.doors.media import KINDS, item_of
from topwork_server.doors.oip.shared_memory import Place, place_of
from topwork_server.doors.text_inputs import each
from topwork_server.errors import InvalidInput
from topwork_server.types import Array, Item, Modality, TextItem

BYTES = "BYTES"
#: A parameter of an output: of how many classes it tells.
CLASSES = "classification"
#: How numbers of a datatype lie in raw bytes; those of BF16 are read as the upper halves of FP32.
NUMBERS: Mapping[str, str] = {
    "BOOL": "?",
    **{f"{'U' * (kind == 'u')}INT{8 * size}": f"<{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)},
    **{"FP16": "<f2", "BF16": "<u2", "FP32": "<f4", "FP64": "<f8"},
}
_DATATYPES = {np.dtype(dtype).str: name for name, dtype in NUMBERS.items() if name != "BF16"}
#: Datatypes that have no values in JSON or in `contents`.
RAW_ONLY = ("FP16", "BF16")
#: The axes, behind that of the items, of pairs of texts.
PAIR = (2,)
#: Axes of a tensor: the most that numpy has, by half. The length of each is an int64 on the wire of gRPC.
MOST_AXES, LONGEST_AXIS = 32, (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class InputTensor:
    """An input. `data` are its raw bytes, or its values in row-major order, or where in shared memory its bytes are."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: bytes | Sequence[Any] | Place

    def __str__(self) -> str:
        return f"the input {excerpt(self.name)}, {excerpt(self.datatype)} of the shape {list(self.shape[:MOST_AXES])},"


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """An output, and the fingerprint of the tap whose rows it is, or was made of. `values` are numbers or, of BYTES, objects of
    class str. `place` is where in shared memory they were written."""

    name: str
    values: Array
    fingerprint: str
    place: Place | None = None

    @property
    def datatype(self) -> str:
        return datatype_of(self.values.dtype)

    def raw(self) -> bytes:
        """The values as bytes; each text after its length in four bytes."""
        if self.datatype != BYTES:
            return self.values.astype(self.values.dtype.newbyteorder("<"), copy=False).tobytes()
        elements = [one.encode() for one in self.values.reshape(-1)]
        return b"".join(struct.pack("<I", len(one)) + one for one in elements)

    def data(self) -> Any:
        """The values as JSON has them, in row-major order: an array of numbers, or a list of texts."""
        flat = self.values.reshape(-1)
        return flat.tolist() if self.datatype == BYTES else flat


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a dtype; BYTES for objects."""
    return BYTES if dtype.kind == "O" else _DATATYPES[dtype.newbyteorder("<").str]


def items_of(tensor: InputTensor, modality: Modality, most: int) -> list[Item]:
    """The items of an input, at most so many. InvalidInput names the input, and the position of an item that is wrong."""
    if not 0 < len(tensor.shape) <= MOST_AXES or min(tensor.shape) < 0 or max(tensor.shape) > LONGEST_AXIS:
        raise InvalidInput(f"{tensor} has no such shape", remedy="give the length of each axis, of the items first")
    if not 0 < tensor.shape[0] <= most:
        raise InvalidInput(f"{tensor} has {tensor.shape[0]:,} items", remedy=f"send 1 to {most:,} in a request")
    if tensor.datatype == BYTES:
        return each(_elements(tensor, modality), lambda element: _item(element, modality))
    if modality is Modality.TEXT and tensor.datatype not in ("INT32", "INT64"):
        raise InvalidInput(f"{tensor} holds no texts", remedy="send texts as BYTES, or token ids of one length as INT64")
    if len(tensor.shape) < 2:
        raise InvalidInput(f"{tensor} has no axis but that of its items", remedy=f"send files' own bytes as {BYTES}, or arrays")
    array = array_of(tensor)
    return list(array.astype(np.int64) if modality is Modality.TEXT else array)


def array_of(tensor: InputTensor) -> Array:
    """The array of an input of numbers."""
    if tensor.datatype not in NUMBERS:
        raise InvalidInput(f"{tensor} has no known datatype", remedy=f"there are {listed([BYTES, *NUMBERS], 20)}")
    assert not isinstance(tensor.data, Place), "it is read"
    if not isinstance(tensor.data, bytes):
        return _of_values(tensor, tensor.data)
    dtype = np.dtype(NUMBERS[tensor.datatype])
    if len(tensor.data) != (needed := prod(tensor.shape) * dtype.itemsize):
        raise InvalidInput(f"{tensor} came with {len(tensor.data):,} bytes", remedy=f"send all {needed:,}, and no more")
    array = np.frombuffer(tensor.data, dtype).reshape(tensor.shape)
    return (array.astype("<u4") << 16).view("<f4") if tensor.datatype == "BF16" else array


def _of_values(tensor: InputTensor, values: Sequence[Any]) -> Array:
    if tensor.datatype in RAW_ONLY:
        raise InvalidInput(f"{tensor} came as a list of values", remedy="send it as raw bytes")
    dtype = np.dtype(NUMBERS[tensor.datatype])
    try:
        found = np.asarray(values)
        with np.errstate(invalid="ignore"):  # what does not fit is seen below
            array = found.astype(dtype).reshape(tensor.shape)
    except (ValueError, TypeError, OverflowError):
        found = array = np.empty(0, object)
    exact = found.dtype.kind == dtype.kind or (found.dtype.kind in "iu" and dtype.kind in "iuf")
    if not exact or (dtype.kind in "iu" and not np.array_equal(array, found.reshape(array.shape))):
        raise InvalidInput(
            f"{tensor} came with other values", remedy=f"send {prod(tensor.shape):,} of {tensor.datatype}, in row-major order"
        )
    return array


def _elements(tensor: InputTensor, modality: Modality) -> Sequence[Any]:
    if modality is Modality.TENSOR:
        raise InvalidInput(f"{tensor} is no array", remedy="send numbers, one array an item")
    paired, inner = modality is Modality.TEXT, tuple(tensor.shape[1:])
    if inner not in ((), (1,)) and not (paired and inner == PAIR):
        pairs = ", or of pairs of texts [n, 2]" if paired else ""
        raise InvalidInput(f"{tensor} has several elements an item", remedy=f"give it the shape [n], or [n, 1]{pairs}")
    raw, count = tensor.data, prod(tensor.shape)
    assert not isinstance(raw, Place), "it is read"
    found = list(_split(tensor, raw)) if isinstance(raw, bytes) else _flat(raw)
    if len(found) != count:
        raise InvalidInput(f"{tensor} came with {len(found):,} elements", remedy=f"send {count:,}, or another shape")
    return list(zip(found[::2], found[1::2], strict=True)) if inner == PAIR else found


def _split(tensor: InputTensor, raw: bytes) -> Iterator[bytes]:
    """The elements of raw BYTES, each after its length in four bytes, of the lower ones first."""
    at = 0
    while at < len(raw):
        size = struct.unpack_from("<I", raw, at)[0] if at + 4 <= len(raw) else len(raw)
        at += 4 + size
        if at > len(raw):
            raise InvalidInput(
                f"{tensor} is cut off within an element", remedy="write the length of each in 4 bytes before its own bytes"
            )
        yield raw[at - size : at]


def _flat(values: Sequence[Any]) -> Sequence[Any]:
    """The values of [n, 1], which may be lists of one value, in one list."""
    return [one[0] if isinstance(one, list) and len(one) == 1 else one for one in values]


def _item(element: Any, modality: Modality) -> Item:
    if isinstance(element, tuple):
        return TextItem(*(_text(one) for one in element))
    if modality is Modality.TEXT or not isinstance(element, str | bytes):
        return TextItem(_text(element))
    return item_of(element, modality) if isinstance(element, str) else KINDS[modality](element)


def _text(element: Any) -> str:
    if not isinstance(element, str | bytes):
        raise InvalidInput(f"an element of {BYTES} is {excerpt(repr(element))}", remedy="send a text")
    try:
        return element if isinstance(element, str) else element.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the text is no UTF-8: {error.reason}", remedy="encode it in UTF-8") from None


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that is asked for, where in shared memory it is to be written, if there, and of how many classes it tells the
    likeliest in the place of its numbers, 0 where it is numbers."""

    name: str
    place: Place | None = None
    classes: int = 0


def requested_output(name: str, parameters: Mapping[str, Any]) -> RequestedOutput:
    """The output of that name and those parameters. InvalidInput where they are none."""
    classes = parameters.get(CLASSES, 0)
    if type(classes) is not int or classes < 0:
        raise InvalidInput(
            f"`{CLASSES}` of the output {excerpt(name)} is {excerpt(str(classes))}", remedy="ask for a number of classes"
        )
    return RequestedOutput(name, place_of(parameters), classes)


def flag(parameters: Mapping[str, Any], name: str, *, usual: bool = False) -> bool:
    """The parameter of that name, which is true or false. InvalidInput where it is neither."""
    found = parameters.get(name, usual)
    if not isinstance(found, bool):
        raise InvalidInput(f"the parameter `{name}` is {excerpt(repr(found))}", remedy="send true or false")
    return found
