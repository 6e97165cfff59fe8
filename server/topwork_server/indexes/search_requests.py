"""Searches in line: one caller's query, cut into slices, or joined with those of others and split again."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from topwork_server.blocking_calls import Check
from topwork_server.errors import TopworkError
from topwork_server.indexes import prepared_query
from topwork_server.indexes.index_types import SearchHits, SearchQuery

#: Vectors of a slice: the first of a caller, the fewest and the most.
FIRST, FEWEST, MOST = 64, 32, 1024
#: What a slice should take, in seconds, and how much larger than the one before it may be.
AIM, GROWTH = 0.035, 4


class SliceSearcher(Protocol):
    """The part of `LiveIndex` that the executor uses."""

    def search(self, query: SearchQuery, threads: int = ..., check: Check = ...) -> SearchHits: ...

    def scans_every_row(self, query: SearchQuery) -> bool: ...


class SearchRequest:
    """One caller, made on its event loop. `gone`: nobody waits for it any more."""

    def __init__(self, live: SliceSearcher, query: SearchQuery) -> None:
        self.live, self.query = live, query
        self.queries = prepared_query.count_queries(query)
        self.long = live.scans_every_row(query)
        self.cancelled = False
        self.batch_key = _kind(live, query)
        self.vectors = len(query.vectors)
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[SearchHits] = self.loop.create_future()
        self._size, self._done = MOST if self.long else FIRST, 0
        self._parts: list[SearchHits] = []

    def next_slice(self) -> SearchQuery:
        """The queries whose turn it is: as many as have about so many vectors as a slice should, at least one."""
        groups = self.query.groups
        if not self._done and self.vectors <= self._size:
            return self.query
        start = int(np.searchsorted(groups, self._done))
        end = self.queries if start + self._size >= len(groups) else max(int(groups[start + self._size]), int(groups[start]) + 1)
        stop = int(np.searchsorted(groups, end))
        without = None if self.query.without is None else self.query.without[self._done : end]
        return replace(
            self.query, vectors=self.query.vectors[start:stop], groups=groups[start:stop] - self._done, without=without
        )

    def add_hits(self, hits: SearchHits, seconds: float, vectors: int) -> bool:
        """A slice's hits; whether they were the last."""
        self._parts.append(hits)
        self._done += len(hits.counts)
        if not self.long:
            wanted = int(vectors * AIM / max(seconds, 1e-6))
            self._size = max(FEWEST, min(wanted, GROWTH * self._size, MOST))
        return self._done >= self.queries

    def result(self) -> SearchHits:
        """Of several slices, the version is that of the oldest."""
        parts = self._parts
        if len(parts) == 1:
            return parts[0]
        columns = {name: np.concatenate([getattr(p, name) for p in parts]) for name in ("counts", "keys", "rows", "scores")}
        return SearchHits(**columns, version=min(part.version for part in parts), how=parts[0].how, compared=parts[0].compared)

    def relocate_error(self, error: BaseException) -> BaseException:
        """The same error, said of the query's place in the whole request."""
        if isinstance(error, TopworkError) and error.item is not None and self._done:
            return error.at(error.item + self._done)
        return error


def _kind(live: SliceSearcher, query: SearchQuery) -> Hashable:
    """Tickets of one kind can be one search."""
    within = None if query.within is None else float(query.within)
    return id(live), query.k, within, id(query.allowed), query.every_row, query.exact, query.effort


def join_queries(queries: Sequence[SearchQuery]) -> SearchQuery:
    """One search of all, in their order; they are of one kind."""
    if len(queries) == 1:
        return queries[0]
    counts = [prepared_query.count_queries(query) for query in queries]
    offsets = np.cumsum(counts) - counts
    groups = np.concatenate([query.groups + offset for query, offset in zip(queries, offsets, strict=True)])
    without = None
    if any(query.without is not None for query in queries):
        own = [np.full(n, -1, np.int64) if q.without is None else q.without for q, n in zip(queries, counts, strict=True)]
        without = np.concatenate(own)
    return replace(queries[0], vectors=np.concatenate([query.vectors for query in queries]), groups=groups, without=without)


def split_hits(hits: SearchHits, counts: Sequence[int]) -> list[SearchHits]:
    """What is each one's, where so many queries were."""
    if len(counts) == 1:
        return [hits]
    before = [0, *np.cumsum(hits.counts).tolist()]
    parts, start = [], 0
    for end in np.cumsum(counts).tolist():
        rows = slice(before[start], before[end])
        own = hits.counts[start:end]
        parts.append(SearchHits(own, hits.keys[rows], hits.rows[rows], hits.scores[rows], hits.version, hits.how, hits.compared))
        start = end
    return parts
