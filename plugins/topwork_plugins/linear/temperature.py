"""What scores of rows that were not learnt from are to be multiplied by, so that probabilities are right (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np
from topwork_server import Array

from topwork_plugins.linear.losses import Loss, SpanLoss

#: The logarithm of the factor is sought between minus and plus this, in so many halvings.
LARGEST, HALVINGS = 4.0, 10
#: Scores of a head that it is sought with.
SCORES = 60_000


def fit_temperatures(loss: Loss, scores: Array) -> tuple[Array, Array]:
    """Factors (heads,), and the losses (heads,) of scores (rows, heads, outputs) with them. `scores` are overwritten.

    A normal prior on the factor's logarithm, worth one row, keeps a few rows that are all told right from being told with
    certainty.
    """
    factors = _fit_factors(loss, scores) if loss.tempers else np.ones(scores.shape[1])
    scores *= factors[:, None].astype(np.float32)
    return factors, _loss_and_derivative(loss, scores)[0]


def _fit_factors(loss: Loss, scores: Array) -> Array:
    step = 1 if isinstance(loss, SpanLoss) else max(1, len(scores) * loss.outputs // SCORES)
    some, judged = scores[::step], loss.take(np.arange(0, len(scores), step))
    low, high = np.full(scores.shape[1], -LARGEST), np.full(scores.shape[1], LARGEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        factors = np.exp(middle)[:, None].astype(np.float32)
        _, derivative = _loss_and_derivative(judged, some * factors)
        slope = np.einsum("nbk,nbk->b", derivative, some, dtype=np.float64) * np.exp(middle) + middle
        low, high = np.where(slope < 0, middle, low), np.where(slope < 0, high, middle)
    found: Array = np.exp((low + high) / 2)
    return found


def _loss_and_derivative(loss: Loss, scores: Array) -> tuple[Array, Array]:
    """Loss (heads,); `scores` become their derivative."""
    value, _ = loss(scores, 0)
    return value, scores
