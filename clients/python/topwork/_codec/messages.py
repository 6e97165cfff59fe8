"""Protobuf <-> numpy and the dataclasses of this package, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
from google.protobuf.struct_pb2 import Struct

from topwork._transport import status
from topwork.encoders import DeviceInfo, EncoderInfo, OptionInfo, TapInfo, Word
from topwork.errors import InvalidInput, TopworkError
from topwork.features import Array, Features, Numerics, Timings
from topwork.v1 import encoders_pb2, types_pb2

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
    )


def priority_of(name: str) -> encoders_pb2.Priority:
    if name not in PRIORITIES:
        raise InvalidInput(f"there is no priority {name!r}", remedy=f"ask for one of {', '.join(PRIORITIES)}")
    return PRIORITIES[name]


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


def features(reply: encoders_pb2.EmbedResponse, encoder: str, start: int = 0) -> list[Features]:
    """One Features a tap, in the order asked."""
    notes = {note.item: dict(note.counts) for note in reply.notes}
    failures = {f.item: status.failure(f.code, f.message, f.remedy, start + f.item) for f in reply.failures}
    timings = Timings(reply.timings.preprocess, reply.timings.queue, reply.timings.compute, reply.timings.total)
    computed = numerics(reply.numerics) if reply.HasField("numerics") else None
    return [tap_features(tap, encoder, start, notes, failures, computed, timings) for tap in reply.features]


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


def numerics(message: types_pb2.Numerics) -> Numerics:
    return Numerics(message.provider, message.precision, message.parity, message.max_abs_error)


def encoder(message: encoders_pb2.Encoder) -> EncoderInfo:
    return EncoderInfo(
        name=message.name,
        modality=name_of(types_pb2.Modality, message.modality),
        taps=tuple(tap_info(tap) for tap in message.taps),
        default_tap=message.default_tap,
        parameters=message.parameters,
        trained_on=message.trained_on,
        licence=message.licence,
        source=message.source,
        description=message.description,
        state=name_of(encoders_pb2.State, message.state),
        detail=message.detail,
        numerics=numerics(message.numerics) if message.HasField("numerics") else None,
        options=options_info(message.options),
        plugin=message.plugin,
        has_vocabulary=message.has_vocabulary,
        artifact_bytes=message.artifact_bytes,
        counters=dict(message.counters),
        devices=tuple(device_info(device) for device in message.devices),
        unused_weights=tuple(message.unused_weights),
    )


def device_info(message: encoders_pb2.Device) -> DeviceInfo:
    return DeviceInfo(
        numerics=numerics(message.numerics),
        invariance=message.invariance,
        samples_per_second=message.samples_per_second,
        taps=tuple(message.taps),
        parity=dict(message.parity),
        detail=message.detail,
    )


def options_info(messages: Iterable[encoders_pb2.Option]) -> tuple[OptionInfo, ...]:
    """A server of before there were schemas sends none."""
    return tuple(OptionInfo(o.name, o.type, o.default, o.description, json.loads(o.schema or "{}")) for o in messages)


def tap_info(message: types_pb2.Tap) -> TapInfo:
    return TapInfo(
        name=message.name,
        dim=message.dim,
        granularity=name_of(types_pb2.Granularity, message.granularity),
        grid=tuple(message.grid),
        description=message.description,
        fingerprint=message.fingerprint,
    )


def words(message: encoders_pb2.Words) -> list[Word]:
    return [Word(word.word, word.score) for word in message.words]


@lru_cache
def name_of(kind: Any, number: int) -> str:
    """The lower-case name of an enum's value without its prefix; a number that only a newer server knows stays one."""
    if number not in kind.values():
        return str(number)
    name: str = kind.Name(number)
    return name.removeprefix(_prefix(kind)).lower()


def _prefix(kind: Any) -> str:
    zero: str = kind.Name(0)
    return zero.removesuffix("UNSPECIFIED")
