"""Messages of feature sets and of jobs -> the dataclasses of this package, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from topwork._codec import messages
from topwork.features import Numerics
from topwork.jobs import Job
from topwork.rows import RawInput, Rows
from topwork.sets import SetInfo, VersionInfo
from topwork.v1 import jobs_pb2, sets_pb2, types_pb2


def feature_set(message: sets_pb2.FeatureSet) -> SetInfo:
    from topwork._codec import metadata

    return SetInfo(
        name=message.name,
        encoder=message.encoder,
        options=options(message.options),
        modality=messages.name_of(types_pb2.Modality, message.modality),
        taps=tuple(messages.tap_info(entry.tap) for entry in message.taps),
        tap_columns={entry.tap.name: entry.column for entry in message.taps},
        dtype=messages.name_of(types_pb2.DType, message.dtype or types_pb2.DTYPE_FLOAT32),
        keeps_inputs=message.keeps_inputs,
        columns={column.name: metadata.type_name(column.type) for column in message.columns},
        items=message.items,
        version=message.version,
        bytes=message.bytes,
        created=moment(message.created),
        numerics=tuple(messages.numerics(record) for record in message.numerics),
        path=message.path,
        indexes=tuple(message.indexes),
        damage=message.damage,
    )


def version(message: sets_pb2.Version) -> VersionInfo:
    return VersionInfo(message.version, moment(message.time), tuple(message.pins))


def versions(reply: sets_pb2.ListVersionsResponse) -> list[VersionInfo]:
    damaged = [(pin.version, pin.pin) for pin in reply.damaged_pins]
    return [
        replace(version(message), damaged_pins=tuple(pin for number, pin in damaged if number == message.version))
        for message in reply.versions
    ]


def rows(reply: sets_pb2.ReadResponse, encoder: str, computed: Numerics | None, with_inputs: bool) -> Rows:
    from topwork._codec import metadata

    columns = {column.name: metadata.unpack(column) for column in reply.metadata}
    return Rows(
        ids=list(reply.ids),
        features={tap.tap: messages.tap_features(tap, encoder, computed=computed) for tap in reply.features},
        metadata={name: values for name, (_, values) in columns.items()},
        inputs=([raw(item) for item in reply.inputs] or [None] * len(reply.ids)) if with_inputs else None,
        version=reply.version,
        total=reply.total,
        column_types={name: kind for name, (kind, _) in columns.items()},
    )


def raw(item: types_pb2.Item) -> RawInput | None:
    """What was written, or None where nothing was kept."""
    match item.WhichOneof("content"):
        case "text":
            return item.text
        case "text_pair":
            return item.text_pair.text, item.text_pair.pair
        case "image":
            return item.image
        case "video":
            return item.video
        case "tensor":
            return messages.array(item.tensor)
    return None


def job(message: jobs_pb2.Job) -> Job:
    return Job(
        id=message.id,
        kind=message.kind,
        subject=message.subject,
        state=messages.name_of(jobs_pb2.JobState, message.state),
        fraction=message.fraction,
        message=message.message,
        created=moment(message.created),
        ended=moment(message.ended) if message.ended else None,
        seconds_left=message.seconds_left or None,
        error=message.error,
        result=json.loads(message.result) if message.result else {},
    )


def options(struct: Struct) -> dict[str, Any]:
    """Plain Python. A Struct knows only doubles: a whole number becomes an int."""
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            return int(value.number_value) if value.number_value.is_integer() else value.number_value
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "list_value":
            return [_plain(entry) for entry in value.list_value.values]
        case "struct_value":
            return options(value.struct_value)
    return None


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
