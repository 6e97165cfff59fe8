"""Exact search: blocks of rows go by, and the nearest of each query stay. Matrix products in float32; memory is bounded.

A block's candidates are those that reach what the k-th best so far has: after the first block that is a handful, and one pass of
comparisons finds them, where a partition of every block would take longer than the products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from topwork_server.indexes.candidates import TopK, empty
from topwork_server.indexes.prepared_query import NOWHERE, PreparedQuery
from topwork_server.plugin_api.vector_index import Metric
from topwork_server.types import Array

LOWEST = np.finfo(np.float32).min
#: Products of one block: 8 MiB of float32.
BLOCK = 1 << 21
#: A squared distance below this share of the squared lengths has lost digits in |a|^2 + |b|^2 - 2ab: |a - b|^2 is taken anew.
CANCELLED = np.float32(1e-3)
#: So many pairs are taken anew one by one; where there are more, the block is in float64.
PAIRS = 2048


def block_rows(vectors: int) -> int:
    """How many rows go by at once beside so many query vectors."""
    return max(512, min(65536, BLOCK // max(vectors, 1)))


def pieces(start: int, stop: int, size: int) -> Iterator[slice]:
    for at in range(start, stop, size):
        yield slice(at, min(at + size, stop))


@dataclass(frozen=True, slots=True, eq=False)
class RowBlock:
    """A block: vectors (n, dim) float32 (unit ones for cosine), keys (n,) int64 ascending (so the rows of an item stand
    together), numbers (n,) int32 or None where items have one row, squares (n,) float32 squared lengths if they are known."""

    vectors: Array
    keys: Array
    numbers: Array | None
    squares: Array | None = None

    def where(self, keep: Array | slice) -> RowBlock:
        picked = (None if part is None else part[keep] for part in (self.numbers, self.squares))
        return RowBlock(self.vectors[keep], self.keys[keep], *picked)


class NearestRows:
    """The k nearest items (or rows) of each query among the blocks offered."""

    def __init__(self, asked: PreparedQuery) -> None:
        self._asked = asked
        self._squares = np.einsum("ij,ij->i", asked.vectors, asked.vectors)[:, None] if asked.metric is Metric.L2 else None
        self._held = empty((asked.searched, 0))
        self._reach = np.full((asked.searched, 1), max(asked.least, LOWEST), np.float32)
        self._full = self._several = False

    def offer(self, rows: RowBlock, keep: Array | None = None) -> None:
        """A block of any size; `keep` (n,) bool says which of its rows may be found."""
        for part in pieces(0, len(rows.keys), block_rows(len(self._asked.vectors))):
            self._offer(rows.where(part), None if keep is None else keep[part])

    def found(self) -> TopK:
        return self._once().best(self._asked.k)

    def _offer(self, rows: RowBlock, keep: Array | None) -> None:
        if keep is not None and np.count_nonzero(keep) * 2 < len(keep):
            rows, keep = rows.where(keep), None
        if not len(rows.keys):
            return
        near = self._near(rows)
        if keep is not None:
            near[:, ~keep] = NOWHERE
        self._several = rows.numbers is not None
        if not self._several or self._asked.every_row:
            line, column, values = self._reaching(near)
            self._hold(line, values, rows, column)
        else:
            self._offer_items(near, rows)

    def _offer_items(self, near: Array, rows: RowBlock) -> None:
        starts = np.flatnonzero(np.diff(rows.keys, prepend=rows.keys[0] - 1))
        line, item, values = self._reaching(np.maximum.reduceat(near, starts, axis=1))
        self._hold(line, values, rows, _first_equal(near, line, starts, item, values))

    def _near(self, rows: RowBlock) -> Array:
        """(queries, n) nearness."""
        asked = self._asked
        near: Array = asked.vectors @ rows.vectors.T
        if self._squares is not None:
            near = np.negative(np.sqrt(self._squared_distances(near, rows)))
        if asked.starts is not None:
            near = np.maximum.reduceat(near, asked.starts, axis=0)
        if asked.without is not None:
            first, end = (np.searchsorted(rows.keys, asked.without, side) for side in ("left", "right"))
            for query in np.flatnonzero(end > first):
                near[query, first[query] : end[query]] = NOWHERE
        return near

    def _squared_distances(self, products: Array, rows: RowBlock) -> Array:
        assert self._squares is not None
        squares = np.einsum("ij,ij->i", rows.vectors, rows.vectors) if rows.squares is None else rows.squares
        lengths = self._squares + squares
        distances: Array = lengths - 2 * products
        line, column = np.nonzero(distances < CANCELLED * lengths)
        if len(line) <= PAIRS:
            between = self._asked.vectors[line] - rows.vectors[column]
            distances[line, column] = np.einsum("ij,ij->i", between, between)
            return distances
        return _distances64(self._asked.vectors, rows.vectors)

    def _reaching(self, near: Array) -> tuple[Array, Array, Array]:
        """Where `near` (queries, n) reaches what may still be among the k best: lines, columns, values."""
        reach = self._reach if self._full else np.maximum(self._reach, _reached_by(near, self._asked.k))
        flat = np.flatnonzero(near >= reach)
        line, column = np.divmod(flat, near.shape[1])
        return line, column, near.reshape(-1)[flat]

    def _hold(self, line: Array, values: Array, rows: RowBlock, column: Array) -> None:
        if not len(line):
            return
        counts = np.bincount(line, minlength=self._asked.searched)
        place = np.arange(len(line)) - np.repeat(np.cumsum(counts) - counts, counts)
        more = empty((self._asked.searched, int(counts.max())))
        more.near[line, place] = values
        more.keys[line, place] = rows.keys[column]
        if rows.numbers is not None:
            more.numbers[line, place] = rows.numbers[column]
        self._held = self._held.beside(more)
        if not self._full or self._held.width > 2 * self._asked.k + 64:
            self._cut()

    def _once(self) -> TopK:
        """An item whose rows came in two blocks is held twice."""
        return self._held.once(False) if self._several and not self._asked.every_row else self._held

    def _cut(self) -> None:
        """Keep the k best, and know from now on what a row must reach."""
        k = self._asked.k
        self._held = self._once().best(k)
        if self._held.width == k:
            self._reach = np.maximum(self._reach, self._held.near[:, -1:])
            self._full = bool((self._held.near[:, -1] > NOWHERE).all())


def _distances64(vectors: Array, rows: Array) -> Array:
    a, b = vectors.astype(np.float64), rows.astype(np.float64)
    lengths: Array = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b)
    return np.maximum(lengths - 2 * (a @ b.T), 0).astype(np.float32)


def _reached_by(near: Array, k: int) -> Array:
    """(queries, 1): something that at least k numbers of each line reach; NOWHERE where there are fewer.

    The k-th best of the maxima of disjoint parts is that, and costs a fraction of a partition of all.
    """
    queries, n = near.shape
    if n < k:
        return np.full((queries, 1), NOWHERE, np.float32)
    size = max(n // (4 * k), 1)
    parts = n // size
    maxima = near[:, : parts * size].reshape(queries, size, parts).max(axis=1) if size > 1 else near
    return np.partition(maxima, parts - k, axis=1)[:, parts - k, None]


def _first_equal(near: Array, line: Array, starts: Array, item: Array, values: Array) -> Array:
    """The first column of each (line, item) that has the item's best value."""
    lengths = np.diff(starts, append=near.shape[1])[item]
    offsets = np.cumsum(lengths) - lengths
    if not len(lengths):
        return lengths
    column = np.arange(lengths.sum()) - np.repeat(offsets - starts[item], lengths)
    best = near[np.repeat(line, lengths), column] == np.repeat(values, lengths)
    return np.minimum.reduceat(np.where(best, column, near.shape[1]), offsets)
