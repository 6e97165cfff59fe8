"""Metrics of a task with their intervals: those computed from sums, and those of rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from topwork.heads import MetricValue

from topwork_server.heads.evaluation import bootstrap, metrics
from topwork_server.heads.evaluation.bootstrap import ConfidenceInterval
from topwork_server.heads.evaluation.evaluation_data import EvaluationData
from topwork_server.heads.head_types import Task
from topwork_server.types import Array

AUROC, PRECISION = "AUROC", "average precision"
#: Metrics of probabilities, which stand behind those of correctness.
LAST = ("log loss", metrics.COVERAGE, metrics.SIZE)
#: Resamples of rankings where there are very many scores: enough for the spread, from which the normal distribution gives an
#: interval.
FEWEST_RANKINGS = 50
RANK_BUDGET = 50_000_000
BASELINE_BUDGET = 25_000_000
DIFFERENCE_BUDGET = 50_000_000


def task_metrics(data: EvaluationData, seed: int) -> tuple[MetricValue, ...]:
    """Compute all metrics, the main one first. An undefined one (AUROC of a single class) is left out, except the main one."""
    found = _of_sums(data, seed)
    if data.task in (Task.CLASSIFICATION, Task.MULTI_LABEL):
        found = _ranking_before_losses(found, _of_rankings(data, seed))
    return _metric_values(found, metrics.MAIN_METRIC[data.task])


def main_metric(data: EvaluationData, seed: int) -> MetricValue:
    sums, name = metrics.unit_sums(data, whole=False), metrics.MAIN_METRIC[data.task]
    found = bootstrap.bootstrap_intervals(
        lambda weights: {name: metrics.metric_values(data, sums.weighted(weights))[name]},
        data.units,
        bootstrap.affordable_resamples(sums.cost),
        seed,
        metrics.bounds,
    )
    return _metric_values(found, name)[0]


def metric_difference(a: EvaluationData, b: EvaluationData, seed: int) -> MetricValue:
    """Compute the difference a - b of the main metrics of two heads on the same rows, by the paired bootstrap."""
    first, second, name = metrics.unit_sums(a, whole=False), metrics.unit_sums(b, whole=False), metrics.MAIN_METRIC[a.task]

    def both(weights: Array) -> dict[str, Array]:
        of_a, of_b = (metrics.metric_values(of, sums.weighted(weights))[name] for of, sums in ((a, first), (b, second)))
        return {name: of_a - of_b}

    many = bootstrap.affordable_resamples(first.cost + second.cost, DIFFERENCE_BUDGET)
    return _metric_values(bootstrap.bootstrap_intervals(both, a.units, many, seed, _endless), name)[0]


def baseline_metrics(data: EvaluationData, seed: int) -> tuple[MetricValue, ...]:
    """Compute the metrics of the baseline, without those of calibration, which mean nothing there."""
    sums = metrics.unit_sums(data, whole=False)
    found = bootstrap.bootstrap_intervals(
        lambda weights: metrics.metric_values(data, sums.weighted(weights)),
        data.units,
        bootstrap.affordable_resamples(sums.cost, BASELINE_BUDGET),
        seed,
        metrics.bounds,
    )
    return _metric_values(found, metrics.MAIN_METRIC[data.task])


def _endless(name: str) -> tuple[float, float]:
    return -np.inf, np.inf


def _of_sums(data: EvaluationData, seed: int) -> dict[str, ConfidenceInterval]:
    sums = metrics.unit_sums(data)
    many = bootstrap.affordable_resamples(sums.cost)
    return bootstrap.bootstrap_intervals(
        lambda weights: metrics.metric_values(data, sums.weighted(weights)), data.units, many, seed, metrics.bounds
    )


def _of_rankings(data: EvaluationData, seed: int) -> dict[str, ConfidenceInterval]:
    """Rank each class against the rest and average those that are defined; of two classes, the second.

    Scores are unscaled: a temperature for each fold would change their order.
    """
    of_classes = _ranked_classes(data.at_temperature(1.0))
    many = bootstrap.affordable_resamples(len(data.values) * len(of_classes), RANK_BUDGET, FEWEST_RANKINGS)

    at_once = max(1, bootstrap.CHUNK // len(data.values))  # few groups have far fewer weights than rows

    def values(weights: Array) -> dict[str, Array]:
        parts = [of_part(weights[start : start + at_once]) for start in range(0, len(weights), at_once)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def of_part(weights: Array) -> dict[str, Array]:
        of_rows = weights.astype(np.float32)[:, data.unit] * data.counted.astype(np.float32)
        areas, precisions = zip(*(auroc_and_precision(ranking, of_rows) for ranking in of_classes), strict=True)
        means = (metrics.mean_of_defined(np.stack(part, axis=1)) for part in (areas, precisions))
        return dict(zip((AUROC, PRECISION), means, strict=True))

    with np.errstate(invalid="ignore"):
        return bootstrap.bootstrap_intervals(values, data.units, many, seed, metrics.bounds)


def _ranked_classes(data: EvaluationData) -> list[RankedScores]:
    columns: Sequence[int] = range(len(data.names))
    if data.task is Task.MULTI_LABEL:
        return [ranked(data.probabilities[:, at], data.y_true[:, at]) for at in columns]
    return [ranked(data.probabilities[:, at], data.y_true == at) for at in (columns[1:] if len(columns) == 2 else columns)]


def _ranking_before_losses(
    found: dict[str, ConfidenceInterval], rankings: dict[str, ConfidenceInterval]
) -> dict[str, ConfidenceInterval]:
    """Order the metrics: those of correctness first, those of probabilities last."""
    last = [name for name in found if name in LAST or name.startswith(metrics.CALIBRATION)]
    return {name: of for name, of in found.items() if name not in last} | rankings | {name: found[name] for name in last}


def _metric_values(found: dict[str, ConfidenceInterval], main: str) -> tuple[MetricValue, ...]:
    """Make metric values; an undefined main metric (no entity, neither true nor predicted) is 0, between 0 and 1."""
    undefined = ConfidenceInterval(0.0, 0.0, 1.0)
    all_of_them = {main: found.get(main, undefined), **found}
    return tuple(MetricValue(name, of.value, of.low, of.high) for name, of in all_of_them.items())


@dataclass(frozen=True)
class RankedScores:
    """Rows in ascending order of one class's score.

    `positives`: positions of its rows in that order; `first`, `last`: half-open, the rows with the same score.
    """

    order: Array
    positives: Array
    first: Array
    last: Array


def ranked(scores: Array, positive: Array) -> RankedScores:
    """Rank (n,) scores; `positive` (n,) bool are the rows of the class."""
    order = np.argsort(scores, kind="stable")
    ascending, positives = scores[order], np.flatnonzero(positive[order])
    edges = np.concatenate([[0], np.flatnonzero(np.diff(ascending)) + 1, [len(order)]])
    tie = np.searchsorted(edges, positives, side="right") - 1
    return RankedScores(order, positives, edges[tie], edges[tie + 1])


def auroc_and_precision(ranked: RankedScores, weights: Array) -> tuple[Array, Array]:
    """Compute AUROC and average precision, (b,) each, from (b, n) float32 weights of rows.

    AUROC is the probability that a positive ranks above a negative, with ties as a half (Hanley and McNeil 1982). Average
    precision is not interpolated and takes ties at their worst. Both are NaN without positives, AUROC without negatives too.
    """
    below = np.zeros((len(weights), len(ranked.order) + 1), np.float32)
    np.cumsum(weights[:, ranked.order], axis=1, out=below[:, 1:])
    of_positives = weights[:, ranked.order[ranked.positives]].astype(np.float64)
    found = np.zeros((len(weights), len(ranked.positives) + 1))
    np.cumsum(of_positives, axis=1, out=found[:, 1:])
    start, end = np.searchsorted(ranked.positives, ranked.first), np.searchsorted(ranked.positives, ranked.last)
    positives, everything = found[:, -1], below[:, -1].astype(np.float64)
    lower = below[:, ranked.first] - found[:, start]
    level = below[:, ranked.last] - below[:, ranked.first] - (found[:, end] - found[:, start])
    above = found[:, -1:] - found[:, start]
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (of_positives * (lower + level / 2)).sum(axis=1) / (positives * (everything - positives))
        share = above / (everything[:, None] - below[:, ranked.first])
        precision = np.where(of_positives > 0, of_positives * share, 0).sum(axis=1) / positives
    return area, precision
