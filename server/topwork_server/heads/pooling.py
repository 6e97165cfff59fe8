"""Pooling of an item's rows to what a head reads. Training and serving run the same code."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.features import TapRows, starts_of, sums_of
from topwork_server.heads.head_types import HeadDefinition, Pooling, Task
from topwork_server.types import Array, FingerprintedTap, Granularity, Tap

FACTORS = {Pooling.MEAN_STD: 2, Pooling.PAIR: 4}
#: Poolings of items with two rows, one for each side of a pair.
TOWERS = (Pooling.TWO_TOWER, Pooling.COSINE)
#: The granularity that a task with a value per row reads, and the part of a text (0: text, 1: pair) that its rows belong to.
GRANULARITIES = {
    Task.TAGGING: Granularity.TOKEN,
    Task.QUESTION_ANSWERING: Granularity.TOKEN,
    Task.SEGMENTATION: Granularity.CELL,
    Task.DETECTION: Granularity.CELL,
}
PARTS = {Task.TAGGING: 0, Task.QUESTION_ANSWERING: 1}


def default_pooling(task: Task, granularity: Granularity) -> Pooling:
    """The pooling where a request names none."""
    if task.every_row:
        return Pooling.ROWS
    return Pooling.ROW if granularity is Granularity.ITEM else Pooling.MEAN


def possible_poolings(task: Task, granularity: Granularity) -> tuple[Pooling, ...]:
    """Return all poolings that suit a task, the default one first."""
    first = default_pooling(task, granularity)
    if first is Pooling.ROW:
        return (first, *TOWERS)
    if first is not Pooling.MEAN:
        return (first,)
    several = (Pooling.MEAN, Pooling.MAX, Pooling.MEAN_STD)
    return (*several, Pooling.PAIR, *TOWERS) if granularity is Granularity.TOKEN else several


def check_pooling(task: Task, tap: Tap, pooling: Pooling) -> None:
    """Raise InvalidInput where the task cannot read this tap, or not with this pooling."""
    needed = GRANULARITIES.get(task)
    if needed is not None and tap.granularity is not needed:
        raise InvalidInput(
            f"{task} needs a row for each {needed}, and tap {tap.name!r} has one for each {tap.granularity}",
            remedy=f"choose a tap of {needed} rows, of a set that has one",
        )
    there = possible_poolings(task, tap.granularity)
    if pooling not in there:
        raise InvalidInput(
            f"pooling {pooling.value!r} does not suit {task} on tap {tap.name!r}, which has {_rows(tap.granularity)}",
            remedy=f"choose {' or '.join(repr(one.value) for one in there)}",
        )


def dim_after(pooling: Pooling, dim: int) -> int:
    if pooling in TOWERS:
        return 1 if pooling is Pooling.COSINE else 4 * dim + 1
    return FACTORS.get(pooling, 1) * dim


def rows_read(task: Task, rows: TapRows) -> Array:
    """Select the rows that the task reads, (n,) bool.

    Tagging reads those of the text, question answering those of the pair, which is the context, other tasks all.
    """
    part = PARTS.get(task)
    if part is None:
        return np.ones(len(rows.rows), bool)
    parts = _parts(rows)
    if parts is None:
        return np.full(len(rows.rows), part == 0)
    return np.asarray(parts == part)


def usable_items(task: Task, pooling: Pooling, rows: TapRows) -> Array:
    """Tell which items have the rows that `pool_rows` needs, (items,) bool."""
    if pooling is Pooling.PAIR:
        parts = _parts(rows)
        if parts is None:
            return np.zeros(len(rows.counts), bool)
        return (sums_of(parts == 0, rows.counts) > 0) & (sums_of(parts == 1, rows.counts) > 0)
    if pooling in TOWERS:
        return np.asarray(rows.counts == 2)
    counts = sums_of(rows_read(task, rows), rows.counts)
    return np.asarray(counts == 1 if pooling is Pooling.ROW else counts > 0)


def chosen_items(rows: TapRows, chosen: Array) -> TapRows:
    """Take the rows of some of the items, (items,) bool."""
    return rows if chosen.all() else rows.take(np.flatnonzero(chosen))


def pool_rows(task: Task, pooling: Pooling, rows: TapRows) -> tuple[Array, Array]:
    """Pool to what a head reads: (n, dim_after) float32, C-contiguous, and the number of rows of each item, (items,) int64.

    InvalidInput with the position of an item that lacks the rows it needs.
    """
    lacking = np.flatnonzero(~usable_items(task, pooling, rows))
    if len(lacking):
        raise _lacking(task, pooling, rows, int(lacking[0]))
    if pooling is Pooling.ROWS:
        chosen = rows_read(task, rows)
        whole = chosen.all()
        return _float32(rows.rows if whole else rows.rows[chosen]), sums_of(chosen, rows.counts)
    with np.errstate(over="ignore", invalid="ignore"):  # of huge numbers, whose scores are then found not to be finite
        pooled = _float32(reduce_rows(pooling, rows))
    return pooled, np.ones(len(rows.counts), np.int64)


def trained_views(definition: HeadDefinition) -> tuple[tuple[FingerprintedTap, Pooling], ...]:
    """Return the taps and poolings that a trainer chooses from; with `combine` the one of all side by side."""
    if not definition.combine:
        return definition.views
    tap = combined_tap(definition.all_views)
    tap = replace(tap, tap=replace(tap.tap, name="+".join(definition.tap_names)))
    return ((tap, Pooling.ROWS if definition.task.every_row else Pooling.ROW),)


def combined_tap(parts: Sequence[tuple[FingerprintedTap, Pooling]]) -> FingerprintedTap:
    """Describe the rows of several taps side by side, with a fingerprint over all of theirs: one pooled row an item, or all
    cells of the finest grid, which is the first's."""
    name = "+".join(info.tap.name for info, _ in parts)
    dim = sum(dim_after(how, info.tap.dim) for info, how in parts)
    read = "\n".join(f"{info.fingerprint} {how.value}" for info, how in parts)
    first, cells = parts[0][0].tap, parts[0][1] is Pooling.ROWS
    tap = Tap(name, dim, first.granularity, first.grid) if cells else Tap(name, dim, Granularity.ITEM)
    return FingerprintedTap(tap, hashlib.sha256(read.encode()).hexdigest())


def combine_rows(task: Task, parts: Sequence[tuple[FingerprintedTap, Pooling]], rows: Sequence[TapRows]) -> TapRows:
    """Pool the rows of each tap and put them side by side; cells are repeated on the finest grid. An item that lacks the rows
    of one of them has none."""
    usable = np.logical_and.reduce([usable_items(task, how, of) for (_, how), of in zip(parts, rows, strict=True)])
    rows, tap = [chosen_items(of, usable) for of in rows], combined_tap(parts)
    pooled = [
        repeat_cells(pool_rows(task, how, of)[0], info.tap.grid, tap.tap.grid)
        for (info, how), of in zip(parts, rows, strict=True)
    ]
    counts, spans = usable.astype(np.int64), None
    if tap.tap.grid:
        counts, spans = counts * math.prod(tap.tap.grid), rows[0].spans
    return TapRows(tap, np.concatenate(pooled, axis=1), counts, spans)


def repeat_cells(rows: Array, grid: tuple[int, int] | None, finer: tuple[int, int] | None) -> Array:
    """Give each cell of a finer grid the row of the cell that holds its center, picture by picture. Other rows stay."""
    if grid is None or finer is None or grid == finer:
        return rows
    pictures = rows.reshape(-1, math.prod(grid), rows.shape[1])
    return np.ascontiguousarray(pictures[:, cells_below(grid, finer)].reshape(-1, rows.shape[1]))


def cells_below(grid: tuple[int, int], finer: tuple[int, int]) -> Array:
    """Find for each cell of a finer grid, row-major, the cell that holds its center, (cells,) int64."""
    y, x = (((np.arange(many) + 0.5) * few / many).astype(np.int64) for few, many in zip(grid, finer, strict=True))
    return (y[:, None] * grid[1] + x).ravel()


def _lacking(task: Task, pooling: Pooling, rows: TapRows, item: int) -> InvalidInput:
    name = rows.tap.tap.name
    if pooling in (Pooling.PAIR, *TOWERS) or task is Task.QUESTION_ANSWERING:
        return InvalidInput(
            f"tap {name!r} has not both parts of a pair of texts for it",
            remedy="send a text and its pair, neither empty",
            item=item,
        )
    if pooling is Pooling.ROW and rows.counts[item]:
        return InvalidInput(f"tap {name!r} has {rows.counts[item]} rows for it", remedy="say how they are pooled", item=item)
    return InvalidInput(f"tap {name!r} has no row for it", remedy="an empty item has no features: leave it out", item=item)


def reduce_rows(pooling: Pooling, rows: TapRows) -> Array:
    """Reduce the rows of each item, at least one, to a single row."""
    if pooling is Pooling.ROW or not len(rows.counts):
        return rows.rows if pooling is Pooling.ROW else np.empty((0, dim_after(pooling, rows.tap.tap.dim)))
    if pooling in TOWERS:
        return _float32(_towers(pooling, rows.rows[::2].astype(np.float64), rows.rows[1::2].astype(np.float64)))
    if pooling is Pooling.MAX:
        return np.asarray(np.maximum.reduceat(rows.rows, starts_of(rows.counts), axis=0))
    if pooling is Pooling.PAIR:
        return _pair(rows)
    mean = _mean(rows.rows, rows.counts)
    if pooling is Pooling.MEAN:
        return mean
    spread = _mean((rows.rows - np.repeat(mean, rows.counts, axis=0)) ** 2, rows.counts)
    return np.concatenate([mean, np.sqrt(spread)], axis=1)


def _pair(rows: TapRows) -> Array:
    """Concatenate u, v, |u - v|, u * v, as InferSent joins two sentences (Conneau et al. 2017, section 3.1)."""
    parts = _parts(rows)
    assert parts is not None, "usable items have parts"
    u, v = (_mean(rows.rows[parts == part], sums_of(parts == part, rows.counts)) for part in (0, 1))
    return np.concatenate([u, v, np.abs(u - v), u * v], axis=1)


def _towers(pooling: Pooling, u: Array, v: Array) -> Array:
    lengths = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
    cosine = ((u * v).sum(axis=1) / np.where(lengths > 0, lengths, 1))[:, None]
    return cosine if pooling is Pooling.COSINE else np.concatenate([u, v, np.abs(u - v), u * v, cosine], axis=1)


def _mean(rows: Array, counts: Array) -> Array:
    """The mean of each item's rows, summed in float64 in order, so that it does not depend on other items."""
    return np.asarray(np.add.reduceat(rows, starts_of(counts), axis=0, dtype=np.float64) / counts[:, None])


def _parts(rows: TapRows) -> Array | None:
    return None if rows.spans is None else rows.spans.parts


def _rows(granularity: Granularity) -> str:
    return "one row an item" if granularity is Granularity.ITEM else f"a row for each {granularity}"


def _float32(rows: Array) -> Array:
    return np.ascontiguousarray(rows, np.float32)
