"""One search of a build and of what was written since: what the index finds and what exact search finds, made one answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.blocking_calls import Check
from topwork_server.indexes import search_strategy
from topwork_server.indexes.base_segment import BaseSegment, SearchEffort
from topwork_server.indexes.candidates import TopK, empty_top_k
from topwork_server.indexes.delta_segment import DeltaView
from topwork_server.indexes.nearest_rows import NearestRows
from topwork_server.indexes.prepared_query import NO_MATCH, PreparedQuery
from topwork_server.indexes.row_filter import RowFilter
from topwork_server.types import Array

#: The first guess of how many rows hold k items supposes at most so many rows of one item among the nearest.
MAX_ROWS_PER_ITEM = 2
#: A search for all within a score begins with so many hits.
FIRST_FETCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class SegmentSearch:
    """`effort` is taken as it is, or 0: what the build found to suffice. `check` is called between parts, and raises where nobody
    waits any more."""

    base: BaseSegment
    delta: DeltaView
    rows: RowFilter
    effort: int
    threads: int
    check: Check

    def search_exactly(self, query: PreparedQuery) -> tuple[TopK, str]:
        """Every row that is left is compared, and how this was done. The index must be exact, or give its vectors."""
        if self.base.built.index.exact:
            return self.search(query)
        return self._search_every_row(query)

    def search(self, query: PreparedQuery) -> tuple[TopK, str]:
        """Search by the index, or row by row where this is better; tell which it was."""
        if not self.effort and search_strategy.prefers_exact(self.rows, self._first_fetch(query), *query.vectors.shape):
            return self._search_every_row(query)
        delta = empty_top_k((query.searched, 0))
        if self.rows.delta_count:
            nearest = NearestRows(query)
            self.delta.offer_rows(nearest, self.rows.delta)
            delta = nearest.top_k()
        return self._by_index(query, delta), "exact" if self.base.built.index.exact else "index"

    def _search_every_row(self, query: PreparedQuery) -> tuple[TopK, str]:
        nearest = NearestRows(query)
        self.base.offer_rows(nearest, self.rows.positions(), self.check)
        self.delta.offer_rows(nearest, self.rows.delta)
        how = "exact" if self.rows.requested is None else f"exact over {self.rows.total_count} matches"
        return nearest.top_k(), how

    def _by_index(self, query: PreparedQuery, delta: TopK) -> TopK:
        """Ask for more and more rows until no row that was not seen can be among the k best."""
        fetch = self._first_fetch(query)
        best, lacking = self._search_once(query, delta, fetch)
        if not len(lacking):
            return best
        answer, pending = empty_top_k((query.searched, query.k)), np.arange(query.searched)
        while True:
            answer.assign(pending, best)
            if not len(lacking):
                return answer
            pending, fetch = pending[lacking], 2 * fetch
            self.check()
            best, lacking = self._search_once(query.select_queries(pending), delta.select_queries(pending), fetch)

    def _search_once(self, query: PreparedQuery, delta: TopK, fetch: int) -> tuple[TopK, Array]:
        """The k best of each query among the rows that were fetched and the fresh ones, and the numbers of the queries for which
        rows that were not fetched may be better."""
        found, unseen = self._fetch(query, fetch)
        best = found.concat(delta).top(query.k)
        return best, np.flatnonzero(~_complete(best, unseen, query))

    def _fetch(self, query: PreparedQuery, fetch: int) -> tuple[TopK, Array]:
        """Candidates of each query, and (queries,) the nearness that no row exceeds which is not among them."""
        found = self.base.search(query, fetch, self._search_effort(fetch), self.rows)
        unseen = found.similarity[:, -1] if 0 < found.width < self.rows.count else np.full(len(found.similarity), NO_MATCH)
        if query.starts is not None:
            found, unseen = found.merge_groups(query.starts), np.maximum.reduceat(unseen, query.starts)
        several = self.base.built.rows is not None
        if query.starts is not None or (several and not query.every_row):
            found = found.deduplicate(query.every_row)
        if query.without is not None:
            found = found.mask_out(found.keys == query.without[:, None])
        return found, unseen

    def _search_effort(self, fetch: int) -> SearchEffort:
        if self.effort:
            return SearchEffort(self.effort, False, self.threads, self.check)
        return search_strategy.choose_effort(self.rows, fetch, self.threads, self.check)

    def _first_fetch(self, query: PreparedQuery) -> int:
        crowd = 1.0 if query.every_row else min(self.base.rows_per_item, MAX_ROWS_PER_ITEM)
        fetch = int(np.ceil(query.k * crowd)) + (query.without is not None)
        return fetch if query.min_similarity == NO_MATCH else min(fetch, FIRST_FETCH)


def _complete(best: TopK, unseen: Array, query: PreparedQuery) -> Array:
    """Mark the queries, (queries,) bool, whose k best are at least as near as what was not seen, or where that is too far to
    count."""
    reaching = (best.similarity >= unseen[:, None]).sum(axis=1) >= query.k
    return np.asarray(reaching | (unseen == NO_MATCH) | (unseen < query.min_similarity))
