"""Protobuf <-> numpy and the dataclasses of this package, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any, Final, TypeVar

import numpy as np
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from topwork._transport import status
from topwork.encoders import DeviceInfo, EncoderInfo, OptionInfo, PromptInfo, TapInfo, TowerInfo, Word
from topwork.errors import InvalidInput, TopworkError
from topwork.features import Array, Features, Numerics, Timings
from topwork.v1 import encoders_pb2, types_pb2

T = TypeVar("T")
_LAYOUTS: Final[Mapping[int, str]] = {
    types_pb2.DTYPE_UNSPECIFIED: "<f4",
    types_pb2.DTYPE_FLOAT32: "<f4",
    types_pb2.DTYPE_FLOAT16: "<f2",
    types_pb2.DTYPE_INT8: "|i1",
    types_pb2.DTYPE_BINARY: "|u1",
    types_pb2.DTYPE_UINT8: "|u1",
    types_pb2.DTYPE_INT32: "<i4",
    types_pb2.DTYPE_INT64: "<i8",
    types_pb2.DTYPE_FLOAT64: "<f8",
}
#: What an array may be sent as, by numpy's name.
SENDABLE: Final[Mapping[str, types_pb2.DType]] = {
    "float32": types_pb2.DTYPE_FLOAT32,
    "float16": types_pb2.DTYPE_FLOAT16,
    "int8": types_pb2.DTYPE_INT8,
    "uint8": types_pb2.DTYPE_UINT8,
    "int32": types_pb2.DTYPE_INT32,
    "int64": types_pb2.DTYPE_INT64,
}
#: What features may be asked as.
ROW_DTYPES: Final[Mapping[str, types_pb2.DType]] = {
    "float32": types_pb2.DTYPE_FLOAT32,
    "float16": types_pb2.DTYPE_FLOAT16,
    "int8": types_pb2.DTYPE_INT8,
    "binary": types_pb2.DTYPE_BINARY,
}
PRIORITIES: Final[Mapping[str, encoders_pb2.Priority]] = {
    "low": encoders_pb2.PRIORITY_LOW,
    "normal": encoders_pb2.PRIORITY_NORMAL,
    "high": encoders_pb2.PRIORITY_HIGH,
}
ROLES: Final[Mapping[str, encoders_pb2.Role]] = {
    "query": encoders_pb2.ROLE_QUERY,
    "document": encoders_pb2.ROLE_DOCUMENT,
}
SPAN_KINDS: Final[Mapping[int, str]] = {
    types_pb2.SPAN_KIND_CHARACTERS: "characters",
    types_pb2.SPAN_KIND_SECONDS: "seconds",
    types_pb2.SPAN_KIND_BOX: "box",
}


def tensor(values: Array) -> types_pb2.Tensor:
    """The array's bytes, little-endian and row-major. The dtype must be one of SENDABLE."""
    layout = _LAYOUTS[SENDABLE[values.dtype.name]]
    return types_pb2.Tensor(
        dtype=SENDABLE[values.dtype.name], shape=values.shape, data=np.ascontiguousarray(values, layout).tobytes()
    )


def array(tensor: types_pb2.Tensor) -> Array:
    """A writable array. BINARY rows stay packed: their shape is (n, ceil(bits / 8))."""
    shape = tuple(tensor.shape)
    if tensor.dtype == types_pb2.DTYPE_BINARY:
        shape = (shape[0], -(-shape[1] // 8))
    return np.frombuffer(tensor.data, _LAYOUTS[tensor.dtype]).reshape(shape).copy()


def settings(
    encoder: str,
    taps: list[str],
    dtype: str,
    normalize: bool,
    dimensions: int,
    options: Mapping[str, Any] | None,
    fingerprint: str | None,
    skip_bad_items: bool,
    priority: str,
    role: str | None = None,
) -> encoders_pb2.EmbedSettings:
    """The settings of a request. Raises InvalidInput for what cannot even be written down."""
    if dtype not in ROW_DTYPES:
        raise InvalidInput(f"features do not come as {dtype!r}", remedy=f"ask for one of {', '.join(ROW_DTYPES)}")
    return encoders_pb2.EmbedSettings(
        encoder=encoder,
        taps=taps,
        dtype=ROW_DTYPES[dtype],
        normalize=normalize,
        dimensions=dimensions,
        options=struct(options),
        fingerprint=fingerprint or "",
        skip_bad_items=skip_bad_items,
        priority=priority_of(priority),
        role=_role_of(role),
    )


def priority_of(name: str) -> encoders_pb2.Priority:
    if name not in PRIORITIES:
        raise InvalidInput(f"there is no priority {name!r}", remedy=f"ask for one of {', '.join(PRIORITIES)}")
    return PRIORITIES[name]


def _role_of(name: str | None) -> encoders_pb2.Role:
    if name and name not in ROLES:
        raise InvalidInput(f"there is no role {name!r}", remedy=f"ask for one of {', '.join(ROLES)}, or for none")
    return ROLES[name] if name else encoders_pb2.ROLE_UNSPECIFIED


def struct(options: Mapping[str, Any] | None) -> Struct | None:
    """Options as a message; numpy numbers become plain ones."""
    if not options:
        return None
    message = Struct()
    for name, value in options.items():
        try:
            message[name] = value.item() if isinstance(value, np.generic) else value
        except (ValueError, TypeError) as error:
            raise InvalidInput(
                f"option {name!r} is a {type(value).__name__}", remedy="options are numbers, strings, booleans and lists"
            ) from error
    return message


def weights(also: Mapping[str, float] | None) -> dict[str, float]:
    """Weights by column. InvalidInput names the column of one that is no number."""
    found = {}
    for column, weight in (also or {}).items():
        try:
            found[column] = float(weight)
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidInput(f"the weight of {column!r} is a {type(weight).__name__}", remedy="give numbers above 0") from error
    return found


def features(reply: encoders_pb2.EmbedResponse, encoder: str, start: int = 0) -> list[Features]:
    """One Features a tap, in the order asked."""
    noted, failed = notes(reply.notes), failures(reply.failures, start)
    computed, timings = numerics(reply), of_message(Timings, reply.timings)
    return [tap_features(tap, encoder, start, noted, failed, computed, timings) for tap in reply.features]


def notes(found: Iterable[encoders_pb2.Note]) -> dict[int, dict[str, int]]:
    """Decode notes, by the item's position in the message."""
    return {note.item: dict(note.counts) for note in found}


def failures(found: Iterable[encoders_pb2.Failure], start: int) -> dict[int, TopworkError]:
    """Decode failures, by the item's position in the message; `start` is the position of its first item among the caller's."""
    return {f.item: status.failure(f.code, f.message, f.remedy, start + f.item) for f in found}


def numerics(message: Any) -> Numerics | None:
    """Decode what computed the rows, where the message says it."""
    return of_message(Numerics, message.numerics) if message.HasField("numerics") else None


def tap_features(
    tap: types_pb2.TapFeatures,
    encoder: str,
    start: int = 0,
    notes: Mapping[int, Mapping[str, int]] | None = None,
    failures: Mapping[int, TopworkError] | None = None,
    computed: Numerics | None = None,
    timings: Timings | None = None,
) -> Features:
    return Features(
        encoder=encoder,
        tap=tap.tap,
        fingerprint=tap.fingerprint,
        granularity=name_of(types_pb2.Granularity, tap.granularity),
        rows=array(tap.rows),
        counts=np.fromiter(tap.counts, np.int64, len(tap.counts)),
        dim=tap.rows.shape[1],
        dtype=name_of(types_pb2.DType, tap.rows.dtype or types_pb2.DTYPE_FLOAT32),
        scales=array(tap.scales) if tap.HasField("scales") else None,
        spans=array(tap.spans.values) if tap.HasField("spans") else None,
        span_kind=SPAN_KINDS.get(tap.spans.kind) if tap.HasField("spans") else None,
        parts=array(tap.spans.parts) if tap.spans.HasField("parts") else None,
        notes=notes or {},
        failures=failures or {},
        numerics=computed,
        timings=timings or Timings(),
        start=start,
    )


def of_message(kind: type[T], message: Message, **converted: Any) -> T:
    """Make a dataclass of the message's fields of the same names: repeated ones as tuples, options as dicts, enums by name.

    Fields in `converted` have been made already.
    """
    classes: tuple[Any, Any] = kind, type(message)
    found = {name: _plain(enum, getattr(message, name)) for name, enum in _shared(*classes) if name not in converted}
    return kind(**found, **converted)


@lru_cache
def _shared(kind: Any, message: Any) -> list[tuple[str, Any]]:
    """The fields that a dataclass and a message share, with the enums of those that have one."""
    known = message.DESCRIPTOR.fields_by_name
    return [(field.name, known[field.name].enum_type) for field in fields(kind) if field.name in known]


def _plain(enum: Any, value: Any) -> Any:
    if enum is not None and isinstance(value, int):
        return name_of(enum, value)
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Struct):
        return options(value)
    return dict(value) if isinstance(value, Mapping) else tuple(value)


def options(struct: Struct) -> dict[str, Any]:
    """Plain Python. A Struct knows only doubles: a whole number becomes an int."""
    return {name: _option(value) for name, value in struct.fields.items()}


def _option(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            return int(value.number_value) if value.number_value.is_integer() else value.number_value
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "list_value":
            return [_option(entry) for entry in value.list_value.values]
        case "struct_value":
            return options(value.struct_value)
    return None


def encoder(message: encoders_pb2.Encoder) -> EncoderInfo:
    return of_message(
        EncoderInfo,
        message,
        taps=tuple(of_message(TapInfo, tap) for tap in message.taps),
        numerics=numerics(message),
        options=options_info(message.options),
        devices=_devices(message),
        modalities=names_of(types_pb2.Modality, message.modalities),
        towers=tuple(_tower(tower) for tower in message.towers),
        prompts=tuple(_prompt(prompt) for prompt in message.prompts),
    )


def _prompt(message: encoders_pb2.Prompt) -> PromptInfo:
    return of_message(PromptInfo, message, role=name_of(encoders_pb2.Role, message.role) if message.role else "")


def _tower(message: encoders_pb2.Tower) -> TowerInfo:
    return of_message(TowerInfo, message, numerics=numerics(message), devices=_devices(message))


def _devices(message: encoders_pb2.Encoder | encoders_pb2.Tower) -> tuple[DeviceInfo, ...]:
    return tuple(of_message(DeviceInfo, one, numerics=of_message(Numerics, one.numerics)) for one in message.devices)


def options_info(messages: Iterable[encoders_pb2.Option]) -> tuple[OptionInfo, ...]:
    """Decode the options of an encoder; a server older than schemas sends none."""
    return tuple(of_message(OptionInfo, option, schema=json.loads(option.schema or "{}")) for option in messages)


def words(message: encoders_pb2.Words) -> list[Word]:
    return [Word(word.word, word.score) for word in message.words]


def names_of(kind: Any, numbers: Iterable[int]) -> tuple[str, ...]:
    """Name each of several values of an enum."""
    return tuple(name_of(kind, number) for number in numbers)


@lru_cache
def name_of(kind: Any, number: int) -> str:
    """The lower-case name of an enum's value without its prefix; a number that only a newer server knows stays one."""
    values = getattr(kind, "DESCRIPTOR", kind).values_by_number
    if number not in values:
        return str(number)
    name: str = values[number].name
    return name.removeprefix(values[0].name.removesuffix("UNSPECIFIED")).lower()
