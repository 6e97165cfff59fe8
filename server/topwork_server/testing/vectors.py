"""Vectors for the contract of indexes: clustered rows, their exact nearest neighbors, and the recall of what an index found."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from topwork_server.plugin_api.vector_index import Metric
from topwork_server.types import Array

#: Neighbors that are looked for.
K = 10


class ArrayVectors:
    """Vectors of an array, a few at a time, in a buffer that the next batch overwrites: what an index keeps of it, it copies."""

    def __init__(self, rows: Array, batch: int = 700) -> None:
        self.rows = np.ascontiguousarray(rows, np.float32)
        self.count, self.dim = self.rows.shape
        self.batch = batch

    def batches(self) -> Iterator[Array]:
        buffer = np.empty((min(self.batch, self.count), self.dim), np.float32)
        for start in range(0, self.count, self.batch):
            part = buffer[: min(self.batch, self.count - start)]
            part[:] = self.rows[start : start + self.batch]
            yield part
        buffer[:] = np.nan

    def sample(self, most: int) -> Array:
        chosen = np.random.default_rng(0).permutation(self.count)[:most]
        return np.ascontiguousarray(self.rows[chosen])


def clustered(rows: int, dim: int, metric: Metric, seed: int = 0) -> Array:
    """Draw (rows, dim) float32 around 40 centers that every seed shares; unit vectors of COSINE."""
    centers = np.random.default_rng(99).standard_normal((40, dim))
    random = np.random.default_rng(seed)
    found = centers[random.integers(40, size=rows)] + 0.5 * random.standard_normal((rows, dim))
    if metric is Metric.COSINE:
        found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found.astype(np.float32)


def true_scores(queries: Array, rows: Array, metric: Metric) -> Array:
    """Compute (q, n) float64 scores as Metric has them."""
    queries, rows = queries.astype(np.float64), rows.astype(np.float64)
    if metric is not Metric.L2:
        return np.asarray(queries @ rows.T)
    return np.asarray(np.sqrt(((queries[:, None] - rows) ** 2).sum(axis=2)))


def nearest(queries: Array, rows: Array, metric: Metric, allowed: Array | None = None) -> Array:
    """Find (q, K) positions by comparing with every row, allowed ones only."""
    scores = true_scores(queries, rows, metric) * (1 if metric is Metric.L2 else -1)
    if allowed is not None:
        scores[:, ~allowed] = np.inf
    return np.argsort(scores, axis=1, kind="stable")[:, :K]


def recall(found: Array, expected: Array) -> float:
    """The share of `expected` that was found; both (q, k), -1 for nothing."""
    hits = [len(set(f[f >= 0]) & set(e)) / max(1, len(e)) for f, e in zip(found, expected, strict=True)]
    return float(np.mean(hits))
