"""One search of a build and of the rows written since: what the index finds and what exact search finds, made one answer.

The effort of a build was measured at ten hits of all its rows. To find k among a share s of the rows is to find k / s of all,
and more where a filter takes away just what is near: the index is then tried harder until that changes nothing, or all rows that
are left are compared, whichever is likely to be faster. Only what VectorIndex promises and what the build measured is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.blocking_calls import Check
from topwork_server.indexes.base_segment import EFFORT_FACTOR, BaseSegment, SearchEffort
from topwork_server.indexes.candidates import TopK, empty_top_k
from topwork_server.indexes.delta_segment import DeltaView
from topwork_server.indexes.exact_search import NearestRows
from topwork_server.indexes.prepared_query import NO_MATCH, PreparedQuery
from topwork_server.indexes.row_filter import RowFilter
from topwork_server.types import Array

#: The first guess of how many rows hold k items supposes at most so many rows of one item among the nearest.
MAX_ROWS_PER_ITEM = 2
#: A search for all within a score begins with so many hits.
FIRST_FETCH = 64
#: The effort of a build was measured at so many hits, and is good for that of so many.
MEASURED, TRUSTED = 10, 32
#: Below this share of the rows nothing less than the last effort is trusted, and a graph not at all.
SMALL = 0.1
#: Seconds to take a number out of an index, where it keeps a matrix and where it keeps lists, and to compare it with a query's.
TAKE, TAKE_FROM_LISTS, COMPARE = 0.7e-9, 2.5e-9, 0.035e-9
#: What is certain may take so many times longer than what is likely.
CERTAIN = 4
#: With any filter, this share of the work of looking into all lists remains.
OVERHEAD = 0.02
#: Queries a second at the effort of the build, where it is too small to have measured them.
QPS = 5000.0


@dataclass(frozen=True, slots=True, eq=False)
class SegmentSearch:
    """A search of the rows that `rows` leaves. `effort` is taken as it is; 0 is what the build found to suffice. `check` is
    called between parts, and raises where every caller has left."""

    base: BaseSegment
    delta: DeltaView
    rows: RowFilter
    effort: int
    threads: int
    check: Check

    def search_exactly(self, query: PreparedQuery) -> tuple[TopK, str]:
        """Compare with every row that is left; tell how this was done. The index must be exact, or give its vectors."""
        if self.base.built.index.exact:
            return self.search(query)
        return self._search_every_row(query)

    def search(self, query: PreparedQuery) -> tuple[TopK, str]:
        """Search by the index, or row by row where this is better; tell which it was."""
        if not self.effort and self._prefers_exact(self._first_fetch(query), *query.vectors.shape):
            return self._search_every_row(query)
        delta = empty_top_k((query.searched, 0))
        if self.rows.delta_count:
            nearest = NearestRows(query)
            self.delta.offer_rows(nearest, self.rows.delta)
            delta = nearest.top_k()
        return self._by_index(query, delta), "exact" if self.base.built.index.exact else "index"

    def _search_every_row(self, query: PreparedQuery) -> tuple[TopK, str]:
        nearest = NearestRows(query)
        self.base.offer_rows(nearest, self.base.positions_left(self.rows), self.check)
        self.delta.offer_rows(nearest, self.rows.delta)
        how = "exact" if self.rows.requested is None else f"exact over {self.rows.count + self.rows.delta_count} matches"
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
        """Return the k best of each query among the rows that were fetched and the fresh ones, and the numbers of the queries for
        which rows that were not fetched may be better."""
        found, unseen = self._fetch(query, fetch)
        best = found.concat(delta).top(query.k)
        return best, np.flatnonzero(~_complete(best, unseen, query))

    def _fetch(self, query: PreparedQuery, fetch: int) -> tuple[TopK, Array]:
        """Fetch candidates of each query, and (queries,) the nearness that no other row exceeds."""
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

    def _prefers_exact(self, fetch: int, vectors: int, dim: int) -> bool:
        """Tell whether to compare the query vectors with every row that is left rather than ask the index for `fetch` of them."""
        if not self.base.gives_vectors or not self._is_unmeasured(fetch):
            return False
        thorough = self.base.built.index.thorough
        if self.rows.share <= SMALL and not thorough:
            return True
        compared = self.rows.count * dim * ((TAKE_FROM_LISTS if thorough else TAKE) + vectors * COMPARE)
        return compared < (1 if thorough else CERTAIN) * vectors * self._index_seconds(fetch)

    def _search_effort(self, fetch: int) -> SearchEffort:
        """Choose the effort with which the index is asked for so many rows."""
        if self.effort or not self._is_unmeasured(fetch):
            return SearchEffort(self.effort or self.base.built.facts.effort, False, self.threads, self.check)
        return SearchEffort(self._first_effort(fetch), True, self.threads, self.check)

    def _is_unmeasured(self, fetch: int) -> bool:
        """Tell whether the build did not measure what its effort finds of so many rows."""
        return not self.base.built.index.exact and (self.rows.filtered or fetch > TRUSTED)

    def _first_effort(self, fetch: int) -> int:
        times = float("inf") if self.rows.share <= SMALL else max(fetch / MEASURED / self.rows.share, 1)
        return self.base.higher_effort(self.base.built.facts.effort, times)

    def _index_seconds(self, fetch: int) -> float:
        """Estimate the seconds of one query by the index, with more effort once."""
        facts, first = self.base.built.facts, self._first_effort(fetch)
        harder = self.base.higher_effort(first, EFFORT_FACTOR)
        effort = first if harder == first else first + harder
        qps = next((one.qps for one in facts.operating if one.effort == facts.effort and one.qps > 0), QPS)
        looked_at = max(self.rows.share, OVERHEAD) if self.base.built.index.thorough else 1
        return looked_at * effort / max(facts.effort, 1) / qps

    def _first_fetch(self, query: PreparedQuery) -> int:
        crowd = 1.0 if query.every_row else min(self.base.rows_per_item, MAX_ROWS_PER_ITEM)
        fetch = int(np.ceil(query.k * crowd)) + (query.without is not None)
        return fetch if query.min_similarity == NO_MATCH else min(fetch, FIRST_FETCH)


def _complete(best: TopK, unseen: Array, query: PreparedQuery) -> Array:
    """Mark the queries, (queries,) bool, whose k best are at least as near as what was not seen, or where that is too far to
    count."""
    reaching = (best.similarity >= unseen[:, None]).sum(axis=1) >= query.k
    return np.asarray(reaching | (unseen == NO_MATCH) | (unseen < query.min_similarity))
