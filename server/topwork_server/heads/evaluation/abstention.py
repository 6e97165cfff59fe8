"""What it costs to abstain from doubtful classes: which share of held-out items has an answer, and how often it is right."""

from __future__ import annotations

import numpy as np
from topwork.heads import MetricValue
from topwork.report import AbstentionCost

from topwork_server.heads.evaluation import bootstrap
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
    sure, right = data.probabilities.max(axis=1), data.y_pred == data.y_true
    return tuple(_abstention_cost(data, cost, sure >= 1 - cost, right, seed) for cost in COSTS)


def _abstention_cost(data: EvaluationData, cost: float, answered: Array, right: Array, seed: int) -> AbstentionCost:
    sums = UnitSums(data.units)
    for name, amount in (("rows", np.ones(len(answered))), (ANSWERED, answered), ("right", answered & right)):
        sums.add(name, 1, data.unit, 0, amount * data.counted)

    def values(weights: Array) -> dict[str, Array]:
        rows, given, hit = (sums.weighted(weights)[name][:, 0] for name in ("rows", ANSWERED, "right"))
        with np.errstate(invalid="ignore"):
            return {ANSWERED: given / rows, ACCURACY: hit / given, COST: (given - hit + cost * (rows - given)) / rows}

    many = bootstrap.affordable_resamples(sums.cost)
    found = bootstrap.bootstrap_intervals(values, data.units, many, seed, lambda name: (0.0, 1.0))
    figures = {name: MetricValue(name, of.value, of.low, of.high) for name, of in found.items()}
    return AbstentionCost(cost, 1 - cost, figures[ANSWERED], figures.get(ACCURACY), figures[COST])
