"""Indexes over feature sets."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from topwork._codec import decode_indexes, messages
from topwork._ops.jobs import ended, left
from topwork._ops.progress_bar import watching
from topwork._ops.search import queries_of_index
from topwork._transport.calls import ClientState, Steps, unary
from topwork._transport.methods import CREATE_INDEX, DROP_INDEX, GET_INDEX, LIST_INDEXES, LIST_KINDS, REBUILD_INDEX
from topwork.errors import JobFailed
from topwork.indexes import IndexInfo, IndexKind
from topwork.jobs import JobProgress
from topwork.v1 import indexes_pb2


def index_kinds(session: ClientState, *, timeout: float | None = None) -> Steps[list[IndexKind]]:
    """The kinds of index that `create_index` takes, with their options."""
    reply = yield from unary(LIST_KINDS, indexes_pb2.ListKindsRequest(), timeout)
    return [decode_indexes.kind(message) for message in reply.kinds]


def create_index(
    session: ClientState,
    set: str,
    *,
    name: str = "",
    tap: str = "",
    kind: str = "auto",
    metric: str = "cosine",
    options: Mapping[str, Any] | None = None,
    target_recall: float = 0.95,
    queries: Any = None,
    encoder: str = "",
    wait: bool = True,
    progress: JobProgress = None,
    timeout: float | None = None,
) -> Steps[IndexInfo]:
    """An index over a tap of a set. It follows the set: what a write acknowledged, the next search finds.

    name           none: the tap's
    tap            none: the set's first
    kind           "auto" (by the number of rows), one of `index_kinds()`, or a FAISS factory string
    metric         "cosine", "inner_product" or "l2"
    options        of the kind
    target_recall  at 10; the search effort is chosen for it by measuring on held-out rows
    queries        such as you will ask: recall is measured, and the effort chosen, on these rather than on rows of the set. Items
                   that its encoder (or `encoder`) reads, or vectors: an array (n, dim), Features. As many as go into one message,
                   at most 1,000; a few hundred tell enough
    wait           until the build has ended; JobFailed where it failed
    progress       True for a bar on a terminal, or a function of the Job at each change
    timeout        seconds, for all of it; None is the client's for the call, and as long as it takes for the build. A build goes
                   on where its caller stopped waiting

    Where no search effort reaches `target_recall`, the result says so: `missed_target`, and `detail` in words. Raises
    AlreadyExists where the name is taken, and InvalidInput for a kind that can never be built of the set's rows.
    """
    request = indexes_pb2.CreateIndexRequest(
        set=set,
        name=name,
        tap=tap,
        kind=kind,
        metric=decode_indexes.metric(metric),
        options=messages.struct(options),
        target_recall=target_recall,
    )
    if queries is not None:
        fields = yield from queries_of_index(session, set, encoder, queries, timeout)
        request.MergeFrom(indexes_pb2.CreateIndexRequest(**fields))
    started = time.monotonic()
    begun = decode_indexes.index((yield from unary(CREATE_INDEX, request, timeout)))
    return (yield from _built(session, begun, progress, timeout, started)) if wait else begun


def rebuild_index(
    session: ClientState,
    set: str,
    name: str = "",
    *,
    wait: bool = True,
    progress: JobProgress = None,
    timeout: float | None = None,
) -> Steps[IndexInfo]:
    """Build an index again from the set as it is now; searches go on on the old one meanwhile. See `create_index`."""
    started = time.monotonic()
    reply = yield from unary(REBUILD_INDEX, indexes_pb2.RebuildIndexRequest(set=set, name=name), timeout)
    begun = decode_indexes.index(reply)
    return (yield from _built(session, begun, progress, timeout, started)) if wait else begun


def index(session: ClientState, set: str, name: str = "", *, timeout: float | None = None) -> Steps[IndexInfo]:
    """One index, as it stands now; no name: the only one, or that of the set's first tap. Raises NotFound."""
    reply = yield from unary(GET_INDEX, indexes_pb2.GetIndexRequest(set=set, name=name), timeout)
    return decode_indexes.index(reply)


def indexes(session: ClientState, set: str = "", *, timeout: float | None = None) -> Steps[list[IndexInfo]]:
    """The indexes of a set, or of all sets."""
    reply = yield from unary(LIST_INDEXES, indexes_pb2.ListIndexesRequest(set=set), timeout)
    return [decode_indexes.index(message) for message in reply.indexes]


def drop_index(session: ClientState, set: str, name: str, *, timeout: float | None = None) -> Steps[None]:
    """Delete an index; the set stays. Raises NotFound."""
    yield from unary(DROP_INDEX, indexes_pb2.DropIndexRequest(set=set, name=name), timeout)


def _built(
    session: ClientState, begun: IndexInfo, progress: JobProgress, timeout: float | None, started: float
) -> Steps[IndexInfo]:
    """The index once its build has ended. A server that ended meanwhile begins another build, which is waited for, too."""
    info, label = begun, f"{begun.set}/{begun.name}"
    with watching(progress, label) as show:
        while info.job is not None:
            job = yield from ended(session, info.job, show, left(timeout, started))
            info = yield from index(session, begun.set, begun.name, timeout=timeout)
            if job.state == "done":
                break
            if info.job is None or info.job.id == job.id:
                raise JobFailed(job)
    return info
