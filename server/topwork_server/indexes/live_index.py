"""One index in memory, following its set: a build, the rows written since (searched exactly), and what died since (masked).

A search reads one immutable `LiveState`, so it sees one version of the set, whichever is committed or installed meanwhile. The
set's commit thread makes the next state before the writers are answered: what was acknowledged, the next search finds.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

import numpy as np

from topwork_server.blocking_calls import Check
from topwork_server.feature_sets.set_types import KEY_BITS, Change, ItemBatch, Selection
from topwork_server.indexes.base_segment import BaseSegment
from topwork_server.indexes.candidates import empty_top_k, to_search_hits
from topwork_server.indexes.delta_segment import DeltaSegment, DeltaView
from topwork_server.indexes.exact_search import RowBlock, SearchableSet, has_several_rows, search_set, to_row_block
from topwork_server.indexes.index_types import BuildFacts, BuiltIndex, IndexDefinition, SearchHits, SearchQuery
from topwork_server.indexes.prepared_query import prepare_query
from topwork_server.indexes.row_filter import RowFilter, pack_bits
from topwork_server.indexes.segment_search import SegmentSearch
from topwork_server.types import Array

#: Filters of one state that are kept ready.
FILTERS = 8


class RowFilterCache:
    """Row filters of one state for the latest few filters: the same array again costs nothing. Threads may share it."""

    def __init__(self) -> None:
        self._known: tuple[RowFilter, ...] = ()

    def get(self, base: BaseSegment, fresh: DeltaView, allowed: Array | None) -> RowFilter:
        for known in self._known:
            if known.requested is allowed:
                return known
        made = _filter_rows(base, fresh, allowed)
        self._known = (*self._known[1 - FILTERS :], made)
        return made


@dataclass(frozen=True, slots=True, eq=False)
class LiveState:
    """The view that searches have of one version of the set."""

    version: int
    base: BaseSegment
    delta: DeltaView
    filters: RowFilterCache = field(default_factory=RowFilterCache)

    def row_filter(self, allowed: Array | None) -> RowFilter:
        return self.filters.get(self.base, self.delta, allowed)


class LiveIndex:
    """One index in memory. Blocking and thread-safe. `threads` is the default of a search."""

    def __init__(self, definition: IndexDefinition, feature_set: SearchableSet, threads: int) -> None:
        self.definition = definition
        self._set, self._threads = feature_set, threads
        self._lock = threading.Lock()  # of what follows; held for moments
        self._installing = threading.Lock()
        self._state: LiveState | None = None
        self._delta: DeltaSegment | None = None  # None while nothing is followed: no build is here, and none is being installed
        self._base: int | None = None  # all rows alive from this key on are fresh; None until the first build is installed
        self._deaths: list[tuple[int, Array]] = []
        self._read = 0  # rows inserted up to this version came from the set itself
        self._version = 0  # of the last change or reading

    def apply(self, change: Change) -> None:
        """Apply a change of the set. Its commit thread calls this in the order of versions."""
        if self._delta is None:
            return  # the set itself is searched until a build is installed, which reads what it lacks
        rows = self._row_block(change.inserted) if len(change.inserted.ids) else None
        with self._lock:
            if self._delta is None:
                return
            self._version = max(self._version, change.version)
            if rows is not None and change.version > self._read:
                self._delta.append(rows)
            self._deaths.append((change.version, change.deleted))
            self._delta.delete_items(change.deleted)
            if self._state is not None:
                self._state = LiveState(self._version, self._state.base.without_items(change.deleted), self._delta.view())

    def install(self, built: BuiltIndex, keys: Array) -> None:
        """Swap in a build. `keys` are the live keys of the set (sorted), read after it was followed.

        Rows written after the build's version stay fresh, and are read from the set where they are not here. Searches under way
        finish on what they have.
        """
        with self._installing:
            started = self._follow()
            try:
                base = BaseSegment.from_build(built, self._set.keys()[1] if started else keys)
                gap, read = self._gap(built.facts.version)
            except BaseException:
                if started:
                    self._stop_following()
                raise
            self._swap(base, gap, read)

    def search(self, query: SearchQuery, threads: int = 0, check: Check = lambda: None) -> SearchHits:
        """Search all queries. `check` is called between parts of a long search, to raise where its callers have left.

        Raises InvalidInput as `prepare_query` does.
        """
        prepared = prepare_query(query, self.definition.metric, self.definition.tap.tap.dim)
        state = self._state
        if not prepared.searched:
            return to_search_hits(empty_top_k((0, 0)), prepared, self.version, "index")
        if state is None or (query.exact and not state.base.searchable_exactly):
            found, version, how, compared = search_set(self._set, self.definition.tap, prepared, query.allowed, check)
            return replace(to_search_hits(found, prepared, version, how), compared=compared)
        search = SegmentSearch(
            state.base, state.delta, state.row_filter(query.allowed), query.effort, threads or self._threads, check
        )
        found, how = search.search_exactly(prepared) if query.exact else search.search(prepared)
        return to_search_hits(found, prepared, state.version, how)

    def scans_every_row(self, query: SearchQuery) -> bool:
        """Tell whether every row, or every row of the filter, is compared: then many queries cost little more than one."""
        return self._state is None or (query.exact and not self._state.base.built.index.exact)

    @property
    def facts(self) -> BuildFacts | None:
        """Facts of the build that searches use; None where there is none."""
        state = self._state
        return None if state is None else state.base.built.facts

    @property
    def version(self) -> int:
        """Version of the set that a search sees now."""
        state = self._state
        return self._set.version if state is None else state.version

    @property
    def alive_rows(self) -> int:
        """Rows in memory that are alive, as the other counts are: 0 where no build is installed."""
        state = self._state
        return 0 if state is None else state.base.alive + state.delta.alive_rows

    @property
    def fresh_rows(self) -> int:
        state = self._state
        return 0 if state is None else state.delta.alive_rows

    @property
    def dead_rows(self) -> int:
        """Rows of the build that were deleted since."""
        state = self._state
        return 0 if state is None else len(state.base.keys) - state.base.alive

    @property
    def memory(self) -> int:
        """Bytes of the index, its keys and the fresh rows."""
        state, fresh = self._state, self._delta
        return (0 if state is None else state.base.memory) + (0 if fresh is None else fresh.memory)

    def _follow(self) -> bool:
        """Keep what is written from now on; tell whether nothing was kept before."""
        with self._lock:
            started = self._delta is None
            if started:
                self._delta, self._deaths = self._new_delta(), []
            return started

    def _stop_following(self) -> None:
        with self._lock:
            self._delta, self._deaths = None, []

    def _row_block(self, items: ItemBatch) -> RowBlock:
        return to_row_block(items, self.definition.tap, self.definition.metric)

    def _new_delta(self) -> DeltaSegment:
        return DeltaSegment(self.definition.tap.tap.dim, has_several_rows(self.definition.tap))

    def _gap(self, since: int) -> tuple[DeltaSegment | None, int]:
        """Read the rows written after `since`, and the set's version; None where all of them are fresh already."""
        if self._base is not None and self._base <= since << KEY_BITS:
            return None, 0
        reading = self._set.read(Selection(since=since, taps=[self.definition.tap.tap.name], columns=[]))
        gap, later = self._new_delta(), []
        for block in reading.batches:
            rows = self._row_block(block)
            later += [] if gap.append(rows) else [rows]
        return gap.with_rows(later), reading.version

    def _swap(self, base: BaseSegment, gap: DeltaSegment | None, read: int) -> None:
        first_key = base.built.facts.version << KEY_BITS
        with self._lock:
            assert self._delta is not None
            fresh = self._delta.copy_range(first_key, None) if gap is None else self._join(gap, self._delta)
            dead = np.concatenate([np.zeros(0, np.int64), *(keys for _, keys in self._deaths)])
            fresh.delete_items(dead)
            self._version = max(self._version, read)
            self._state = LiveState(self._version, base.without_items(dead), fresh.view())
            self._delta, self._base, self._read = fresh, first_key, max(self._read, read)
            # A later build begins after this one, so it never held what died before this one began.
            self._deaths = [(version, keys) for version, keys in self._deaths if version > base.built.facts.version]

    def _join(self, gap: DeltaSegment, fresh: DeltaSegment) -> DeltaSegment:
        """Join the rows that were read from the set, up to where those begin that were followed, and these."""
        begin = fresh.first_key if self._base is None else self._base
        joined = gap.copy_range(0, begin)
        joined.extend_from(fresh.copy_range(begin or 0, None))
        return joined


def _filter_rows(base: BaseSegment, delta: DeltaView, allowed: Array | None) -> RowFilter:
    """Select the live rows of the items with the sorted keys `allowed` (None: of all)."""
    kept = delta.select_rows(allowed)
    delta_count = len(delta) if kept is None else int(np.count_nonzero(kept))
    total, matching = len(base.keys), None if allowed is None else base.positions(allowed)
    if matching is None or len(matching) == base.alive:
        return RowFilter(allowed, total, base.alive, base.mask, None, kept, delta_count)
    bits = np.zeros(total, bool)
    bits[matching] = True
    return RowFilter(allowed, total, len(matching), pack_bits(bits), matching, kept, delta_count)
