"""Searches: queries of any kind become messages, and the replies `Hits`."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from topwork._codec import decode_indexes, items, messages
from topwork._codec.items import Items
from topwork._ops import item_requests, ready_vectors
from topwork._ops.embed import known_encoder
from topwork._ops.item_labels import texts
from topwork._ops.item_requests import Chunk, MessageSizes
from topwork._ops.sets import set as asked_set
from topwork._transport.calls import ClientState, Steps, unary, work
from topwork._transport.methods import SEARCH
from topwork.errors import InvalidInput, TooLarge, TopworkError
from topwork.features import Features
from topwork.search_results import Hits
from topwork.v1 import encoders_pb2, sets_pb2
from topwork.v1.indexes_pb2 import SearchRequest


def search(
    session: ClientState,
    set: str,
    query: Items | None = None,
    *,
    vectors: Any = None,
    stored: str | int | Iterable[str | int] | None = None,
    k: int = 10,
    index: str = "",
    encoder: str = "",
    fingerprint: str | None = None,
    within: float | None = None,
    where: str = "",
    every_row: bool = False,
    columns: Sequence[str] | None = None,
    with_vectors: bool = False,
    exact: bool = False,
    effort: int = 0,
    offset: int = 0,
    metric: str = "",
    timeout: float | None = None,
) -> Steps[Hits | list[Hits]]:
    """The items of a set that are nearest to a query: Hits for a lone query, a list of Hits for several.

    query        what the set's encoder reads: a text, a path, a picture ...; or several of them. Features, and arrays of
                 floats of shape (dim,) or (n, dim), are taken as vectors
    vectors      or vectors: (dim,) is one query, (n, dim) are n; or Features (each row is a query; they say their fingerprint)
    stored       or ids of the set: their own items are not among their hits
    k            hits of each query at the most, up to 10,000
    index        its name; none: the only one, or that of the set's first tap
    encoder      of the query, where it is another than the set's: refused (NotReady) where its fingerprint is another
    fingerprint  of the vectors, where it is known: refused where the set's is another
    within       range search: only hits with at least this score or, of "l2", at most this distance
    where        SQL over `id` and the metadata; hits are exact about it, at any selectivity
    every_row    rows instead of items: several rows of one item may be hits
    columns      metadata to bring along; None is all, and an empty list none (faster)
    with_vectors the hits' own rows, too
    exact        compare with every row
    effort       instead of the index's own (nprobe, efSearch); larger is slower and finds more
    offset       leave out so many of the best hits of each query: the next page
    metric       "cosine", "inner_product" or "l2", of a set without an index; with one it is the index's

    A set without an index is searched all the same: every row is read and compared (`Hits.unindexed`), which takes about a
    second for each gigabyte of vectors.
    """
    settings = SearchRequest(
        set=set,
        index=index,
        encoder=encoder,
        fingerprint=fingerprint,
        k=k,
        within=within,
        where=where,
        every_row=every_row,
        columns=columns or (),
        all_columns=columns is None,
        with_vectors=with_vectors,
        exact=exact,
        effort=effort,
        offset=offset,
        metric=decode_indexes.metric(metric) if metric else None,
    )
    return (yield from _found(session, settings, query, vectors, stored, timeout))


#: What one message may ask for: queries, and hits of all its queries by what comes with them.
OWN = 1000
QUERIES, HITS, HITS_WITH_METADATA, HITS_WITH_VECTORS = 1024, 200_000, 50_000, 8_000


@dataclass(frozen=True)
class SearchBatch:
    """Some of the queries: the field of the request that they fill, and the position of the first."""

    start: int
    query: dict[str, Any]


def _found(
    session: ClientState, settings: SearchRequest, query: Any, vectors: Any, stored: Any, timeout: float | None
) -> Steps[Hits | list[Hits]]:
    """Hits for a lone query, a list of them for several."""
    if sum(given is not None for given in (query, vectors, stored)) != 1:
        raise InvalidInput("a search is for one kind of query", remedy="pass query, vectors= or stored=, one of them")
    if isinstance(query, AsyncIterable):
        query = session.blocking(query)
    if _is_vectors(query):
        query, vectors = None, query
    if isinstance(vectors, Features) and not settings.fingerprint:
        settings.fingerprint = vectors.fingerprint
    if query is not None:
        modality = yield from _modality(session, settings.set, settings.encoder, timeout)
        lone = items.is_lone(query, modality)
        parts, files = _of_items(query, modality, _most(settings)), not (lone and modality == "text")
    elif vectors is not None:
        lone, parts, files = *_of_vectors(vectors, _most(settings)), False
    else:
        lone, parts, files = isinstance(stored, str | int), _of_stored(stored, _most(settings)), False
    hits = yield from _each(session, settings, parts, files, timeout)
    return hits[0] if lone else hits


def queries_of_index(session: ClientState, set: str, encoder: str, queries: Any, timeout: float | None) -> Steps[dict[str, Any]]:
    """Fields of a CreateIndexRequest: the caller's own queries, as many as go into one message and 1,000 at most."""
    fields: dict[str, Any] = {"encoder": encoder}
    if isinstance(queries, Features):
        fields["fingerprint"] = queries.fingerprint
    elif isinstance(queries, AsyncIterable):
        queries = session.blocking(queries)
    if (
        isinstance(queries, Features)
        or getattr(queries, "ndim", 0) == 2
        or not (encoder or (yield from asked_set(session, set, timeout=timeout)).encoder)
    ):
        parts = _of_vectors(queries, OWN)[1]
    else:
        parts = _of_items(queries, (yield from _modality(session, set, encoder, timeout)), OWN)
    part = yield from work(lambda: next(parts, None))
    if part is None:
        raise InvalidInput("an index is given no queries", remedy="pass some, or leave queries out")
    return fields | part.query


def _each(
    session: ClientState, settings: SearchRequest, parts: Iterator[SearchBatch], files: bool, timeout: float | None
) -> Steps[list[Hits]]:
    """Search all parts, one after another; `files`: a part may take a while to come."""
    found: list[Hits] = []
    try:
        while part := ((yield from work(lambda: next(parts, None))) if files else next(parts, None)):
            request = SearchRequest(**part.query)
            request.MergeFrom(settings)
            reply = yield from unary(SEARCH, request, timeout, part.start)
            found += decode_indexes.hits(reply, partial(session.inputs, settings.set) if session.inputs else None)
    except TopworkError:
        session.sets.pop(settings.set, None)  # what is known of it may be why
        raise
    return found


def _most(settings: SearchRequest) -> int:
    """Queries in one message."""
    metadata = settings.all_columns or bool(settings.columns)
    hits = HITS_WITH_VECTORS if settings.with_vectors else HITS_WITH_METADATA if metadata else HITS
    return max(1, min(QUERIES, hits // (settings.k + settings.offset)))


def _is_vectors(query: Any) -> bool:
    """Tell whether it is numbers rather than items: Features, or an array of floats of one axis (a vector) or of two (a row
    each)."""
    if isinstance(query, Features):
        return True
    return getattr(query, "ndim", 0) in (1, 2) and "float" in str(getattr(query, "dtype", ""))


def _modality(session: ClientState, set: str, encoder: str, timeout: float | None) -> Steps[str]:
    """The modality of the query. A client asks for a set once."""
    if encoder:
        return (yield from known_encoder(session, encoder, timeout)).reads
    info = session.sets.get(set) or (yield from asked_set(session, set, timeout=timeout))
    if not info.encoder:
        raise InvalidInput(f"the set {set!r} is of no encoder", remedy="pass vectors=, or encoder= to read the query")
    return info.reads


def _of_items(query: Any, modality: str, most: int) -> Iterator[SearchBatch]:
    try:
        for chunk in item_requests.chunks(
            items.listed(query, modality), modality, MessageSizes([], 4.0), limit=min(most, item_requests.ITEMS)
        ):
            yield SearchBatch(chunk.start, {"items": encoders_pb2.Items(items=_sendable(chunk))})
    finally:
        item_requests.release(query)


def _sendable(chunk: Chunk) -> Sequence[Any]:
    if chunk.file:
        raise TooLarge(
            f"a query of more than {items.LONG_FILE >> 20} MiB", remedy="embed it, and pass vectors=", item=chunk.start
        )
    return chunk.items


def _of_vectors(vectors: Any, most: int) -> tuple[bool, Iterator[SearchBatch]]:
    rows = ready_vectors.matrix(vectors.dequantized() if isinstance(vectors, Features) else vectors)
    if rows.ndim not in (1, 2):
        raise InvalidInput(f"vectors of shape {list(rows.shape)}", remedy="pass (dim,) or (n, dim)")
    lone = rows.ndim == 1
    several = rows[None] if lone else rows
    step = max(1, min(most, item_requests.REQUEST // max(1, several.shape[1] * 4)))
    return lone, (
        SearchBatch(start, {"vectors": messages.tensor(ready_vectors.sendable(several[start : start + step]))})
        for start in range(0, len(several), step)
    )


def _of_stored(stored: Any, most: int) -> Iterator[SearchBatch]:
    ids = texts(stored)
    return (
        SearchBatch(start, {"stored": sets_pb2.Strings(values=ids[start : start + most])}) for start in range(0, len(ids), most)
    )
