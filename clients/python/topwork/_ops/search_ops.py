"""Searches. See `embed_ops.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from topwork._codec.items import Items
from topwork._transport.calls import ClientState, Steps
from topwork.search_results import Hits
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
    from topwork._codec import decode_indexes
    from topwork._ops import search_queries

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
        vectors_too=with_vectors,
        exact=exact,
        effort=effort,
        offset=offset,
        metric=decode_indexes.metric(metric) if metric else None,
    )
    return (yield from search_queries.found(session, settings, query, vectors, stored, timeout))
