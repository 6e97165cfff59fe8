"""Messages of feature sets and of jobs -> the dataclasses of this package, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

from topwork._codec import messages, metadata
from topwork._transport.wording import in_calls
from topwork.encoders import TapInfo
from topwork.features import Numerics
from topwork.jobs import Job
from topwork.rows import RawInput, Rows
from topwork.sets import SetInfo, VersionInfo
from topwork.v1 import jobs_pb2, sets_pb2, types_pb2


def feature_set(message: sets_pb2.FeatureSet) -> SetInfo:
    return messages.of_message(
        SetInfo,
        message,
        taps=tuple(messages.of_message(TapInfo, entry.tap) for entry in message.taps),
        tap_columns={entry.tap.name: entry.column for entry in message.taps},
        dtype=messages.name_of(types_pb2.DType, message.dtype or types_pb2.DTYPE_FLOAT32),
        columns={column.name: metadata.type_name(column.type) for column in message.columns},
        created=moment(message.created),
        numerics=tuple(messages.of_message(Numerics, record) for record in message.numerics),
        modalities=messages.names_of(types_pb2.Modality, message.modalities),
    )


def version(message: sets_pb2.Version) -> VersionInfo:
    return VersionInfo(message.version, moment(message.created), tuple(message.pins))


def versions(reply: sets_pb2.ListVersionsResponse) -> list[VersionInfo]:
    damaged = [(pin.version, pin.pin) for pin in reply.damaged_pins]
    return [
        replace(version(message), damaged_pins=tuple(pin for number, pin in damaged if number == message.version))
        for message in reply.versions
    ]


def rows(reply: sets_pb2.ReadResponse, encoder: str, computed: Numerics | None, with_inputs: bool) -> Rows:
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
    """The item as it was written, or None where it was not kept."""
    match item.WhichOneof("content"):
        case "text":
            return item.text
        case "text_pair":
            return item.text_pair.text, item.text_pair.pair
        case "image":
            return item.image
        case "video":
            return item.video
        case "audio":
            return item.audio
        case "tensor":
            return messages.array(item.tensor)
    return None


def job(message: jobs_pb2.Job) -> Job:
    return messages.of_message(
        Job,
        message,
        error=in_calls(message.error),
        created=moment(message.created),
        ended=moment(message.ended) if message.ended else None,
        seconds_left=message.seconds_left or None,
        result=json.loads(message.result) if message.result else {},
    )


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
