"""faiss's distances as Metric has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from topwork_server import Array, Metric

#: Below this share of |query|^2 + |row|^2 a squared distance that came out of a matrix product has lost more than three digits.
NEAR = 1e-3


def worst(metric: Metric) -> float:
    """The score of a place where nothing was found."""
    return float("inf") if metric is Metric.L2 else float("-inf")


def from_distances(distances: Array, positions: Array, metric: Metric, by_l2: bool) -> Array:
    """(q, k) float32 scores. `by_l2` says that the distances are squared L2: those of unit vectors are 2 - 2 cosine."""
    if by_l2:
        distances = np.maximum(distances, 0)
        scores = np.sqrt(distances) if metric is Metric.L2 else 1 - distances / 2
    else:
        scores = distances
    return np.where(positions >= 0, scores, np.float32(worst(metric))).astype(np.float32, copy=False)


def recompute_small_distances(rows: Any, queries: Array, distances: Array, positions: Array) -> None:
    """Compute the small ones of squared L2 `distances` (q, k) anew from `rows`, in place, and order them: |x|^2 + |y|^2 - 2xy
    says 3e-4 of a unit vector and itself."""
    norms = np.einsum("qd,qd->q", queries, queries)[:, None]
    near = (distances < NEAR * 2 * norms) & (positions >= 0)
    if not near.any():
        return
    which, where = np.nonzero(near)
    apart = queries[which] - rows[positions[which, where]]
    distances[which, where] = np.einsum("nd,nd->n", apart, apart)
    touched = np.unique(which)
    order = np.argsort(distances[touched], axis=1, kind="stable")
    distances[touched] = np.take_along_axis(distances[touched], order, axis=1)
    positions[touched] = np.take_along_axis(positions[touched], order, axis=1)
