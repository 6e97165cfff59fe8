"""Loads the rows of examples: it reads block by block, pools at once, and writes each row to its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from topwork_server.blocking_calls import Report, part
from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.set_types import ItemBatch, Selection
from topwork_server.feature_sets.snapshot import Snapshot
from topwork_server.features import aranges, starts_of
from topwork_server.heads.head_types import HeadDefinition, Pooling
from topwork_server.heads.pair_features import Encode, is_pair, pool_sides
from topwork_server.heads.pooling import TOWERS, chosen_items, dim_after, pool_rows, repeat_cells, rows_read, usable_items
from topwork_server.types import Array, FingerprintedTap, TextItem


@dataclass(frozen=True)
class LoadedRows:
    """The rows of the items at slots 0 .. n - 1.

    `views` (rows, dim) float32, in order of slots, the same rows for all views; `counts` (n,) int64: rows of each slot, 0 where
    the item lacks what is read. `spans` (rows, 2 or 4) for tasks with a value for each row.
    """

    views: list[Array]
    counts: Array
    spans: Array | None


@dataclass(frozen=True, slots=True)
class _BlockView:
    """The pooled rows of one block and view."""

    slots: Array
    counts: Array
    rows: Array
    spans: Array | None


def load_rows(
    taken: Sequence[Snapshot],
    definition: HeadDefinition,
    where: str,
    slots: Mapping[str, int],
    report: Report,
    encode: Encode | None = None,
) -> LoadedRows:
    """Load the rows of items out of the definition's sources. `slots` gives the place of each id; other items are passed over.

    `where` selects from the first set. `encode` gives rows of texts, for views of pairs whose sides are encoded separately.
    InvalidInput where views differ in rows.
    """
    parts = [part(report, i / len(taken), (i + 1) / len(taken)) for i in range(len(taken))]
    joined = _load_own(taken[0], definition, where, slots, parts[0], encode)
    for snapshot, source, steps in zip(taken[1:], definition.others, parts[1:], strict=True):
        views = [_View(info, how, definition) for info, how in source.views]
        _read(snapshot, list(dict.fromkeys(info.tap.name for info, _ in source.views)), "", views, slots, steps)
        joined += [view.join(len(slots)) for view in views]
    return _align_views(joined, definition.tap_names)


def _load_own(
    taken: Snapshot, definition: HeadDefinition, where: str, slots: Mapping[str, int], report: Report, encode: Encode | None
) -> list[LoadedRows]:
    towers = _Towers(definition, encode) if any(how in TOWERS for _, how in definition.views) else None
    views: list[_View | _Tower] = [
        towers.view(info, how) if towers and how in TOWERS else _View(info, how, definition) for info, how in definition.views
    ]
    taps = list(dict.fromkeys(info.tap.name for info, how in definition.views if how not in TOWERS))
    if towers is None:
        _read(taken, taps, where, views, slots, report)
    else:
        _read(taken, taps, where, [*views, towers], slots, part(report, 0, 0.3), inputs=True)
        towers.encode(part(report, 0.3, 1))
    return [view.join(len(slots)) for view in views]


def _read(
    taken: Snapshot,
    taps: Sequence[str],
    where: str,
    readers: Sequence[_View | _Tower | _Towers],
    slots: Mapping[str, int],
    report: Report,
    *,
    inputs: bool = False,
) -> None:
    """Read the taps of a set once, for all readers."""
    reading = taken.read(Selection(taps=taps, columns=(), where=where, inputs=inputs))
    done = 0
    for block in reading.batches:
        for reader in readers:
            reader.add_batch(block, slots)
        done += len(block.ids)
        report(done / max(1, reading.total), f"read {done:,} of {reading.total:,} items")


class _View:
    def __init__(self, info: FingerprintedTap, pooling: Pooling, definition: HeadDefinition) -> None:
        self._name, self._dim = info.tap.name, dim_after(pooling, info.tap.dim)
        self._pooling, self._task, self._grid = pooling, definition.task, info.tap.grid
        self._finest = definition.views[0][0].tap.grid if definition.combine and definition.task.every_row else None
        self._parts: list[_BlockView] = []

    def add_batch(self, block: ItemBatch, slots: Mapping[str, int]) -> None:
        rows = next(rows for rows in block.taps if rows.tap.tap.name == self._name)
        places = np.array([slots.get(id, -1) for id in block.ids], np.int64)
        chosen = (places >= 0) & usable_items(self._task, self._pooling, rows)
        rows = chosen_items(rows, chosen)
        features, counts = pool_rows(self._task, self._pooling, rows)
        if self._finest and self._finest != self._grid:
            features, counts = repeat_cells(features, self._grid, self._finest), np.full(len(counts), math.prod(self._finest))
        spans = rows.spans.values[rows_read(self._task, rows)] if self._task.every_row and rows.spans is not None else None
        spans = spans if self._finest in (None, self._grid) else None  # what is repeated covers less than it says
        # Copied, where it is Arrow's memory still: a block is let go once it is read.
        features = features if features.base is None else features.copy()
        self._parts.append(_BlockView(places[chosen], counts, features, spans))

    def join(self, count: int) -> LoadedRows:
        """Join the parts and release each as it is copied, so that all rows are held once, not twice."""
        counts = np.zeros(count, np.int64)
        for piece in self._parts:
            counts[piece.slots] = piece.counts
        starts, total = starts_of(counts), int(counts.sum())
        rows = np.empty((total, self._dim), np.float32)
        covered = [piece.spans.shape[1] for piece in self._parts if piece.spans is not None]
        spans = np.zeros((total, covered[0]), np.float32) if covered else None
        while self._parts:
            piece = self._parts.pop()
            to = aranges(starts[piece.slots], piece.counts)
            rows[to] = piece.rows
            if spans is not None and piece.spans is not None:
                spans[to] = piece.spans
        return LoadedRows([rows], counts, spans)


class _Towers:
    """Pairs of texts, each text encoded once."""

    def __init__(self, definition: HeadDefinition, encode: Encode | None) -> None:
        if encode is None:
            raise InvalidInput("nothing encodes the sides of pairs here", remedy="choose other poolings")
        self._encode, self._set = encode, definition.set
        self._slots: list[int] = []
        self._pairs: list[tuple[int, int]] = []
        self._places: dict[str, int] = {}
        self.rows: Mapping[str, Array] = {}

    def view(self, info: FingerprintedTap, pooling: Pooling) -> _Tower:
        return _Tower(self, info, pooling)

    def add_batch(self, block: ItemBatch, slots: Mapping[str, int]) -> None:
        for id, item in zip(block.ids, block.inputs, strict=True):
            if id in slots and is_pair(item):
                assert isinstance(item, TextItem), "a pair is of texts"
                assert item.pair is not None
                first, second = (self._places.setdefault(text, len(self._places)) for text in (item.text, item.pair))
                self._slots.append(slots[id])
                self._pairs.append((first, second))

    def encode(self, report: Report) -> None:
        self.rows = self._encode(list(self._places), report)

    @property
    def slots(self) -> Array:
        return np.array(self._slots, np.int64)

    @property
    def pairs(self) -> Array:
        return np.array(self._pairs, np.int64).reshape(-1, 2)


class _Tower:
    """A view of pairs: a tap, and how its two rows become one."""

    def __init__(self, towers: _Towers, info: FingerprintedTap, pooling: Pooling) -> None:
        self._towers, self._info, self._pooling = towers, info, pooling

    def add_batch(self, block: ItemBatch, slots: Mapping[str, int]) -> None:
        """Add the rows of all pairs of a batch at once."""

    def join(self, count: int) -> LoadedRows:
        slots, rows = self._towers.slots, self._towers.rows[self._info.tap.name]
        first, second = self._towers.pairs.T
        order = np.argsort(slots, kind="stable")
        counts = np.zeros(count, np.int64)
        counts[slots] = 1
        return LoadedRows([pool_sides(self._pooling, self._info, rows[first[order]], rows[second[order]])], counts, None)


def _align_views(views: list[LoadedRows], names: Sequence[str]) -> LoadedRows:
    """Slots that lack rows in one view are left out of all."""
    there = np.logical_and.reduce([view.counts > 0 for view in views])
    views = [_with_rows(view, there) for view in views]
    for view, name in zip(views, names, strict=True):
        if not np.array_equal(view.counts, views[0].counts):
            raise InvalidInput(
                f"taps {names[0]!r} and {name!r} do not have the same rows, so no head can choose between them",
                remedy="train on one of them; probe compares them",
            )
    return LoadedRows([view.views[0] for view in views], views[0].counts, views[0].spans)


def _with_rows(view: LoadedRows, there: Array) -> LoadedRows:
    keep = np.repeat(there, view.counts)
    if keep.all():
        return view
    return LoadedRows([view.views[0][keep]], np.where(there, view.counts, 0), None if view.spans is None else view.spans[keep])


def without_items(rows: LoadedRows, items: Array) -> LoadedRows:
    """Remove the rows of some items, given as a mask of the items that have rows."""
    slots = np.flatnonzero(rows.counts)
    keep = np.repeat(~items, rows.counts[slots])
    if keep.all():
        return rows
    counts = rows.counts.copy()
    counts[slots[items]] = 0
    return LoadedRows([view[keep] for view in rows.views], counts, None if rows.spans is None else rows.spans[keep])


def split_rows(rows: LoadedRows, ends: Array) -> list[LoadedRows]:
    """Split rows into parts that share their memory; each ends before the item of that position among all."""
    at = [0, *np.concatenate([[0], np.cumsum(rows.counts)])[ends].tolist()]
    slots = [0, *ends.tolist()]
    found = []
    for i in range(len(ends)):
        part = slice(at[i], at[i + 1])
        spans = None if rows.spans is None else rows.spans[part]
        found.append(LoadedRows([view[part] for view in rows.views], rows.counts[slots[i] : slots[i + 1]], spans))
    return found
