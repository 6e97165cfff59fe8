"""Finds rows that are equal as features, though their bytes may differ: copies, and copies that were rounded.

A head that was trained on a row knows the label of its copy, so that both belong on one side of every split.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from topwork_server.inference.output_format import normalize
from topwork_server.types import Array

#: Two rows are equal where they differ by less than this share of a column's spread (the root mean square over columns). float16
#: moves a row of unit columns by 0.0005 of it, bfloat16 by 0.003, two decimals by 0.005. Few columns leave many rows near one
#: another by chance, so that they are held to less.
CLOSE, FULL_DIM = 1e-2, 8
#: A column whose spread is below the rounding of float32 is constant.
ROUNDING = float(np.finfo(np.float32).eps)
#: Rows that tell a column's spread, and rows handled at a time.
SAMPLE, CHUNK = 1024, 8192
#: Columns of the projection in which candidates are found, neighbors looked at in one round, and rounds at most.
PROJECTED, NEAR, ROUNDS = 8, 8, 20
#: Rows and edges for which numpy is quick enough: scipy takes 0.6 s to import.
FEW, BLOCK = 2000, 128


def equal_rows(rows: Array, by_direction: bool = False) -> Array:
    """Find for each row of (n, dim) the position of the first row that equals it, (n,) int64.

    Positive multiples of one another are equal, too, since a head often scales by itself: always `by_direction`, else where there
    are so many columns that rows do not point one way by chance. Where all rows are equal, none tells another's label, and each
    stands for itself.
    """
    dim = rows.shape[1]
    if dim >= FULL_DIM:
        return _equal(normalize(rows))
    found = _equal(rows)
    if not by_direction or dim < 2:
        return found
    places = np.arange(len(rows))
    edges = [np.stack([places, firsts], axis=1) for firsts in (found, _equal(normalize(rows)))]
    return _first_of_components(np.concatenate(edges), len(rows))


def item_means(rows: Array, items: Array, count: int) -> Array:
    """Compute the mean of each item's rows, (count, dim) float32; it stands for all of them, in any order."""
    sizes = np.bincount(items, minlength=count)
    starts = np.cumsum(sizes) - sizes
    return np.asarray(np.add.reduceat(rows, starts, axis=0, dtype=np.float64) / sizes[:, None], np.float32)


def _equal(rows: Array) -> Array:
    alone = np.arange(len(rows))
    if len(rows) < 2:
        return alone
    center, spread = centers_and_spreads(rows)
    if not (spread > 0).any():
        return alone
    found = _Groups(rows, center, spread).find()
    return found if found.any() else alone


def centers_and_spreads(rows: Array) -> tuple[Array, Array]:
    """Compute the median of each column and its spread, (dim,) float64 both.

    The spread is the median of the deviations that are not 0, which no outlier moves; it is 0 for constant columns.
    """
    some = rows[:: max(1, len(rows) // SAMPLE)].astype(np.float64)
    center = np.median(some, axis=0)
    off = np.abs(some - center)
    off[off <= ROUNDING * np.abs(center)] = np.inf
    there = np.isfinite(off).sum(axis=0)
    middle = np.take_along_axis(np.sort(off, axis=0), np.maximum(there - 1, 0)[None] // 2, axis=0)[0]
    spread = np.where(there > 0, middle, 0.0)
    rare = spread == 0
    if rare.any():
        spread[rare] = np.maximum(rows[:, rare].max(axis=0) - center[rare], center[rare] - rows[:, rare].min(axis=0))
    return center, np.where(spread <= ROUNDING * np.abs(center), 0.0, spread)


class _Groups:
    """Groups of equal rows. `firsts` holds, so far, the first row of each row's group."""

    def __init__(self, rows: Array, center: Array, spread: Array) -> None:
        self._rows, self._center = rows, center
        varies = spread > 0
        varying = int(varies.sum())
        self._scale = np.where(varies, 1 / np.where(varies, spread, 1.0), 0.0) / np.sqrt(varying)
        self.radius = CLOSE * min(1.0, varying / FULL_DIM)
        self._points = self._projected(min(PROJECTED, rows.shape[1]))
        self.firsts = self._same_cells()

    def find(self) -> Array:
        for _ in range(ROUNDS):
            leaders = np.flatnonzero(self.firsts == np.arange(len(self.firsts)))
            pairs = self._close_pairs(leaders)
            if not len(pairs):
                break
            self._join(leaders, pairs)
        return self.firsts

    def _scaled(self, positions: Array) -> Array:
        return np.asarray((self._rows[positions].astype(np.float64) - self._center) * self._scale)

    def _projected(self, columns: int) -> Array:
        """Onto random directions at right angles: no pair is farther apart than it was."""
        dim = self._rows.shape[1]
        basis = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, columns)))[0]
        starts = range(0, len(self._rows), CHUNK)
        return np.concatenate([self._scaled(np.arange(len(self._rows))[start : start + CHUNK]) @ basis for start in starts])

    def _same_cells(self) -> Array:
        """Exact copies fall into one cell of a grid that is far finer than the radius: a tree of copies alone would be slow."""
        cells = np.floor(self._points * (64 / self.radius)).clip(-(2.0**62), 2.0**62).astype(np.int64)
        _, first, of = np.unique(cells, axis=0, return_index=True, return_inverse=True)
        return np.asarray(first[of.reshape(-1)], np.int64)

    def _close_pairs(self, leaders: Array) -> Array:
        """Find (pairs, 2) positions in `leaders` that are within the radius of each other."""
        if len(leaders) < 2:
            return np.zeros((0, 2), np.int64)
        points = self._points[leaders]
        pairs = _pairs(points, self.radius) if len(points) <= FEW else _pairs_of_many(points, self.radius)
        parts = [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]
        close = [self._distances(leaders[part[:, 0]], leaders[part[:, 1]]) <= self.radius for part in parts]
        return np.asarray(pairs[np.concatenate([np.zeros(0, bool), *close])])

    def _distances(self, some: Array, others: Array) -> Array:
        return np.asarray(np.linalg.norm(self._scaled(some) - self._scaled(others), axis=-1))

    def _join(self, leaders: Array, pairs: Array) -> None:
        first = _first_of_components(pairs, len(leaders))
        moved = np.arange(len(self.firsts))
        for members in _components(first):
            for leader, mine in self._compact(leaders[members]):
                moved[mine] = leader
        self.firsts = moved[self.firsts]

    def _compact(self, members: Array) -> Iterator[tuple[int, Array]]:
        """Yield a component as it is where all of it lies around its first row.

        Rows that are dense in few columns make chains: these are cut into parts around one row each.
        """
        left, reach = members, 2 * self.radius
        while len(left):
            distances = self._distances(left, left[:1])
            inside = distances <= reach
            if inside.all() or reach == self.radius:
                yield int(left[0]), left[inside]
                left = left[~inside]
            else:
                reach = self.radius


def _pairs(points: Array, radius: float) -> Array:
    """Find pairs of points that are within the radius in each column, (pairs, 2), the first below the second."""
    found = []
    for start in range(0, len(points), BLOCK):
        apart = np.abs(points[start : start + BLOCK, :1] - points[:, 0])
        first, second = np.nonzero(apart <= radius)
        near = (np.abs(points[first + start] - points[second]) <= radius).all(axis=1)
        found.append(np.stack([first[near] + start, second[near]], axis=1))
    every = np.concatenate(found)
    return every[every[:, 0] < every[:, 1]]


def _pairs_of_many(points: Array, radius: float) -> Array:
    """Find the same pairs, among each point and those nearest to it."""
    from scipy.spatial import KDTree

    near = KDTree(points).query(points, k=NEAR + 1, distance_upper_bound=radius)[1]
    one, at = np.nonzero(near < len(points))
    other = near[one, at]
    return np.asarray(np.stack([one, other], axis=1)[one < other])


def components(edges: Array, count: int) -> Array:
    """Number the components of a graph of (n, 2) edges, (count,) int64, in the order of their first nodes."""
    edges = edges[edges[:, 0] != edges[:, 1]]
    roots = _roots(edges, count) if len(edges) <= FEW else _labels(edges, count)
    _, first, of = np.unique(roots, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[of], np.int64)


def _roots(edges: Array, count: int) -> Array:
    """Union-find."""
    parents = list(range(count))

    def root(node: int) -> int:
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    for a, b in edges.tolist():
        first, second = sorted((root(a), root(b)))
        parents[second] = first
    return np.array([root(node) for node in range(count)], np.int64)


def _labels(edges: Array, count: int) -> Array:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), (count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _first_of_components(edges: Array, count: int) -> Array:
    """Find for each node the first one that it is connected with, (count,)."""
    _, first, of = np.unique(components(edges, count), return_index=True, return_inverse=True)
    return np.asarray(first[of], np.int64)


def _components(first: Array) -> list[Array]:
    """List the positions of each component of several nodes."""
    order = np.argsort(first, kind="stable")
    edges = np.flatnonzero(np.diff(first[order])) + 1
    return [part for part in np.split(order, edges) if len(part) > 1]
