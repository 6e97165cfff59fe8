"""Costs of abstaining from doubtful classes: the share of held-out items that has an answer, and how often it is right."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from topwork.heads import MetricValue
from topwork.report import AbstentionCost

from topwork_server.heads.evaluation import bootstrap
from topwork_server.heads.evaluation.bootstrap import ConfidenceInterval
from topwork_server.heads.evaluation.evaluation_data import EvaluationData
from topwork_server.heads.evaluation.metrics import UnitSums
from topwork_server.heads.head_types import Task
from topwork_server.types import Array

#: What no answer costs where a wrong one costs 1.
COSTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
ANSWERED, ACCURACY, COST = "answered", "accuracy", "cost"


def abstention_costs(data: EvaluationData, seed: int) -> tuple[AbstentionCost, ...]:
    """Compute for some costs of no answer the share that is answered, the accuracy there and the mean cost of an item.

    A class is answered where it is wrong with at most the cost as probability (Chow 1970), by probabilities whose temperature is
    that of the other folds. Empty for other tasks.
    """
    if data.task is not Task.CLASSIFICATION:
        return ()
    sums = _sums(data)

    def values(weights: Array) -> dict[str, Array]:
        totals = sums.weighted(weights)
        rows, given, hit = totals["rows"], totals[ANSWERED], totals["right"]
        with np.errstate(invalid="ignore"):
            figures = {
                ANSWERED: given / rows,
                ACCURACY: hit / given,
                COST: (given - hit + np.array(COSTS) * (rows - given)) / rows,
            }
        return {f"{name} {at}": of[:, at] for name, of in figures.items() for at in range(len(COSTS))}

    many = bootstrap.affordable_resamples(sums.cost)
    found = bootstrap.bootstrap_intervals(values, data.units, many, seed, lambda name: (0.0, 1.0))
    return tuple(_abstention_cost(at, found) for at in range(len(COSTS)))


def _sums(data: EvaluationData) -> UnitSums:
    """Add up for each unit its items and, in a column a cost, those with an answer and those with a right one."""
    sums, right = UnitSums(data.units), data.y_pred == data.y_true
    sums.add("rows", 1, data.unit, 0, data.counted)
    answered = data.probabilities.max(axis=1)[:, None] >= 1 - np.array(COSTS)
    for name, those in ((ANSWERED, answered), ("right", answered & right[:, None])):
        row, column = np.nonzero(those)
        sums.add(name, len(COSTS), data.unit[row], column, data.counted[row])
    return sums


def _abstention_cost(at: int, found: Mapping[str, ConfidenceInterval]) -> AbstentionCost:
    of = {name: found.get(f"{name} {at}") for name in (ANSWERED, ACCURACY, COST)}
    figures = {name: MetricValue(name, one.value, one.low, one.high) for name, one in of.items() if one}
    return AbstentionCost(COSTS[at], 1 - COSTS[at], figures[ANSWERED], figures.get(ACCURACY), figures[COST])
