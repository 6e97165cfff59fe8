"""Converts between messages and the data of indexes and searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from topwork.v1 import indexes_pb2, types_pb2

from topwork_server.errors import InvalidInput
from topwork_server.indexes.index_types import (
    CreateIndexParams,
    DamagedIndex,
    IndexDefinition,
    IndexDescription,
    IndexState,
    LiveRecallFigure,
    MeasuredEffort,
)
from topwork_server.inference.output_format import OutputFormat
from topwork_server.jobs.job_records import JobRecord
from topwork_server.plugin_api.plugin_registry import RegisteredIndex
from topwork_server.plugin_api.vector_index import Metric
from topwork_server.services.convert import encoder_messages, item_messages, set_messages
from topwork_server.services.jobs import job_message
from topwork_server.services.request_checks import check_set_name
from topwork_server.services.search_reply import SearchReply
from topwork_server.types import Array, Granularity

METRICS: Mapping[int, Metric] = {
    indexes_pb2.METRIC_UNSPECIFIED: Metric.COSINE,
    indexes_pb2.METRIC_COSINE: Metric.COSINE,
    indexes_pb2.METRIC_INNER_PRODUCT: Metric.INNER_PRODUCT,
    indexes_pb2.METRIC_L2: Metric.L2,
}
STATES = {
    IndexState.BUILDING: indexes_pb2.INDEX_STATE_BUILDING,
    IndexState.READY: indexes_pb2.INDEX_STATE_READY,
    IndexState.REBUILDING: indexes_pb2.INDEX_STATE_REBUILDING,
    IndexState.FAILED: indexes_pb2.INDEX_STATE_FAILED,
}


def metric(number: int) -> Metric:
    if number not in METRICS:
        raise InvalidInput(f"metric {number} is not known", remedy="ask for COSINE, INNER_PRODUCT or L2")
    return METRICS[number]


def create_index_params(request: indexes_pb2.CreateIndexRequest) -> CreateIndexParams:
    return CreateIndexParams(
        set=check_set_name(request.set),
        name=request.name,
        tap=request.tap,
        kind=request.kind,
        metric=metric(request.metric),
        options=item_messages.options(request.options),
        target_recall=request.target_recall,
    )


def search_for_queries(request: indexes_pb2.CreateIndexRequest) -> indexes_pb2.SearchRequest:
    """A search for the queries that came with CreateIndex."""
    search = indexes_pb2.SearchRequest(set=request.set, encoder=request.encoder, fingerprint=request.fingerprint, k=1)
    if kind := request.WhichOneof("queries"):
        getattr(search, kind).CopyFrom(getattr(request, kind))
    return search


def vectors(message: types_pb2.Tensor, dim: int) -> Array:
    """Read (n, dim) float32. InvalidInput for another shape or dtype, and (of the vector's position) numbers that are not
    finite."""
    values = item_messages.float_rows(message, "query vectors")
    if values.ndim != 2 or values.shape[1] != dim:
        raise InvalidInput(
            f"query vectors of shape {list(values.shape)}", remedy=f"the set's rows have {dim} numbers: send (n, {dim})"
        )
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise InvalidInput("the vector has numbers that are not finite", remedy="send finite ones", item=int(np.argmin(finite)))
    return np.asarray(values, np.float32)


def kind(registered: RegisteredIndex) -> indexes_pb2.IndexKind:
    spec = registered.spec
    return indexes_pb2.IndexKind(
        kind=spec.kind,
        description=spec.description,
        options=encoder_messages.options(spec.index.options),
        plugin=registered.owner,
    )


def index(described: IndexDescription, job: JobRecord | None, live_recall: Sequence[LiveRecallFigure] = ()) -> indexes_pb2.Index:
    definition, facts = described.definition, described.facts
    message = indexes_pb2.Index(
        set=definition.set,
        name=definition.name,
        tap=definition.tap.tap.name,
        fingerprint=definition.tap.fingerprint,
        kind=definition.kind,
        metric=f"METRIC_{definition.metric.name}",
        dim=definition.tap.tap.dim,
        state=STATES[described.state],
        detail=described.detail,
        version=described.version,
        rows=described.alive_rows,
        delta_rows=described.fresh_rows,
        deleted_rows=described.dead_rows,
        target_recall=definition.target_recall,
        memory_bytes=described.memory,
        job=job_message(job) if job else None,
        options=item_messages.struct(definition.options),
        live_recall=[indexes_pb2.LiveRecall(**asdict(figure)) for figure in live_recall],
    )
    if facts:
        message.built, message.recall, message.effort = facts.built, facts.recall, facts.effort
        message.operating_points.extend(map(_operating, facts.operating))
        message.own_queries = facts.own_queries
        message.held_out, message.build_seconds, message.disk_bytes = facts.held_out, facts.seconds, facts.bytes
    return message


def damaged(index: DamagedIndex) -> indexes_pb2.Index:
    """Convert what is known of a damaged index."""
    detail = f"{index.damage}; drop it, and create it again"
    return indexes_pb2.Index(set=index.set, name=index.name, state=STATES[IndexState.FAILED], detail=detail, damage=index.damage)


def response(reply: SearchReply, definition: IndexDefinition, *, with_vectors: bool) -> indexes_pb2.SearchResponse:
    hits, rows = reply.hits, reply.rows
    message = indexes_pb2.SearchResponse(
        counts=hits.counts.tolist(),
        ids=reply.ids,
        scores=item_messages.tensor(hits.scores),
        rows=item_messages.tensor(hits.rows) if definition.tap.tap.granularity is not Granularity.ITEM else None,
        metadata=[set_messages.column_message(column) for column in reply.metadata],
        metric=f"METRIC_{definition.metric.name}",
        version=hits.version,
        strategy=hits.how,
    )
    if rows is not None and rows.spans is not None:
        message.spans.CopyFrom(item_messages.spans(rows.spans))
    if rows is not None and with_vectors:
        message.vectors.CopyFrom(item_messages.tap_features(rows, OutputFormat()))
    return message


def _operating(point: MeasuredEffort) -> indexes_pb2.OperatingPoint:
    return indexes_pb2.OperatingPoint(effort=point.effort, recall=point.recall, qps=point.qps)
