"""Promises of coverage, from the scores of held-out items: sets of classes, and bands of numbers, that hold the truth so often.

Split-conformal prediction (Vovk et al. 2005; Lei et al. 2018, algorithm 2) over the scores of all folds, each by the head that
had not seen it (cross-conformal, Vovk 2015). The nonconformity of an item is one less the probability of its class (the least
ambiguous sets of Sadinle et al. 2019: no sets of the same coverage have fewer classes on average), one less the smallest
probability among its labels, so that a set holds all of them, or the absolute residual. APS and RAPS (Romano et al. 2020,
Angelopoulos et al. 2021) spread coverage more evenly over hard and easy items and have larger sets; without random draws they
cover more than they promise, and their sets do not follow from the probabilities that users see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.plugin_api.trainer import Target
from topwork_server.types import Array

#: Quantiles that a head keeps; of fewer items each.
MOST_KEPT = 1000
#: The coverage of a band that is not asked for, and of the sets that are evaluated.
USUAL_COVERAGE = 0.9
#: Ranks are products of float64.
ROUNDING = 1e-9


@dataclass(frozen=True)
class HeldOutScores:
    """Nonconformity of held-out items, as a head keeps it.

    scores: ascending; the i-th of n is the least that a share of (i + 1) / n of the items does not exceed. `count` is the number
    of items; of items of different weights that of as many equal ones as say as much (Kish's effective size).
    """

    scores: tuple[float, ...]
    count: float

    @classmethod
    def of(cls, scores: Array, counted: Array) -> HeldOutScores:
        """Keep the quantiles of (items,) scores, each of which counts for so much."""
        order = np.argsort(scores, kind="stable")
        shares = np.cumsum(counted[order]) / counted.sum()
        many = MOST_KEPT if np.ptp(counted) else min(len(scores), MOST_KEPT)
        ranks = np.searchsorted(shares, np.arange(1, many + 1) / many - ROUNDING).clip(max=len(scores) - 1)
        count = counted.sum() ** 2 / (counted**2).sum()
        return cls(tuple(np.asarray(scores, np.float64)[order][ranks].tolist()), float(count))

    def quantile(self, coverage: float) -> float:
        """Find what the nonconformity of a new item exceeds with a probability of at most 1 - coverage; infinite for too few
        items."""
        rank = math.ceil(coverage * (self.count + 1) / self.count * len(self.scores) - ROUNDING)
        return self.scores[max(rank, 1) - 1] if rank <= len(self.scores) else math.inf

    def promised(self, head: str, coverage: float) -> float:
        """Return the quantile. InvalidInput where too few items were held out for it."""
        found = self.quantile(coverage)
        if math.isinf(found):
            needed = math.ceil(coverage / (1 - coverage) - ROUNDING)
            raise InvalidInput(
                f"a coverage of {coverage:g} needs {needed:,} held-out items, and the head {head!r} has {self.count:,.0f}",
                remedy=f"promise at most {math.floor(1000 * self.count / (self.count + 1)) / 1000:g}, or label more items",
            )
        return found


def nonconformity(target: Target, predicted: Array, values: Array) -> Array:
    """Compute how unlike its prediction each item is, (items,) float64.

    `predicted`: CLASSES and LABELS (items, names) probabilities, NUMBERS (items,) numbers; `values` as `EvaluationData.y_true`
    has them.
    """
    if target is Target.NUMBERS:
        return np.asarray(np.abs(predicted - values))
    if target is Target.CLASSES:
        return np.asarray(1 - predicted[np.arange(len(values)), values].astype(np.float64))
    return np.asarray(1 - np.where(values, predicted, 1.0).min(axis=1).astype(np.float64))


def candidates(target: Target, probabilities: Array, quantile: float | Array) -> Array:
    """Tell which classes or labels are in the set of each item, (items, names) bool: those at least as probable as the quantile
    allows, and of CLASSES always the likeliest, so that no set is empty. `quantile` is one for all, or (items, 1)."""
    held: Array = probabilities.astype(np.float64) >= 1 - quantile - ROUNDING
    if target is Target.CLASSES:
        held[np.arange(len(held)), probabilities.argmax(axis=1)] = True
    return held


def parts_of(folds: Array, units: Array) -> Array:
    """Return the parts (m,) int64 of which each is promised a coverage by the others: the folds, or two halves of one."""
    return folds if len(np.unique(folds)) > 1 else units % 2
