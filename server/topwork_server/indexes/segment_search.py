"""One search of a build and of what was written since: what the index finds and what exact search finds, made one answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.blocking_calls import Check
from topwork_server.indexes import search_strategy
from topwork_server.indexes.base_segment import BaseSegment, SearchEffort
from topwork_server.indexes.candidates import TopK, empty
from topwork_server.indexes.delta_segment import DeltaView
from topwork_server.indexes.nearest_rows import NearestRows
from topwork_server.indexes.prepared_query import NOWHERE, PreparedQuery
from topwork_server.indexes.row_filter import RowFilter
from topwork_server.types import Array

#: The first guess of how many rows hold k items supposes at most so many rows of one item among the nearest.
CROWDED = 2
#: A search for all within a score begins with so many hits.
BEGIN = 64


@dataclass(frozen=True, slots=True, eq=False)
class SegmentSearch:
    """`effort` is taken as it is, or 0: what the build found to suffice. `check` is called between parts, and raises where nobody
    waits any more."""

    main: BaseSegment
    fresh: DeltaView
    left: RowFilter
    effort: int
    threads: int
    check: Check

    def exactly(self, asked: PreparedQuery) -> tuple[TopK, str]:
        """Every row that is left is compared, and how this was done. The index must be exact, or give its vectors."""
        if self.main.built.index.exact:
            return self.usual(asked)
        return self._compared(asked)

    def usual(self, asked: PreparedQuery) -> tuple[TopK, str]:
        """By the index, or one by one where this is better; and which it was."""
        if not self.effort and search_strategy.one_by_one(self.left, self._first_fetch(asked), *asked.vectors.shape):
            return self._compared(asked)
        fresh = empty((asked.searched, 0))
        if self.left.fresh_count:
            nearest = NearestRows(asked)
            self.fresh.offer_to(nearest, self.left.fresh)
            fresh = nearest.found()
        return self._by_index(asked, fresh), "exact" if self.main.built.index.exact else "index"

    def _compared(self, asked: PreparedQuery) -> tuple[TopK, str]:
        nearest = NearestRows(asked)
        self.main.offer_to(nearest, self.left.positions(), self.check)
        self.fresh.offer_to(nearest, self.left.fresh)
        how = "exact" if self.left.asked is None else f"exact over {self.left.matches} matches"
        return nearest.found(), how

    def _by_index(self, asked: PreparedQuery, fresh: TopK) -> TopK:
        """Ask for more and more rows until no row that was not seen can be among the k best."""
        fetch = self._first_fetch(asked)
        best, lacking = self._round(asked, fresh, fetch)
        if not len(lacking):
            return best
        answer, pending = empty((asked.searched, asked.k)), np.arange(asked.searched)
        while True:
            answer.put(pending, best)
            if not len(lacking):
                return answer
            pending, fetch = pending[lacking], 2 * fetch
            self.check()
            best, lacking = self._round(asked.part(pending), fresh.of(pending), fetch)

    def _round(self, asked: PreparedQuery, fresh: TopK, fetch: int) -> tuple[TopK, Array]:
        """The k best of each query among the rows that were fetched and the fresh ones, and the numbers of the queries for which
        rows that were not fetched may be better."""
        found, unseen = self._fetched(asked, fetch)
        best = found.beside(fresh).best(asked.k)
        return best, np.flatnonzero(~_complete(best, unseen, asked))

    def _fetched(self, asked: PreparedQuery, fetch: int) -> tuple[TopK, Array]:
        """Candidates of each query, and (queries,) the nearness that no row exceeds which is not among them."""
        found = self.main.lists(asked, fetch, self._trial(fetch), self.left)
        unseen = found.near[:, -1] if 0 < found.width < self.left.count else np.full(len(found.near), NOWHERE)
        if asked.starts is not None:
            found, unseen = found.gathered(asked.starts), np.maximum.reduceat(unseen, asked.starts)
        several = self.main.built.rows is not None
        if asked.starts is not None or (several and not asked.every_row):
            found = found.once(asked.every_row)
        if asked.without is not None:
            found = found.lacking(found.keys == asked.without[:, None])
        return found, unseen

    def _trial(self, fetch: int) -> SearchEffort:
        if self.effort:
            return SearchEffort(self.effort, False, self.threads, self.check)
        return search_strategy.trial(self.left, fetch, self.threads, self.check)

    def _first_fetch(self, asked: PreparedQuery) -> int:
        crowd = 1.0 if asked.every_row else min(self.main.rows_an_item, CROWDED)
        fetch = int(np.ceil(asked.k * crowd)) + (asked.without is not None)
        return fetch if asked.least == NOWHERE else min(fetch, BEGIN)


def _complete(best: TopK, unseen: Array, asked: PreparedQuery) -> Array:
    """(queries,) bool: the k best are all at least as near as what was not seen, or that is farther than was asked for."""
    reaching = (best.near >= unseen[:, None]).sum(axis=1) >= asked.k
    return np.asarray(reaching | (unseen == NOWHERE) | (unseen < asked.least))
