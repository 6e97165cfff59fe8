"""Messages of indexes and searches -> the dataclasses of this package, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from topwork._codec import decode_sets, messages, metadata
from topwork.errors import InvalidInput
from topwork.features import Array, Timings
from topwork.indexes import IndexInfo, IndexKind, LiveRecall, OperatingPoint
from topwork.search_results import Hits
from topwork.v1 import indexes_pb2

METRICS = {
    "cosine": indexes_pb2.METRIC_COSINE,
    "inner_product": indexes_pb2.METRIC_INNER_PRODUCT,
    "l2": indexes_pb2.METRIC_L2,
}


def metric(name: str) -> indexes_pb2.Metric:
    if name not in METRICS:
        raise InvalidInput(f"no metric {name!r}", remedy=f"ask for one of {', '.join(METRICS)}")
    return METRICS[name]


def metric_name(number: int) -> str:
    return messages.name_of(indexes_pb2.Metric, number or indexes_pb2.METRIC_COSINE)


def kind(message: indexes_pb2.IndexKind) -> IndexKind:
    return messages.of_message(IndexKind, message, options=messages.options_info(message.options))


def index(message: indexes_pb2.Index) -> IndexInfo:
    return messages.of_message(
        IndexInfo,
        message,
        metric=metric_name(message.metric),
        missed_target=message.held_out > 0 and message.recall < message.target_recall,
        operating_points=tuple(messages.of_message(OperatingPoint, point) for point in message.operating_points),
        job=decode_sets.job(message.job) if message.HasField("job") else None,
        live_recall=tuple(messages.of_message(LiveRecall, one) for one in message.live_recall),
    )


def hits(reply: indexes_pb2.SearchResponse, inputs: Callable[[Sequence[str]], Mapping[str, Any]] | None = None) -> Iterator[Hits]:
    """One Hits a query."""
    ids, scores = list(reply.ids), messages.array(reply.scores)
    rows = messages.array(reply.rows).astype(np.int64) if reply.HasField("rows") else None
    spans = messages.array(reply.spans.values) if reply.HasField("spans") else None
    parts = messages.array(reply.spans.parts) if reply.spans.HasField("parts") else None
    vectors = messages.array(reply.vectors.rows) if reply.HasField("vectors") else None
    columns = {column.name: metadata.unpack(column)[1] for column in reply.metadata}
    span_kind = messages.SPAN_KINDS.get(reply.spans.kind) if reply.HasField("spans") else None
    metric, version, strategy, seconds = metric_name(reply.metric), reply.version, reply.strategy, reply.search_seconds
    timings = messages.of_message(Timings, reply.timings)
    for start, end in pairwise(accumulate(reply.counts, initial=0)):
        yield Hits(
            ids=ids[start:end],
            scores=scores[start:end],
            metadata={name: values[start:end] for name, values in columns.items()},
            rows=_cut(rows, start, end),
            spans=_cut(spans, start, end),
            span_kind=span_kind,
            parts=_cut(parts, start, end),
            vectors=_cut(vectors, start, end),
            metric=metric,
            version=version,
            strategy=strategy,
            seconds=seconds,
            timings=timings,
            unindexed=reply.unindexed,
            rows_compared=reply.rows_compared,
            _inputs=inputs,
        )


def _cut(values: Array | None, start: int, end: int) -> Array | None:
    return None if values is None else values[start:end]
