"""Exact search: blocks of rows go by, and the nearest of each query stay. Memory is bounded.

A block's candidates are those that reach what the k-th best so far has: after the first block that is a handful, and one pass of
comparisons finds them, where a partition of every block would take longer than the products (matrix products in float32).

The blocks come from a build that keeps its vectors, from rows written since, or, where neither is in memory, from the set itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from topwork_server.blocking_calls import Check
from topwork_server.errors import TopworkError
from topwork_server.feature_sets.set_types import ItemBatch, ReadResult, Selection
from topwork_server.features import aranges, starts_of
from topwork_server.indexes.candidates import TopK, empty_top_k
from topwork_server.indexes.prepared_query import NO_MATCH, PreparedQuery
from topwork_server.indexes.row_filter import keys_among
from topwork_server.inference.output_format import normalize
from topwork_server.plugin_api.vector_index import Metric
from topwork_server.types import Array, FingerprintedTap, Granularity

LOWEST = np.finfo(np.float32).min
#: Products of one block: 8 MiB of float32.
BLOCK = 1 << 21
#: A squared distance below this share of the squared lengths has lost digits in |a|^2 + |b|^2 - 2ab: |a - b|^2 is computed again.
CANCELLED = np.float32(1e-3)
#: So many pairs are computed again one by one; where there are more, the block is in float64.
PAIRS = 2048
#: So few items are fetched by key; of more, the whole set goes by.
FETCHED = 20_000
#: Items of one fetch.
FETCH = 2000


def block_rows(vectors: int) -> int:
    """Return how many rows are compared at once with so many query vectors."""
    return max(512, min(65536, BLOCK // max(vectors, 1)))


def slices(start: int, stop: int, size: int) -> Iterator[slice]:
    for at in range(start, stop, size):
        yield slice(at, min(at + size, stop))


@dataclass(frozen=True, slots=True, eq=False)
class RowBlock:
    """Rows: vectors (n, dim) float32 (unit ones for cosine), keys (n,) int64 ascending (so the rows of an item stand
    together), numbers (n,) int32 or None where items have one row, squares (n,) float32 squared lengths if they are known."""

    vectors: Array
    keys: Array
    numbers: Array | None
    squares: Array | None = None

    def select(self, keep: Array | slice) -> RowBlock:
        picked = (None if part is None else part[keep] for part in (self.numbers, self.squares))
        return RowBlock(self.vectors[keep], self.keys[keep], *picked)


class NearestRows:
    """The k nearest items (or rows) of each query among the blocks offered."""

    def __init__(self, query: PreparedQuery) -> None:
        self._query = query
        self._squares = np.einsum("ij,ij->i", query.vectors, query.vectors)[:, None] if query.metric is Metric.L2 else None
        self._best = empty_top_k((query.searched, 0))
        self._threshold = np.full((query.searched, 1), max(query.min_similarity, LOWEST), np.float32)
        self._full = self._several = False

    def offer(self, rows: RowBlock, keep: Array | None = None) -> None:
        """Offer a block of any size; `keep` (n,) bool marks the rows that may be found."""
        for part in slices(0, len(rows.keys), block_rows(len(self._query.vectors))):
            self._offer(rows.select(part), None if keep is None else keep[part])

    def top_k(self) -> TopK:
        return self._deduplicated().top(self._query.k)

    def _offer(self, rows: RowBlock, keep: Array | None) -> None:
        if keep is not None and np.count_nonzero(keep) * 2 < len(keep):
            rows, keep = rows.select(keep), None
        if not len(rows.keys):
            return
        similarity = self._similarities(rows)
        if keep is not None:
            similarity[:, ~keep] = NO_MATCH
        self._several = rows.numbers is not None
        if not self._several or self._query.every_row:
            line, column, values = self._above_threshold(similarity)
            self._append(line, values, rows, column)
        else:
            self._offer_items(similarity, rows)

    def _offer_items(self, similarity: Array, rows: RowBlock) -> None:
        starts = np.flatnonzero(np.diff(rows.keys, prepend=rows.keys[0] - 1))
        line, item, values = self._above_threshold(np.maximum.reduceat(similarity, starts, axis=1))
        self._append(line, values, rows, _first_equal(similarity, line, starts, item, values))

    def _similarities(self, rows: RowBlock) -> Array:
        """Return the nearness (queries, n); rows so long that float32 does not hold it are not there."""
        query = self._query
        with np.errstate(over="ignore", invalid="ignore"):
            similarity: Array = query.vectors @ rows.vectors.T
            if self._squares is not None:
                similarity = np.negative(np.sqrt(self._squared_distances(similarity, rows)))
            if not np.isfinite(similarity.sum()):
                similarity[np.isnan(similarity)] = NO_MATCH
        if query.starts is not None:
            similarity = np.maximum.reduceat(similarity, query.starts, axis=0)
        if query.without is not None:
            first, end = (np.searchsorted(rows.keys, query.without, side) for side in ("left", "right"))
            for line in np.flatnonzero(end > first):
                similarity[line, first[line] : end[line]] = NO_MATCH
        return similarity

    def _squared_distances(self, products: Array, rows: RowBlock) -> Array:
        assert self._squares is not None
        squares = np.einsum("ij,ij->i", rows.vectors, rows.vectors) if rows.squares is None else rows.squares
        lengths = self._squares + squares
        distances: Array = lengths - 2 * products
        line, column = np.nonzero(distances < CANCELLED * lengths)
        if len(line) <= PAIRS:
            between = self._query.vectors[line] - rows.vectors[column]
            distances[line, column] = np.einsum("ij,ij->i", between, between)
            return distances
        return _distances64(self._query.vectors, rows.vectors)

    def _above_threshold(self, similarity: Array) -> tuple[Array, Array, Array]:
        """Find where `similarity` (queries, n) may still be among the k best: lines, columns, values."""
        threshold = self._threshold if self._full else np.maximum(self._threshold, _lower_bound(similarity, self._query.k))
        flat = np.flatnonzero(similarity >= threshold)
        line, column = np.divmod(flat, similarity.shape[1])
        return line, column, similarity.reshape(-1)[flat]

    def _append(self, line: Array, values: Array, rows: RowBlock, column: Array) -> None:
        if not len(line):
            return
        counts = np.bincount(line, minlength=self._query.searched)
        place = aranges(0, counts)
        more = empty_top_k((self._query.searched, int(counts.max())))
        more.similarity[line, place] = values
        more.keys[line, place] = rows.keys[column]
        if rows.numbers is not None:
            more.numbers[line, place] = rows.numbers[column]
        self._best = self._best.concat(more)
        if not self._full or self._best.width > 2 * self._query.k + 64:
            self._truncate()

    def _deduplicated(self) -> TopK:
        """Drop the second of two candidates of an item, whose rows came in two blocks."""
        return self._best.deduplicate(False) if self._several and not self._query.every_row else self._best

    def _truncate(self) -> None:
        """Keep the k best, and know from now on what a row must reach."""
        k = self._query.k
        self._best = self._deduplicated().top(k)
        if self._best.width == k:
            self._threshold = np.maximum(self._threshold, self._best.similarity[:, -1:])
            self._full = bool((self._best.similarity[:, -1] > NO_MATCH).all())


def _distances64(vectors: Array, rows: Array) -> Array:
    a, b = vectors.astype(np.float64), rows.astype(np.float64)
    lengths: Array = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b)
    return np.maximum(lengths - 2 * (a @ b.T), 0).astype(np.float32)


def _lower_bound(similarity: Array, k: int) -> Array:
    """Return a bound (queries, 1) that at least k numbers of each line reach; NO_MATCH where there are fewer.

    The k-th best of the maxima of disjoint parts is that, and costs a fraction of a partition of all.
    """
    queries, n = similarity.shape
    if n < k:
        return np.full((queries, 1), NO_MATCH, np.float32)
    size = max(n // (4 * k), 1)
    parts = n // size
    maxima = similarity[:, : parts * size].reshape(queries, size, parts).max(axis=1) if size > 1 else similarity
    return np.partition(maxima, parts - k, axis=1)[:, parts - k, None]


def _first_equal(similarity: Array, line: Array, starts: Array, item: Array, values: Array) -> Array:
    """Find the first column of each (line, item) that has the item's best value."""
    lengths = np.diff(starts, append=similarity.shape[1])[item]
    if not len(lengths):
        return lengths
    column = aranges(starts[item], lengths)
    best = similarity[np.repeat(line, lengths), column] == np.repeat(values, lengths)
    return np.minimum.reduceat(np.where(best, column, similarity.shape[1]), starts_of(lengths))


class SearchableSet(Protocol):
    """The part of a FeatureSet that a search needs."""

    @property
    def version(self) -> int: ...

    def read(self, selection: Selection) -> ReadResult: ...

    def keys(self, where: str = ..., ids: None = ...) -> tuple[int, Array]: ...

    def fetch(self, keys: Array, *, taps: tuple[str, ...] = ...) -> ItemBatch: ...


def search_set(
    source: SearchableSet, tap: FingerprintedTap, query: PreparedQuery, allowed: Array | None, check: Check
) -> tuple[TopK, int, str, int]:
    """Search all rows of the tap, or those of the items with the sorted keys `allowed`; return the nearest, the set's version,
    how it was done, and how many rows were compared.

    Memory: one block of rows. `check` is called between blocks.
    """
    nearest = NearestRows(query)
    few = allowed is not None and len(allowed) <= FETCHED
    version, blocks = source.version, fetch_items(source, tap, allowed) if few and allowed is not None else None
    if blocks is None:
        reading = source.read(Selection(taps=[tap.tap.name], columns=[]))
        version, blocks = reading.version, reading.batches
    compared = 0
    for block in blocks:
        check()
        rows = to_row_block(block, tap, query.metric)
        compared += len(rows.keys)
        nearest.offer(rows, None if allowed is None else keys_among(rows.keys, allowed))
    return nearest.top_k(), version, "exact" if allowed is None else f"exact over {len(allowed)} matches", compared


def fetch_items(source: SearchableSet, tap: FingerprintedTap, keys: Array) -> Iterator[ItemBatch]:
    """Yield the items with these keys that are still there."""
    for at in range(0, len(keys), FETCH):
        yield source.fetch(keys[at : at + FETCH], taps=(tap.tap.name,))


def to_row_block(block: ItemBatch, tap: FingerprintedTap, metric: Metric) -> RowBlock:
    """Take the tap's rows of a block as they are searched: of unit length for cosine, ascending by key."""
    found = next((t for t in block.taps if t.tap.tap.name == tap.tap.name), None)
    if found is None or block.keys is None:
        raise TopworkError(f"a block of the set came without its keys or without tap {tap.tap.name!r}")
    counts = np.asarray(found.counts, np.int64)
    keys, numbers = np.repeat(block.keys, counts), aranges(np.zeros_like(counts), counts).astype(np.int32)
    vectors = np.ascontiguousarray(found.rows, np.float32)
    if len(keys) and (np.diff(block.keys) < 0).any():
        order = np.argsort(keys, kind="stable")
        vectors, keys, numbers = vectors[order], keys[order], numbers[order]
    vectors = normalize(vectors) if metric is Metric.COSINE else vectors
    return RowBlock(vectors, keys, numbers if has_several_rows(tap) else None)


def has_several_rows(tap: FingerprintedTap) -> bool:
    """Tell whether an item can have several rows."""
    return tap.tap.granularity is not Granularity.ITEM
