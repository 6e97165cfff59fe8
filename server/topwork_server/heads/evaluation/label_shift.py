"""Shares of classes among recent items, estimated from what a head predicted and from how it errs: a warning where they shift.

The assumption is label shift: each class looks as it did, only more or fewer items are of it (Lipton et al. 2018, "Detecting and
correcting for label shift with black box predictors"). What the head predicts of class k on held-out items is then what it
predicts of recent ones of class k, and the shares that make the recent predictions likeliest are found by expectation
maximization (Saerens et al. 2002), which needs no inverse of the confusion matrix and gives no negative share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from topwork.heads import ClassShare, LabelShift
from topwork.report import ConfusionMatrix

from topwork_server.heads.evaluation.report_tables import OTHERS
from topwork_server.types import Array

#: Predictions below which nothing is said.
FEWEST = 50
#: Steps of expectation maximization, and resamples for an interval.
STEPS, RESAMPLES = 200, 200
TAILS = (2.5, 97.5)
#: How improbable the recent predictions must be, were the shares as before, for a warning; heads are looked at again and again.
IMPROBABLE = 0.001


def label_shift(names: Sequence[str], counts: Array, confusion: ConfusionMatrix) -> LabelShift | None:
    """Compare recent predictions, (names,) int64, with the held-out items of a report; None for too few of them.

    Classes that the report has joined as others are one class here.
    """
    if counts.sum() < FEWEST or not sum(map(sum, confusion.counts)):
        return None
    known = {name: at for at, name in enumerate(confusion.names)}
    place = [known.get(name, known.get(OTHERS, 0)) for name in names]
    recent = np.bincount(place, counts, minlength=len(known))
    held_out = np.array(confusion.counts, np.float64)
    estimated, low, high = _estimated(recent, held_out)
    evaluated, predicted = held_out.sum(axis=1) / held_out.sum(), recent / recent.sum()
    columns = zip(confusion.names, evaluated, predicted, estimated, low, high, strict=True)
    shares = tuple(ClassShare(name, *map(float, numbers)) for name, *numbers in columns)
    p_value = _p_value(recent, held_out.sum(axis=0))
    return LabelShift(int(counts.sum()), shares, p_value, _warning(shares, p_value))


def _estimated(recent: Array, held_out: Array) -> tuple[Array, Array, Array]:
    """Estimate the shares of classes among recent items, with the ends of their intervals, (classes,) each.

    A resample draws the recent predictions again, and the predictions of the held-out items of each class.
    """
    random = np.random.default_rng(0)
    drawn = random.multinomial(int(recent.sum()), recent / recent.sum(), RESAMPLES)
    sizes = held_out.sum(axis=1)
    rows = [
        random.multinomial(int(size), of / size, RESAMPLES) if size else np.zeros((RESAMPLES, len(of)))
        for size, of in zip(sizes, held_out, strict=True)
    ]
    found = _likeliest_shares(recent[None].astype(np.float64), held_out[None])[0]
    low, high = np.percentile(_likeliest_shares(drawn.astype(np.float64), np.stack(rows, axis=1)), TAILS, axis=0)
    return found, np.minimum(low, found), np.maximum(high, found)


def _likeliest_shares(recent: Array, held_out: Array) -> Array:
    """Find shares (b, classes) of recent counts (b, classes) and confusions (b, classes, classes). Half a prediction, spread over
    the classes, beside those that were seen keeps what was never confused possible; a class without held-out items has no
    share."""
    sizes = held_out.sum(axis=2, keepdims=True)
    likely = (held_out + 0.5 / held_out.shape[2]) / (sizes + 0.5)
    shares = np.where(sizes[..., 0] > 0, 1.0, 0.0)
    shares /= shares.sum(axis=1, keepdims=True)
    predicted = recent / recent.sum(axis=1, keepdims=True)
    for _ in range(STEPS):
        expected = np.einsum("bk,bkj->bj", shares, likely)
        shares = shares * np.einsum("bkj,bj->bk", likely, predicted / expected)
    return shares


def _p_value(recent: Array, before: Array) -> float:
    """Test whether two counts of the same classes differ (chi-squared of two samples; its tail by Wilson and Hilferty 1931)."""
    both = recent + before
    seen = both > 0
    freedom = int(seen.sum()) - 1
    if freedom < 1:
        return 1.0
    ratio = math.sqrt(before.sum() / recent.sum())
    chi2 = float((((ratio * recent - before / ratio) ** 2)[seen] / both[seen]).sum())
    z = ((chi2 / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return 1 - NormalDist().cdf(z)


def _warning(shares: Sequence[ClassShare], p_value: float) -> str:
    """Name the class whose share has moved most, where the predictions are improbable and its interval leaves out what it was."""
    moved = [one for one in shares if not one.low <= one.evaluated <= one.high]
    if p_value > IMPROBABLE or not moved:
        return ""
    most = max(moved, key=lambda one: abs(one.estimated - one.evaluated))
    return (
        f"recent items are of other classes than the evaluated ones: {most.name} is about {most.estimated:.0%} of them"
        f" ({most.low:.0%} to {most.high:.0%}), and was {most.evaluated:.0%}; metrics and probabilities may not hold for them"
    )
