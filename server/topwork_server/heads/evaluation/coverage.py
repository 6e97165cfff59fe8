"""Coverage of the sets and bands that held-out items promise each other: how honest the promise of a head is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.heads import conformal
from topwork_server.heads.conformal import USUAL_COVERAGE, HeldOutScores
from topwork_server.heads.evaluation.evaluation_data import EvaluationData
from topwork_server.heads.head_types import PROMISING
from topwork_server.plugin_api.trainer import Target
from topwork_server.types import Array


@dataclass(frozen=True)
class CrossCoverage:
    """The coverage of m items, as the other folds promise it.

    covered (m,) bool: the truth is in the item's set or band; sizes (m,): how many classes its set has.
    """

    covered: Array
    sizes: Array


def held_out_scores(data: EvaluationData) -> HeldOutScores | None:
    """Collect what a head keeps for its promises; None for tasks without any."""
    return HeldOutScores.of(_scores(data), data.counted) if data.task in PROMISING else None


def cross_coverage(data: EvaluationData, coverage: float = USUAL_COVERAGE) -> CrossCoverage | None:
    """Promise each fold the coverage by the others; None where the others are too few."""
    if data.task not in PROMISING:
        return None
    scores, parts = _scores(data), conformal.parts_of(data.folds, data.unit)
    quantiles = np.full(len(scores), np.inf)
    for part in np.unique(parts):
        others = parts != part
        known = HeldOutScores.of(scores[others], data.counted[others]) if others.any() else None
        quantiles[parts == part] = known.quantile(coverage) if known else np.inf
    if not np.isfinite(quantiles).all():
        return None
    if data.target is Target.NUMBERS:
        return CrossCoverage(scores <= quantiles, np.ones(len(scores)))
    held = conformal.candidates(data.target, data.probabilities, quantiles[:, None])
    return CrossCoverage(_hold_truth(held, data), held.sum(axis=1))


def _hold_truth(held: Array, data: EvaluationData) -> Array:
    if data.target is Target.CLASSES:
        return np.asarray(held[np.arange(len(held)), data.y_true])
    return np.asarray((held | ~data.y_true).all(axis=1))


def _scores(data: EvaluationData) -> Array:
    predicted = data.y_pred if data.target is Target.NUMBERS else data.probabilities
    return conformal.nonconformity(data.target, predicted, data.y_true)
