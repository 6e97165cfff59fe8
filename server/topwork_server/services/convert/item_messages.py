"""Protobuf <-> numpy and the frozen data of `types`, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.struct_pb2 import Struct
from topwork._codec.messages import options as options
from topwork._display.excerpts import LONGEST_MESSAGE, LONGEST_REMEDY, cut_bytes
from topwork.v1 import encoders_pb2, types_pb2

from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.features import EmbedResult, Spans, TapRows
from topwork_server.inference.output_format import OutputFormat, RowType, format_rows
from topwork_server.types import (
    Array,
    AudioItem,
    Granularity,
    ImageItem,
    Item,
    Numerics,
    Priority,
    Role,
    TextItem,
    Timings,
    VideoItem,
)

#: An array of more axes than this is a mistake: the widest that an encoder reads is (T, H, W, C) in a batch.
MAX_AXES = 8
#: numpy's name of each dtype that an array may come in, little-endian.
DTYPES: Mapping[types_pb2.DType, str] = {
    types_pb2.DTYPE_UNSPECIFIED: "<f4",
    types_pb2.DTYPE_FLOAT32: "<f4",
    types_pb2.DTYPE_FLOAT16: "<f2",
    types_pb2.DTYPE_INT8: "|i1",
    types_pb2.DTYPE_UINT8: "|u1",
    types_pb2.DTYPE_INT32: "<i4",
    types_pb2.DTYPE_INT64: "<i8",
}
ROW_TYPES: Mapping[types_pb2.DType, RowType] = {
    types_pb2.DTYPE_UNSPECIFIED: RowType.FLOAT32,
    types_pb2.DTYPE_FLOAT32: RowType.FLOAT32,
    types_pb2.DTYPE_FLOAT16: RowType.FLOAT16,
    types_pb2.DTYPE_INT8: RowType.INT8,
    types_pb2.DTYPE_BINARY: RowType.BINARY,
}
PRIORITIES: Mapping[int, Priority] = {
    encoders_pb2.PRIORITY_UNSPECIFIED: Priority.NORMAL,
    encoders_pb2.PRIORITY_LOW: Priority.LOW,
    encoders_pb2.PRIORITY_NORMAL: Priority.NORMAL,
    encoders_pb2.PRIORITY_HIGH: Priority.HIGH,
}
ROLES: Mapping[int, Role | None] = {
    encoders_pb2.ROLE_UNSPECIFIED: None,
    encoders_pb2.ROLE_QUERY: Role.QUERY,
    encoders_pb2.ROLE_DOCUMENT: Role.DOCUMENT,
}
#: Sent, and not taken.
_NUMBERS = {np.dtype(name): number for number, name in (*DTYPES.items(), (types_pb2.DTYPE_FLOAT64, "<f8")) if number}
_ROW_NUMBERS = {name: number for number, name in ROW_TYPES.items() if number}
SPAN_KINDS = {
    "chars": types_pb2.SPAN_KIND_CHARACTERS,
    "seconds": types_pb2.SPAN_KIND_SECONDS,
    "box": types_pb2.SPAN_KIND_BOX,
}


def array(tensor: types_pb2.Tensor) -> Array:
    """A read-only view of the message's own bytes; nothing is allocated for a shape that the bytes do not fill."""
    axes = tuple(tensor.shape)
    if tensor.dtype not in DTYPES:
        raise InvalidInput(f"an array cannot come as {dtype_name(tensor.dtype)}", remedy="send float32, uint8 or int64")
    if not axes or len(axes) > MAX_AXES or min(axes) < 1:
        raise InvalidInput(
            f"an array of shape {list(axes[: MAX_AXES + 1])}", remedy=f"send 1 to {MAX_AXES} axes, each of at least 1"
        )
    dtype = np.dtype(DTYPES[tensor.dtype])
    wanted = math.prod(axes) * dtype.itemsize
    if wanted != len(tensor.data):
        raise InvalidInput(
            f"an array of shape {list(axes)} and dtype {dtype.name} has {wanted} bytes, but {len(tensor.data)} came",
            remedy="send the whole array, little-endian and row-major",
        )
    return np.frombuffer(tensor.data, dtype).reshape(axes)


def tensor(values: Array) -> types_pb2.Tensor:
    """The array's bytes, little-endian and row-major, with its shape and dtype."""
    return types_pb2.Tensor(
        dtype=_NUMBERS[values.dtype.newbyteorder("<")],
        shape=values.shape,
        data=values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes(),
    )


def item(message: types_pb2.Item, upload: Path | None = None) -> Item:
    """Convert an item to what is encoded. `upload` is the file that came in chunks before the message."""
    match message.WhichOneof("content"):
        case "text":
            return TextItem(message.text)
        case "text_pair":
            return TextItem(message.text_pair.text, message.text_pair.pair)
        case "divided_text":
            ranges = message.divided_text.chunks
            return TextItem(message.divided_text.text, chunks=tuple((one.start, one.end) for one in ranges))
        case "image":
            return ImageItem(message.image)
        case "video":
            return VideoItem(message.video)
        case "audio":
            return AudioItem(message.audio)
        case "tensor":
            return array(message.tensor)
        case "chunked_video":
            return VideoItem(_uploaded(upload, "video"))
        case "chunked_audio":
            return AudioItem(_uploaded(upload, "recording"))
    raise InvalidInput("it has no content", remedy="send a text, a text pair, an image, a video, a recording or an array")


def _uploaded(upload: Path | None, what: str) -> Path:
    if upload is None:
        raise InvalidInput(f"no chunks of a {what} came before", remedy="send them in a stream, before this message")
    return upload


def items(
    messages: Sequence[types_pb2.Item], upload: Path | None, *, skip: bool
) -> tuple[list[Item], list[int], dict[int, TopworkError]]:
    """The items, their positions among the messages, and, where `skip` is set, those that are none. `upload` as in `item`."""
    found: list[Item] = []
    positions: list[int] = []
    failures: dict[int, TopworkError] = {}
    _check_takers(messages, upload)
    for position, message in enumerate(messages):
        try:
            found.append(item(message, upload))
            positions.append(position)
        except InvalidInput as error:
            if not skip:
                raise error.at(position) from None
            failures[position] = error
    return found, positions, failures


def _check_takers(messages: Sequence[types_pb2.Item], upload: Path | None) -> None:
    takers = sum(message.WhichOneof("content") in ("chunked_video", "chunked_audio") for message in messages)
    if upload and takers != 1:
        raise InvalidInput(
            f"the chunks of one file came, and {takers} items take them",
            remedy="set `chunked_video` or `chunked_audio` of one item",
        )


def item_message(value: Item | None) -> types_pb2.Item:
    """The item as it came; of None a message without content. The file of a video or a recording is read whole."""
    match value:
        case None:
            return types_pb2.Item()
        case TextItem(text, None):
            return types_pb2.Item(text=text)
        case TextItem(text, pair):
            return types_pb2.Item(text_pair=types_pb2.TextPair(text=text, pair=pair))
        case ImageItem(data):
            return types_pb2.Item(image=data)
        case VideoItem(data):
            return types_pb2.Item(video=data.read_bytes() if isinstance(data, Path) else data)
        case AudioItem(data):
            return types_pb2.Item(audio=data.read_bytes() if isinstance(data, Path) else data)
    return types_pb2.Item(tensor=tensor(value))


def struct(values: Mapping[str, Any]) -> Struct:
    """Plain Python as a message, the inverse of `options`; sequences become lists."""
    message = Struct()
    message.update({name: _structured(value) for name, value in values.items()})
    return message


def _structured(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _structured(one) for key, one in value.items()}
    return [_structured(one) for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def float_rows(message: types_pb2.Tensor, what: str) -> Array:
    """Vectors, float32 or float16. InvalidInput for another dtype."""
    if message.dtype not in (types_pb2.DTYPE_UNSPECIFIED, types_pb2.DTYPE_FLOAT32, types_pb2.DTYPE_FLOAT16):
        raise InvalidInput(f"{what} come as float32 or float16", remedy="send one of these")
    return array(message)


def priority(number: int) -> Priority:
    """Convert a priority; one that this server does not know is a wrong request, not a NORMAL one."""
    if number not in PRIORITIES:
        raise InvalidInput(f"there is no priority {number}", remedy="ask for LOW, NORMAL or HIGH")
    return PRIORITIES[number]


def role(number: int) -> Role | None:
    """Convert a role; one that this server does not know is a wrong request."""
    if number not in ROLES:
        raise InvalidInput(f"there is no role {number}", remedy="ask for QUERY or DOCUMENT")
    return ROLES[number]


def output_format(settings: encoders_pb2.EmbedSettings) -> OutputFormat:
    """The format of the rows of a reply."""
    if settings.dtype not in ROW_TYPES:
        raise InvalidInput(
            f"features do not come as {dtype_name(settings.dtype)}", remedy="ask for FLOAT32, FLOAT16, INT8 or BINARY"
        )
    return OutputFormat(ROW_TYPES[settings.dtype], settings.normalize, settings.dimensions)


def response(features: EmbedResult, format: OutputFormat, total: float) -> encoders_pb2.EmbedResponse:
    """The whole reply; `total` is the request's time in seconds."""
    return encoders_pb2.EmbedResponse(
        features=[tap_features(tap, format) for tap in features.taps],
        notes=notes(features.notes),
        failures=[failure(i, error) for i, error in sorted(features.failures.items())],
        numerics=numerics(features.numerics),
        timings=timings(features.timings, total),
    )


def notes(found: Mapping[int, Mapping[str, int]]) -> list[encoders_pb2.Note]:
    """Convert the notes by item, in order; only those that say something."""
    return [encoders_pb2.Note(item=i, counts=dict(counts)) for i, counts in sorted(found.items()) if counts]


def timings(measured: Timings, total: float) -> encoders_pb2.Timings:
    """Convert the timings; `total` is the request's time in seconds."""
    return encoders_pb2.Timings(preprocess=measured.preprocess, queue=measured.queue, compute=measured.compute, total=total)


def tap_features(tap: TapRows, format: OutputFormat) -> types_pb2.TapFeatures:
    """Rows of one tap, in that format."""
    packed = format_rows(tap.rows, format)
    return types_pb2.TapFeatures(
        tap=tap.tap.tap.name,
        fingerprint=tap.tap.fingerprint,
        granularity=granularity(tap.tap.tap.granularity),
        rows=types_pb2.Tensor(
            dtype=_ROW_NUMBERS[packed.dtype], shape=(len(packed.values), packed.dim), data=packed.values.tobytes()
        ),
        scales=None if packed.scales is None else tensor(packed.scales),
        counts=np.asarray(tap.counts).tolist(),
        spans=None if tap.spans is None else spans(tap.spans),
    )


def spans(spans: Spans) -> types_pb2.Spans:
    return types_pb2.Spans(
        kind=SPAN_KINDS[spans.kind],
        values=tensor(spans.values.astype(np.float32)),
        parts=None if spans.parts is None else tensor(spans.parts.astype(np.int32)),
    )


def failure(position: int, error: TopworkError) -> encoders_pb2.Failure:
    """Convert what was wrong with the item at that position of the message."""
    code: int = error.code.value[0]
    message, remedy = cut_bytes(error.message, LONGEST_MESSAGE), cut_bytes(error.remedy, LONGEST_REMEDY)
    return encoders_pb2.Failure(item=position, code=code, message=message, remedy=remedy)


def numerics(record: Numerics) -> types_pb2.Numerics:
    return types_pb2.Numerics(
        provider=record.provider,
        precision=record.precision,
        parity=record.parity,
        max_abs_error=record.max_abs_error,
    )


def granularity(value: Granularity) -> str:
    return f"GRANULARITY_{value.name}"


def dtype_name(number: int) -> str:
    """FLOAT32 of DTYPE_FLOAT32, for messages."""
    known = number in types_pb2.DType.values()
    return types_pb2.DType.Name(types_pb2.DType.ValueType(number)).removeprefix("DTYPE_") if known else f"dtype {number}"
