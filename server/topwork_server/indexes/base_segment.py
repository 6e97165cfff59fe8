"""A build in memory and what died of it: approximate search by the index, and exact where the index keeps its vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from topwork_server.blocking_calls import Check
from topwork_server.indexes.candidates import TopK
from topwork_server.indexes.exact_search import NearestRows, RowBlock, slices
from topwork_server.indexes.index_types import BuiltIndex
from topwork_server.indexes.prepared_query import PreparedQuery
from topwork_server.indexes.row_filter import RowFilter, keys_among, pack_bits, positions_of_keys
from topwork_server.plugin_api.result_checks import search_index
from topwork_server.plugin_api.vector_index import Metric
from topwork_server.types import Array

#: Vectors taken out of the index at once for an exact search.
EXACT_BLOCK = 8192
#: How much harder an index is tried at each turn, when it found less than there is or there are doubts.
EFFORT_FACTOR = 4
#: A search that is tried harder may change one in so many of its hits and count as unchanged.
UNCHANGED_SHARE = 40


@dataclass(frozen=True, slots=True)
class SearchEffort:
    """The effort of a search: `unmeasured` where the build did not measure what it finds. `check` is called between its turns."""

    effort: int
    unmeasured: bool
    threads: int
    check: Check


@dataclass(frozen=True, slots=True, eq=False)
class BaseSegment:
    """A build and its live rows. `mask` has the bits of the positions that are alive (see VectorIndex.search), None where all
    are; `alive` counts them. `keys` are the build's, sorted; `gives_vectors` says that the index keeps the very rows that were
    added."""

    built: BuiltIndex
    keys: Array
    mask: Array | None
    alive: int
    gives_vectors: bool
    rows_per_item: float

    @classmethod
    def from_build(cls, built: BuiltIndex, live_keys: Array) -> BaseSegment:
        """Take a build of which only items with these keys (sorted) are still in the set."""
        keys = built.keys if built.order is None else built.keys[built.order]
        whole = BaseSegment(built, keys, None, len(keys), _gives_vectors(built), _mean_rows_per_item(keys))
        here = keys_among(built.keys, live_keys)
        return whole if here.all() else replace(whole, mask=pack_bits(here), alive=int(np.count_nonzero(here)))

    def without_items(self, dead: Array) -> BaseSegment:
        """Return the segment without the items with these keys."""
        gone = self.positions(dead)
        if not len(gone):
            return self
        mask = pack_bits(np.ones(len(self.built.keys), bool)) if self.mask is None else self.mask.copy()
        np.bitwise_and.at(mask, gone >> 3, ~(np.uint8(1) << (gone & 7).astype(np.uint8)))
        return replace(self, mask=mask, alive=self.alive - len(np.unique(gone)))

    @property
    def searchable_exactly(self) -> bool:
        """True where an exact search can be done here."""
        return self.gives_vectors or self.built.index.exact or not len(self.keys)

    @property
    def memory(self) -> int:
        """Bytes of the index and of the keys of its rows."""
        parts = (self.keys, self.built.keys, self.built.rows, self.built.order, self.mask)
        return self.built.index.memory + sum({id(part): part.nbytes for part in parts if part is not None}.values())

    def positions(self, keys: Array | None = None) -> Array:
        """Find the positions of the rows alive, in the order of their keys: all, or those of the items with these keys
        (sorted)."""
        at: Array = np.arange(len(self.keys)) if keys is None else positions_of_keys(self.keys, keys)
        at = at if self.built.order is None else np.asarray(self.built.order[at])
        if self.mask is None:
            return at
        alive = (self.mask[at >> 3] >> (at & 7).astype(np.uint8)) & 1
        return np.asarray(at[alive == 1])

    def positions_left(self, rows: RowFilter) -> Array:
        """Find the positions of the rows that a filter leaves, in the order of their keys."""
        return self.positions() if rows.matching is None else rows.matching

    def offer_rows(self, nearest: NearestRows, positions: Array, check: Check) -> None:
        """Offer the rows at these positions (in the order of their keys) to an exact search; the index must give its vectors."""
        for part in slices(0, len(positions), EXACT_BLOCK):
            check()
            nearest.offer(self._rows(positions[part]))

    def search(self, query: PreparedQuery, fetch: int, trial: SearchEffort, rows: RowFilter) -> TopK:
        """Search the index for the `fetch` nearest rows of each vector (a line each). An index that finds fewer than there
        are is tried harder, and at last its vectors are compared one by one if it gives them; where `trial` has doubts, it is
        tried harder until that changes nothing."""
        fetch, effort = min(fetch, rows.count), trial.effort
        near, at = self._search(query, fetch, trial, effort, rows.mask)
        pending = np.arange(len(at)) if trial.unmeasured else np.flatnonzero(_is_short(at))
        while len(pending) and (harder := self.higher_effort(effort)) > effort:
            trial.check()
            effort = harder
            again = self._search(query.select_vectors(pending), fetch, trial, effort, rows.mask)
            moved = _is_short(again[1]) | (trial.unmeasured & _changed(at[pending], again[1]))
            near[pending], at[pending] = again
            pending = pending[moved]
        short = np.flatnonzero(_is_short(at))
        found = self._to_top_k(near, at)
        return (
            self._complete_exactly(found, short, query, fetch, rows, trial.check) if len(short) and self.gives_vectors else found
        )

    def higher_effort(self, effort: int, times: float = EFFORT_FACTOR) -> int:
        """Return the first effort of the index's own that is so many times larger, or its last."""
        ladder = self.built.index.efforts()
        return next((step for step in ladder if step >= effort * times), max(ladder[-1], effort))

    def _search(self, query: PreparedQuery, k: int, trial: SearchEffort, effort: int, mask: Array | None) -> tuple[Array, Array]:
        if not k:
            return np.empty((len(query.vectors), 0), np.float32), np.empty((len(query.vectors), 0), np.int64)
        scores, at = search_index(self.built.index, query.vectors, k, effort=effort, threads=trial.threads, mask=mask)
        return (np.negative(scores) if query.metric is Metric.L2 else scores), at

    def _to_top_k(self, near: Array, at: Array) -> TopK:
        none = at < 0
        keys = self.built.keys[at]
        numbers = np.zeros(at.shape, np.int32) if self.built.rows is None else self.built.rows[at]
        found = TopK(near, keys, numbers)
        return found.mask_out(none) if none.any() else found

    def _complete_exactly(
        self, found: TopK, short: Array, query: PreparedQuery, fetch: int, rows: RowFilter, check: Check
    ) -> TopK:
        nearest = NearestRows(replace(query.select_vectors(short), k=fetch))
        self.offer_rows(nearest, self.positions_left(rows), check)
        complete = TopK(found.similarity.copy(), found.keys.copy(), found.numbers.copy())
        complete.assign(short, nearest.top_k())
        return complete

    def _rows(self, positions: Array) -> RowBlock:
        vectors = self.built.index.vectors(positions)
        assert vectors is not None, "an index gives all of its vectors or none"
        numbers = None if self.built.rows is None else self.built.rows[positions]
        return RowBlock(vectors, self.built.keys[positions], numbers)


def _is_short(at: Array) -> Array:
    """Mark the lines, (lines,) bool, of which fewer were found than were asked for."""
    return np.asarray(at[:, -1] < 0) if at.shape[1] else np.zeros(len(at), bool)


def _changed(before: Array, after: Array) -> Array:
    """Mark the lines, (lines,) bool, of which too many positions (lines, k) are others now."""
    both = np.sort(np.concatenate([before, after], axis=1), axis=1)
    same = (both[:, 1:] == both[:, :-1]).sum(axis=1)
    return np.asarray((before.shape[1] - same) * UNCHANGED_SHARE > before.shape[1])


def _gives_vectors(built: BuiltIndex) -> bool:
    return len(built.keys) > 0 and built.index.vectors(np.zeros(1, np.int64)) is not None


def _mean_rows_per_item(keys: Array) -> float:
    return len(keys) / (1 + np.count_nonzero(np.diff(keys))) if len(keys) else 1.0
