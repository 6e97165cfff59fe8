"""Messages of feature sets <-> the data of `sets`, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.struct_pb2 import Struct
from topwork.v1 import sets_pb2, types_pb2

from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.set_types import Column, ColumnType, ItemBatch, ReadResult, Selection, SetDescription
from topwork_server.feature_sets.versions import Pin, SetVersion
from topwork_server.features import Spans, TapRows
from topwork_server.inference.output_format import OutputFormat, RowType
from topwork_server.ingest.pipeline import IngestOutcome
from topwork_server.ingest.validation import WriteSettings
from topwork_server.services.convert import encoder_messages, item_messages
from topwork_server.services.request_checks import check_set_name
from topwork_server.types import Array, FingerprintedTap, Granularity, Numerics, Tap

if TYPE_CHECKING:
    from topwork_server.feature_sets.feature_set import FeatureSet

#: More than any set has; what lies beyond is nothing, in numbers that every library counts in.
MOST_ROWS = 1 << 60
STORED_DTYPES: Mapping[int, str] = {
    types_pb2.DTYPE_UNSPECIFIED: "",
    types_pb2.DTYPE_FLOAT32: "float32",
    types_pb2.DTYPE_FLOAT16: "float16",
}
#: The list of a Column that has the values of each type.
_LISTS = {
    ColumnType.BOOL: "bools",
    ColumnType.INT: "ints",
    ColumnType.FLOAT: "floats",
    ColumnType.STRING: "strings",
    ColumnType.TIME: "ints",
    ColumnType.STRINGS: "lists",
}
_TYPES = {sets_pb2.ColumnType.Value(f"COLUMN_TYPE_{type.name}"): type for type in ColumnType}
#: What stands in a list where a value is missing.
_NOTHING: Mapping[str, Any] = {"bools": False, "ints": 0, "floats": 0.0, "strings": "", "lists": sets_pb2.Strings()}
_GRANULARITIES = {
    types_pb2.GRANULARITY_UNSPECIFIED: Granularity.ITEM,
    **{types_pb2.Granularity.Value(f"GRANULARITY_{g.name}"): g for g in Granularity},
}
_SPAN_KINDS = {number: name for name, number in item_messages.SPAN_KINDS.items()}


def settings(message: sets_pb2.WriteSettings) -> WriteSettings:
    if message.dtype not in STORED_DTYPES:
        raise InvalidInput(
            f"features are not stored as {item_messages.dtype_name(message.dtype)}", remedy="ask for FLOAT32 or FLOAT16"
        )
    return WriteSettings(
        set=check_set_name(message.set),
        encoder=message.encoder,
        taps=tuple(message.taps),
        options=item_messages.options(message.options),
        dtype=STORED_DTYPES[message.dtype],
        keep_inputs=message.keep_inputs,
        skip_bad_items=message.skip_bad_items,
        priority=item_messages.priority(message.priority),
    )


def columns(messages: Sequence[sets_pb2.Column], count: int) -> tuple[Column, ...]:
    """Convert the columns. InvalidInput where a column does not have `count` values of its type."""
    return tuple(_column(message, count) for message in messages)


def column_change(request: sets_pb2.ChangeColumnRequest) -> Callable[[FeatureSet], None]:
    """The change that is asked for, of a set. InvalidInput where none is."""
    column = request.column
    match request.WhichOneof("change"):
        case "add":
            type = _column_type(column, request.add)
            return lambda feature_set: feature_set.add_column(column, type)
        case "rename":
            return lambda feature_set: feature_set.rename_column(column, request.rename)
        case "cast":
            type = _column_type(column, request.cast)
            return lambda feature_set: feature_set.cast_column(column, type)
        case "drop":
            return lambda feature_set: feature_set.drop_column(column)
    raise InvalidInput(f"no change of the column {column[:100]!r} is named", remedy="add, rename, cast or drop it")


def _column_type(name: str, type: int) -> ColumnType:
    if type not in _TYPES:
        raise InvalidInput(f"the column {name[:100]!r} has no type", remedy="say which of COLUMN_TYPE_... it is")
    return _TYPES[type]


def _column(message: sets_pb2.Column, count: int) -> Column:
    type = _column_type(message.name, message.type)
    values: list[Any] = list(getattr(message, _LISTS[type]))
    if len(values) != count:
        raise InvalidInput(
            f"the column {message.name!r} has {len(values)} values in `{_LISTS[type]}`, and there are {count} items",
            remedy="send a value for each item, and say in `nulls` which of them mean nothing",
        )
    if type is ColumnType.STRINGS:
        values = [list(value.values) for value in values]
    for position in message.nulls:
        if position >= count:
            raise InvalidInput(
                f"the column {message.name!r} misses its value {position}, and there are {count} items",
                remedy="count positions from 0",
            )
        values[position] = None
    return Column(message.name, type, values)


def column_message(column: Column) -> sets_pb2.Column:
    missing = [i for i, value in enumerate(column.values) if value is None]
    field = _LISTS[column.type]
    nothing = _NOTHING[field]
    values = [nothing if value is None else value for value in column.values] if missing else column.values
    if column.type is ColumnType.STRINGS:
        values = [value if isinstance(value, sets_pb2.Strings) else sets_pb2.Strings(values=value) for value in values]
    message = sets_pb2.Column(name=column.name, type=f"COLUMN_TYPE_{column.type.name}", nulls=missing)
    getattr(message, field).extend(values)
    return message


def features(messages: Sequence[types_pb2.TapFeatures], count: int) -> tuple[TapRows, ...]:
    """Ready features of `count` items. InvalidInput where shape, dtype, counts or spans do not fit each other."""
    return tuple(_tap_rows(message, count) for message in messages)


def _tap_rows(message: types_pb2.TapFeatures, count: int) -> TapRows:
    name = message.tap or "no name"
    rows = (
        item_messages.array(message.rows) if message.rows.data or sum(message.counts) else np.zeros(_empty(message), np.float32)
    )
    if rows.ndim != 2 or rows.dtype not in (np.float32, np.float16):
        raise InvalidInput(
            f"rows of the tap {name} are {rows.dtype.name} of shape {list(rows.shape)}",
            remedy="send float32 or float16 of shape (rows, dim)",
        )
    if message.granularity not in _GRANULARITIES:
        raise InvalidInput(
            f"the tap {name} has the granularity {message.granularity}", remedy="send ITEM, TOKEN, CHUNK, WINDOW or CELL"
        )
    tap = Tap(message.tap, rows.shape[1], _GRANULARITIES[message.granularity])
    counts = _counts(message, tap, len(rows), count)
    return TapRows(
        FingerprintedTap(tap, message.fingerprint), rows.astype(np.float32, copy=False), counts, _spans(message, len(rows))
    )


def _empty(message: types_pb2.TapFeatures) -> tuple[int, ...]:
    """The shape of no rows, which `convert.array` refuses."""
    return 0, int(message.rows.shape[1]) if len(message.rows.shape) == 2 else 0


def _counts(message: types_pb2.TapFeatures, tap: Tap, rows: int, items: int) -> Array:
    one_each = tap.granularity is Granularity.ITEM
    counts = np.asarray(message.counts, np.int64) if message.counts or not one_each else np.ones(rows, np.int64)
    if len(counts) != items or counts.sum() != rows or (one_each and (counts != 1).any()):
        wanted = "one row an item" if one_each else "a count for each item, and as many rows as they come to"
        raise InvalidInput(
            f"{rows} rows with {len(counts)} counts that come to {counts.sum()} came for {items} ids, in the tap {tap.name}",
            remedy=f"send {wanted}",
        )
    return counts


def _spans(message: types_pb2.TapFeatures, rows: int) -> Spans | None:
    if not message.HasField("spans"):
        return None
    spans = message.spans
    if spans.kind not in _SPAN_KINDS:
        raise InvalidInput(f"spans of the tap {message.tap} have no kind", remedy="say which of SPAN_KIND_... they are")
    kind, width = _SPAN_KINDS[spans.kind], 4 if spans.kind == types_pb2.SPAN_KIND_BOX else 2
    if not rows:
        return Spans(kind, np.zeros((0, width), np.float32), np.zeros(0, np.int32) if kind == "chars" else None)
    values = item_messages.array(spans.values)
    parts = item_messages.array(spans.parts) if spans.HasField("parts") else None
    if values.shape != (rows, width) or (parts is not None and parts.shape != (rows,)):
        raise InvalidInput(
            f"spans of shape {list(values.shape)} came for {rows} rows of the tap {message.tap}",
            remedy=f"send float32 of shape ({rows}, {width}), and parts of shape ({rows},)",
        )
    return Spans(kind, values.astype(np.float32, copy=False), None if parts is None else parts.astype(np.int32, copy=False))


def numerics(message: sets_pb2.WriteRows) -> Numerics | None:
    if not message.HasField("numerics"):
        return None
    given = message.numerics
    return Numerics(given.provider, given.precision, given.parity, given.max_abs_error)


def write_response(outcome: IngestOutcome, watermark: int) -> sets_pb2.WriteResponse:
    written = outcome.written
    return sets_pb2.WriteResponse(
        watermark=watermark,
        version=written.version,
        inserted=written.inserted,
        updated=written.updated,
        unchanged=written.unchanged,
        encoded=outcome.encoded,
        failures=[item_messages.failure(i, error) for i, error in sorted(outcome.failures.items())],
    )


def feature_set(description: SetDescription, indexes: Sequence[str]) -> sets_pb2.FeatureSet:
    wanted = description.definition
    options = Struct()
    options.update(dict(wanted.options))
    return sets_pb2.FeatureSet(
        name=wanted.name,
        encoder=wanted.encoder,
        options=options,
        modality=next((f"MODALITY_{modality.name}" for modality in wanted.modalities), None),
        modalities=[f"MODALITY_{modality.name}" for modality in wanted.modalities],
        taps=[
            sets_pb2.SetTap(tap=encoder_messages.tap(info.tap, info.fingerprint), column=description.tap_columns[info.tap.name])
            for info in wanted.taps
        ],
        dtype=f"DTYPE_{wanted.dtype.upper()}",
        keeps_inputs=wanted.keep_inputs,
        columns=[sets_pb2.ColumnInfo(name=name, type=f"COLUMN_TYPE_{type.name}") for name, type in description.columns.items()],
        items=description.items,
        version=description.version,
        bytes=description.bytes,
        created=description.created,
        numerics=[item_messages.numerics(record) for record in description.numerics],
        path=description.path,
        indexes=indexes,
        damage=description.damage,
    )


def selection(request: sets_pb2.ReadRequest) -> Selection:
    return Selection(
        version=request.version,
        taps=None if request.all_taps else tuple(request.taps),
        columns=None if request.all_columns else tuple(request.columns),
        inputs=request.inputs,
        where=request.where,
        ids=tuple(request.ids) or None,
        offset=min(request.offset, MOST_ROWS),
        limit=min(request.limit, MOST_ROWS),
    )


def read_response(block: ItemBatch, reading: ReadResult) -> sets_pb2.ReadResponse:
    return sets_pb2.ReadResponse(
        ids=block.ids,
        features=[item_messages.tap_features(tap, OutputFormat(RowType.FLOAT32)) for tap in block.taps],
        metadata=[column_message(column) for column in block.metadata],
        inputs=[item_messages.item_message(item) for item in block.inputs],
        version=reading.version,
        total=reading.total,
    )


def version(info: SetVersion) -> sets_pb2.Version:
    return sets_pb2.Version(version=info.version, created=info.time, pins=info.pins)


def versions(found: Sequence[SetVersion], damaged: Sequence[Pin]) -> sets_pb2.ListVersionsResponse:
    response = sets_pb2.ListVersionsResponse(versions=[version(info) for info in found])
    for pin in damaged:
        if pin.damage:
            response.damaged_pins.add(pin=pin.name, version=pin.version, damage=pin.damage.message, remedy=pin.damage.remedy)
    return response
