"""Calibration of probabilities: temperature scaling, calibration error and reliability curves (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np
from topwork.report import ReliabilityBin

from topwork_server.plugin_api.trainer import Target
from topwork_server.types import Array

BINS = 15  # of equal width, as Guo et al. have them
COLDEST, HOTTEST = 1 / 20, 20.0
STEPS = 41
#: The deviation of log T that is expected of a head before any item is seen. Simulated (2, 4 and 10 classes; log loss of new
#: rows after a temperature from 10 rows, less that without one): for scores 1.4 times too large or too small -0.015 to +0.013,
#: where a deviation of 1 has +0.010 to +0.071; for scores 3 times too large both gain the same within 5%.
SPREAD = 0.5
MOST_SCORES = 1_000_000  # that one temperature is fitted on; more are thinned evenly


def probabilities(scores: Array, target: Target, temperature: float | Array = 1.0) -> Array:
    """Turn (n, classes) logits into float32 probabilities, by softmax (CLASSES) or sigmoid (LABELS).

    The temperature is one for all rows, or (n, 1) one for each.
    """
    scaled = np.asarray(scores / np.asarray(temperature, np.float32), np.float32)
    if target is Target.LABELS:
        return np.asarray(1 / (1 + np.exp(-np.clip(scaled, -80, 80))))
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def log_losses(scores: Array, values: Array, target: Target, temperature: float | Array = 1.0) -> Array:
    """Compute the negative log likelihood of each row, (n,); for LABELS the mean over its labels."""
    scaled = np.asarray(scores / np.asarray(temperature, np.float32), np.float32)
    if target is Target.LABELS:
        softplus = np.maximum(scaled, 0) + np.log1p(np.exp(-np.abs(scaled)))
        return np.asarray((softplus - values * scaled).mean(axis=1))
    highest = scaled.max(axis=1)
    total = np.log(np.exp(scaled - highest[:, None]).sum(axis=1))
    return np.asarray(total + highest - scaled[np.arange(len(scaled)), values])


def temperatures(scores: Array, values: Array, target: Target, parts: Array, counted: Array) -> tuple[Array, float]:
    """Fit for each row the temperature on the rows of the other parts, (n, 1), and one on all rows.

    `parts` (n,) are the folds, or parts of one; `counted` (n,) is what each row counts for. It is the likeliest temperature under
    the prior log T ~ N(0, SPREAD^2), which holds it near 1 while rows are few, whatever they say.
    """
    thin = slice(None, None, max(1, scores.size // MOST_SCORES))
    few, truth, weights = scores[thin], values[thin], counted[thin]
    names, part = np.unique(parts, return_inverse=True)
    tried = np.geomspace(COLDEST, HOTTEST, STEPS)
    of_parts = np.stack([_sums(weights * log_losses(few, truth, target, step), part[thin], len(names)) for step in tried])
    scale = len(scores) / len(few) * (scores.shape[1] if target is Target.LABELS else 1)
    everything = _lowest(tried, of_parts.sum(axis=1) * scale)
    if len(names) < 2:
        return np.full((len(scores), 1), everything, np.float32), everything
    others = [_lowest(tried, (of_parts.sum(axis=1) - of_parts[:, at]) * scale) for at in range(len(names))]
    return np.array(others, np.float32)[part][:, None], everything


def _sums(losses: Array, part: Array, parts: int) -> Array:
    return np.bincount(part, losses.astype(np.float64), minlength=parts)


def _lowest(tried: Array, losses: Array) -> float:
    """Find the minimum of the parabola, in log T, through the lowest point and its neighbors."""
    logs = np.log(tried)
    total = losses + (logs / SPREAD) ** 2 / 2
    at = int(np.clip(np.argmin(total), 1, len(tried) - 2))
    before, here, after = total[at - 1 : at + 2]
    bend = before - 2 * here + after
    shift = (before - after) / (2 * bend) if bend > 0 else 0.0
    return float(np.exp(logs[at] + np.clip(shift, -1, 1) * (logs[1] - logs[0])))


def confidences(probable: Array, values: Array, target: Target) -> tuple[Array, Array]:
    """Give (m,) confidences and (m,) bool outcomes: for CLASSES of the likeliest class of each row, for LABELS of every label."""
    if target is Target.LABELS:
        return probable.ravel(), values.ravel() > 0
    return probable.max(axis=1), probable.argmax(axis=1) == values


def bin_of(confidence: Array) -> Array:
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


def reliability_curve(confidence: Array, right: Array, counted: Array) -> tuple[ReliabilityBin, ...]:
    """Compute the reliability curve, of means over what each prediction counts for; empty bins are left out."""
    bins = bin_of(confidence)
    many = np.bincount(bins, minlength=BINS)
    sure, so, whole = (np.bincount(bins, part * counted, minlength=BINS) for part in (confidence, right, np.ones(len(bins))))
    there = np.flatnonzero(many)
    return tuple(ReliabilityBin(float(sure[at] / whole[at]), float(so[at] / whole[at]), int(many[at])) for at in there)
