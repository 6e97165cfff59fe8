"""A graph of nearest neighbours, and labels that spread along it. Numpy alone: exact, and the same each time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.inference.output_format import normalize
from topwork_server.types import Array

#: Similarities that are held at once, and numbers of one step of a spread.
BLOCK = 1 << 24
#: As Zhou et al. 2004 have it, alpha is the share that comes from neighbours; 0.99 there, 0.9 leaves labels more weight. After so
#: many steps what is missing of the limit is below 0.9^60 = 0.002.
ALPHA, STEPS = 0.9, 60


def nearest(queries: Array, rows: Array, k: int, itself: bool = False) -> tuple[Array, Array]:
    """The k nearest rows of each query by cosine: similarities (q, k) float32 and positions (q, k) int64, in no order.

    Both are of unit length. `itself`: the queries are the rows, and none is its own neighbour. Fewer than k where there are
    fewer rows.
    """
    k = max(0, min(k, len(rows) - itself))
    found, positions = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    step = max(1, BLOCK // max(1, len(rows)))
    for start in range(0, len(queries) if k else 0, step):
        block = queries[start : start + step] @ rows.T
        if itself:
            block[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        best = np.argpartition(-block, k - 1, axis=1)[:, :k]
        positions[start : start + step] = best
        found[start : start + step] = np.take_along_axis(block, best, axis=1)
    return found, positions


class NeighborPropagation:
    """Of unlabelled rows among one another, found once; labelled rows come and go with each subset."""

    def __init__(self, rows: Array, k: int) -> None:
        self.rows, self.k = normalize(rows), k
        self._near = nearest(self.rows, self.rows, k, itself=True)

    def with_labelled(self, rows: Array) -> NeighborGraph:
        """The graph of those rows (first) and the unlabelled ones, k neighbours each."""
        mine, count = normalize(rows), len(rows)
        both = np.concatenate([mine, self.rows])
        ours = nearest(mine, both, self.k + 1)  # itself among them
        to_mine = nearest(self.rows, mine, self.k)
        similar = np.concatenate([self._near[0], to_mine[0]], axis=1)
        places = np.concatenate([self._near[1] + count, to_mine[1]], axis=1)
        k = min(self.k, similar.shape[1])
        best = np.argpartition(-similar, k - 1, axis=1)[:, :k] if k else np.empty((len(similar), 0), np.int64)
        theirs = np.take_along_axis(similar, best, axis=1), np.take_along_axis(places, best, axis=1)
        sources = np.concatenate([_repeated(0, ours[1]), _repeated(count, theirs[1])])
        return graph(
            sources,
            np.concatenate([ours[1].ravel(), theirs[1].ravel()]),
            np.concatenate([ours[0].ravel(), theirs[0].ravel()]),
            len(both),
        )


def _repeated(first: int, places: Array) -> Array:
    return np.repeat(first + np.arange(len(places)), places.shape[1])


@dataclass(frozen=True)
class NeighborGraph:
    """Edges in the order of their sources: those of node i are edges starts[i] .. starts[i + 1] - 1."""

    starts: Array
    ends: Array
    weights: Array

    def spread(self, labels: Array) -> Array:
        """F of F = alpha S F + (1 - alpha) Y, for Y = (nodes, classes) float32 (Zhou et al. 2004, section 2)."""
        found = labels
        for _ in range(STEPS):
            found = ALPHA * self._times(found) + (1 - ALPHA) * labels
        return found

    def _times(self, values: Array) -> Array:
        """S @ values, a few nodes at a time."""
        result = np.zeros_like(values)
        most = max(1, BLOCK // values.shape[1])
        first, nodes = 0, len(values)
        while first < nodes:
            last = max(first + 1, int(np.searchsorted(self.starts, self.starts[first] + most, side="right")) - 1)
            edges = slice(self.starts[first], self.starts[last])
            there = first + np.flatnonzero(np.diff(self.starts[first : last + 1]))
            if len(there):
                weighted = values[self.ends[edges]] * self.weights[edges, None]
                result[there] = np.add.reduceat(weighted, self.starts[there] - self.starts[first], axis=0)
            first = last
        return result


def graph(sources: Array, ends: Array, similar: Array, nodes: int) -> NeighborGraph:
    """Of neighbours either way, each edge once, without loops: S = D^-1/2 W D^-1/2, where W are cosines, none below 0."""
    kept = (sources != ends) & (similar > 0)
    a, b, weights = sources[kept], ends[kept], similar[kept]
    keys = np.concatenate([a * nodes + b, b * nodes + a])
    keys, first = np.unique(keys, return_index=True)
    sources, ends, weights = keys // nodes, keys % nodes, np.concatenate([weights, weights])[first]
    degrees = np.maximum(np.bincount(sources, weights, nodes), np.finfo(np.float32).tiny)
    weights = (weights / np.sqrt(degrees[sources] * degrees[ends])).astype(np.float32)
    return NeighborGraph(np.searchsorted(sources, np.arange(nodes + 1)), ends, weights)
