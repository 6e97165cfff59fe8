"""Evaluation of heads on rows that they were not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from topwork.heads import MetricValue
from topwork.report import ClassMetrics, ConfusionMatrix, Misclassified, ReliabilityBin

from topwork_server.errors import TopworkError
from topwork_server.heads.evaluation import calibration, report_tables, report_warnings, task_metrics
from topwork_server.heads.evaluation.baseline import baseline
from topwork_server.heads.evaluation.evaluation_data import EvaluationData, HeldOutPredictions, evaluation_data
from topwork_server.heads.evaluation.metrics import MAIN_METRIC
from topwork_server.heads.evaluation.report_tables import SpanText, misclassified, span_by_number
from topwork_server.heads.evaluation.split_plan import SplitPlan, plan_splits
from topwork_server.heads.head_types import Task
from topwork_server.plugin_api.trainer import Examples, Target
from topwork_server.types import Array

__all__ = [
    "Evaluation",
    "HeldOutPredictions",
    "SplitPlan",
    "evaluate_predictions",
    "main_metric",
    "main_metric_name",
    "metric_difference",
    "plan_splits",
]

COVERED = 0.9  # of held-out items, by the band of a regression


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation; `Report` describes its fields.

    Log loss, calibration error and confidences belong to probabilities after a temperature that was fitted on the other folds;
    `temperature` is fitted on all held-out rows, and is the one that is served.
    """

    metrics: tuple[MetricValue, ...]
    baseline: tuple[MetricValue, ...]
    temperature: float = 1.0
    interval: float = 0.0
    calibration_before: tuple[ReliabilityBin, ...] = ()
    calibration_after: tuple[ReliabilityBin, ...] = ()
    classes: tuple[ClassMetrics, ...] = ()
    confusion: ConfusionMatrix | None = None
    scatter: tuple[tuple[float, float], ...] = ()
    wrong: tuple[Misclassified, ...] = ()
    warnings: tuple[str, ...] = ()


def evaluate_predictions(
    examples: Examples,
    task: Task,
    answers: HeldOutPredictions,
    ids: Sequence[str],
    learnt: Examples | None,
    seed: int,
    spell: SpanText = span_by_number,
) -> Evaluation:
    """Evaluate held-out predictions: metrics, baseline, calibration, tables and warnings.

    `ids` are those of the items of `examples`; `learnt` are the training examples, where `examples` are a test set of their own;
    `spell` gives the text of misclassified spans. TopworkError where a head would be evaluated on all that it was trained on.
    """
    if learnt is None and len(answers.rows) == examples.count and len(np.unique(answers.folds)) == 1:
        raise TopworkError("a head cannot be judged on what it has learnt from", remedy="label more, or choose a `test_where`")
    raw = evaluation_data(examples, task, answers)
    scaled, temperature = _scaled(raw, seed)
    found = task_metrics.task_metrics(scaled, seed)
    known_nothing = baseline(examples, answers, learnt)
    unknowing = task_metrics.baseline_metrics(evaluation_data(examples, task, known_nothing), seed)
    gain = task_metrics.metric_difference(raw, evaluation_data(examples, task, known_nothing), seed)
    of_classes = report_tables.class_metrics(raw)
    before, after = _reliability(raw, scaled)
    return Evaluation(
        metrics=found,
        baseline=unknowing,
        temperature=temperature,
        interval=_interval(raw),
        calibration_before=before,
        calibration_after=after,
        classes=of_classes,
        confusion=report_tables.confusion_matrix(raw),
        scatter=report_tables.scatter_points(raw, seed),
        wrong=misclassified(scaled, ids, spell),
        warnings=report_warnings.warnings(raw, examples, answers, learnt, found[0], gain, of_classes),
    )


def main_metric(examples: Examples, task: Task, answers: HeldOutPredictions, seed: int) -> MetricValue:
    """Compute only the main metric of the task."""
    return task_metrics.main_metric(evaluation_data(examples, task, answers), seed)


def metric_difference(examples: Examples, task: Task, a: HeldOutPredictions, b: HeldOutPredictions, seed: int) -> MetricValue:
    """Compute by how much the main metric of `a` exceeds that of `b`, on the rows that both predicted."""
    rows = np.intersect1d(a.rows, b.rows)
    first, second = (evaluation_data(examples, task, _only(answers, rows)) for answers in (a, b))
    return task_metrics.metric_difference(first, second, seed)


def main_metric_name(task: Task) -> str:
    return MAIN_METRIC[task]


def _only(answers: HeldOutPredictions, rows: Array) -> HeldOutPredictions:
    kept = np.isin(answers.rows, rows)
    return HeldOutPredictions(answers.rows[kept], answers.scores[kept], answers.folds[kept])


def _scaled(raw: EvaluationData, seed: int) -> tuple[EvaluationData, float]:
    """Scale each row by the temperature of the other folds (with one fold, of the other half); give the served one too."""
    if raw.target not in (Target.CLASSES, Target.LABELS):
        return raw, 1.0
    parts = raw.folds
    if len(np.unique(parts)) < 2:
        parts = (np.random.default_rng(seed).permutation(raw.units) % 2)[raw.unit]
    of_rows, served = calibration.temperatures(raw.scores, raw.values, raw.target, parts)
    return raw.at_temperature(of_rows), served


def _reliability(raw: EvaluationData, scaled: EvaluationData) -> tuple[tuple[ReliabilityBin, ...], tuple[ReliabilityBin, ...]]:
    if raw.target not in (Target.CLASSES, Target.LABELS):
        return (), ()
    before, after = (
        calibration.reliability_curve(*calibration.confidences(of.probabilities, of.values, of.target)) for of in (raw, scaled)
    )
    return before, after


def _interval(raw: EvaluationData) -> float:
    """Compute half the width of the band around a prediction that holds the true number of 90% of new items.

    It is split-conformal: the absolute residual of rank ceil(0.9 (n + 1)) (Lei et al. 2018, algorithm 2); of fewer than 9 items
    the largest.
    """
    if raw.target is not Target.NUMBERS:
        return 0.0
    residuals = np.sort(np.abs(raw.y_pred - raw.y_true))
    rank = int(np.ceil(COVERED * (len(residuals) + 1)))
    return float(residuals[min(rank, len(residuals)) - 1])
