"""Evaluation of heads on rows that they were not trained on, beside a baseline that ignores the features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from topwork.heads import MetricValue
from topwork.report import ReliabilityBin

from topwork_server.errors import TopworkError
from topwork_server.heads.conformal import USUAL_COVERAGE, HeldOutScores
from topwork_server.heads.evaluation import calibration, report_tables, retrieval, task_metrics
from topwork_server.heads.evaluation.abstention import abstention_costs
from topwork_server.heads.evaluation.coverage import held_out_scores
from topwork_server.heads.evaluation.evaluation_data import Evaluation, EvaluationData, HeldOutPredictions, evaluation_data
from topwork_server.heads.evaluation.metrics import SPEARMAN
from topwork_server.heads.evaluation.report_tables import SpanText, misclassified, span_by_number
from topwork_server.heads.evaluation.span_metrics import right_answers
from topwork_server.heads.evaluation.split_plan import USUAL_FOLDS
from topwork_server.heads.head_types import Task
from topwork_server.plugin_api import splits
from topwork_server.plugin_api.average_precision import best_score
from topwork_server.plugin_api.boxes import EDGES, cell_centers
from topwork_server.plugin_api.trainer import Examples, Target
from topwork_server.types import Array


def evaluate_predictions(
    examples: Examples,
    task: Task,
    predictions: HeldOutPredictions,
    ids: Sequence[str],
    training: Examples | None,
    seed: int,
    spell: SpanText = span_by_number,
) -> Evaluation:
    """Evaluate held-out predictions: metrics, baseline, calibration, tables and warnings.

    `ids` are those of the items of `examples`; `training` are the training examples, where `examples` are a test set alone;
    `spell` gives the text of misclassified spans. TopworkError where a head would be evaluated on all that it was trained on.
    An alignment is evaluated by the recall of searches alone.
    """
    if examples.target is Target.VECTORS:
        return retrieval.evaluate_retrieval(examples, predictions, seed)
    if training is None and len(predictions.rows) == examples.count and len(np.unique(predictions.folds)) == 1:
        raise TopworkError("a head cannot be evaluated on what it was trained on", remedy="label more, or choose a `test_where`")
    raw = evaluation_data(examples, task, predictions)
    scaled, temperature = _scaled(raw, seed)
    found = task_metrics.task_metrics(scaled, seed)
    blind = evaluation_data(examples, task, baseline(examples, predictions, training))
    baseline_metrics = task_metrics.baseline_metrics(blind, seed)
    gain = task_metrics.metric_difference(raw, blind, seed)
    of_classes = report_tables.class_metrics(raw)
    before, after = _reliability(raw, scaled)
    warnings = report_tables.report_warnings(raw, examples, predictions, training, found[0], gain, of_classes)
    held_out = held_out_scores(scaled)
    return Evaluation(
        metrics=found,
        baseline=baseline_metrics,
        temperature=temperature,
        interval=_interval(held_out) if raw.target is Target.NUMBERS else 0.0,
        held_out=held_out,
        min_score=best_score(raw.matches) if raw.target is Target.BOXES else 0.0,
        calibration_before=before,
        calibration_after=after,
        abstaining=abstention_costs(scaled, seed),
        classes=of_classes,
        confusion=report_tables.confusion_matrix(raw),
        scatter=report_tables.scatter_points(raw, seed),
        misclassified=misclassified(scaled, ids, spell),
        warnings=(*warnings, *report_tables.calibration_warning(raw, scaled, found)),
    )


def with_order_before(
    evaluation: Evaluation, examples: Examples, task: Task, before: HeldOutPredictions, seed: int
) -> Evaluation:
    """Add the Spearman correlation of numbers from before the training with the labels of the same items."""
    found = task_metrics.task_metrics(evaluation_data(examples, task, before), seed)
    added = [replace(one, name=f"{one.name} before tuning") for one in found if one.name == SPEARMAN]
    return replace(evaluation, metrics=(*evaluation.metrics, *added))


def main_metric(examples: Examples, task: Task, predictions: HeldOutPredictions, seed: int) -> MetricValue:
    """Compute only the main metric of the task."""
    if examples.target is Target.VECTORS:
        return retrieval.main_recall(examples, predictions, seed)
    return task_metrics.main_metric(evaluation_data(examples, task, predictions), seed)


def metric_difference(examples: Examples, task: Task, a: HeldOutPredictions, b: HeldOutPredictions, seed: int) -> MetricValue:
    """Compute by how much the main metric of `a` exceeds that of `b`, on the rows that both predicted."""
    rows = np.intersect1d(a.rows, b.rows)
    first, second = (evaluation_data(examples, task, _only(predictions, rows)) for predictions in (a, b))
    return task_metrics.metric_difference(first, second, seed)


def _only(predictions: HeldOutPredictions, rows: Array) -> HeldOutPredictions:
    kept = np.isin(predictions.rows, rows)
    return HeldOutPredictions(predictions.rows[kept], predictions.scores[kept], predictions.folds[kept])


def _scaled(raw: EvaluationData, seed: int) -> tuple[EvaluationData, float]:
    """Scale each row by the temperature of the other folds (with one fold, of other fifths of it); give the served one too."""
    if raw.target not in (Target.CLASSES, Target.LABELS):
        return raw, 1.0
    parts = raw.folds
    if len(np.unique(parts)) < 2:
        parts = (np.random.default_rng(seed).permutation(raw.units) % USUAL_FOLDS)[raw.unit]
    of_rows, served = calibration.temperatures(raw.scores, raw.values, raw.target, parts, raw.counted)
    return raw.at_temperature(of_rows), served


def _reliability(raw: EvaluationData, scaled: EvaluationData) -> tuple[tuple[ReliabilityBin, ...], tuple[ReliabilityBin, ...]]:
    if raw.target not in (Target.CLASSES, Target.LABELS):
        return (), ()
    before, after = (calibration.confidences(of.probabilities, of.values, of.target) for of in (raw, scaled))
    counted = np.repeat(raw.counted, len(before[0]) // len(raw.counted))
    return calibration.reliability_curve(*before, counted), calibration.reliability_curve(*after, counted)


def _interval(held_out: HeldOutScores | None) -> float:
    """Compute half the width of the band around a prediction that holds the true number of 90% of new items; of fewer than 9
    items it is the largest residual."""
    assert held_out is not None, "numbers have residuals"
    return min(held_out.quantile(USUAL_COVERAGE), held_out.scores[-1])


def baseline(examples: Examples, predictions: HeldOutPredictions, training: Examples | None) -> HeldOutPredictions:
    """Predict what takes no features: frequencies of classes or labels, the mean of numbers, an answer of the first rows, the
    mean box of the most frequent class.

    They are computed from `training`, or for each fold from the rows outside it. scikit-learn's DummyClassifier knows no spans,
    and gives a class that is not in a fold no probability at all.
    """
    scores = np.zeros(predictions.scores.shape, predictions.scores.dtype)
    for fold in np.unique(predictions.folds):
        here = predictions.folds == fold
        known = training or examples.take(splits.rest(examples.count, predictions.rows[here]))
        if known.count:
            scores[here] = BASELINE_SCORES[examples.target](known, examples.items[predictions.rows[here]])
    return HeldOutPredictions(predictions.rows, scores, predictions.folds)


def _frequencies(training: Examples, items: Array) -> Array:
    counts = np.bincount(training.values, training.counted, minlength=len(training.names)) + 0.5
    return np.asarray(np.log(counts / counts.sum()))


def _shares(training: Examples, items: Array) -> Array:
    positive = training.counted @ (training.values > 0)
    return np.asarray(np.log((positive + 0.5) / (training.counted.sum() - positive + 0.5)))


def _mean(training: Examples, items: Array) -> Array:
    return np.asarray(np.average(training.values, axis=0, weights=training.counted))


def _first_rows(training: Examples, items: Array) -> Array:
    """Give (rows, 2) logits that point at the first row of each item and at the end of an answer of average length."""
    edges = _edges(training.items)
    spans = [right_answers(training.values[start:end]) for start, end in pairwise(edges)]
    lengths = [end - start for of_item in spans for start, end in of_item]
    usual = max(1, round(float(np.mean(lengths)))) if lengths else 1
    starts = _edges(items)[:-1]
    rows = np.diff(_edges(items))
    scores = np.full((len(items), 2), -20.0)
    scores[starts, 0] = 20.0
    scores[starts + np.minimum(usual, rows) - 1, 1] = 20.0
    return scores


def _mean_box(training: Examples, items: Array) -> Array:
    """Give each picture one box: the mean one of the most frequent class."""
    assert training.grid is not None, "BOXES have a grid"
    rows, columns = training.grid
    boxes = training.values[training.values[:, 0] >= 0]
    usual = int(np.bincount(boxes[:, 0].astype(np.int64), minlength=len(training.names)).argmax())
    x0, y0, x1, y1 = boxes[boxes[:, 0] == usual, 1:].mean(axis=0) if len(boxes) else (0, 0, columns, rows)
    cell = int(np.clip((y0 + y1) / 2, 0, rows - 1)) * columns + int(np.clip((x0 + x1) / 2, 0, columns - 1))
    scores = np.full((rows * columns, len(training.names) + EDGES), -20.0)
    x, y = cell_centers(training.grid)[cell]
    scores[cell, usual], scores[cell, -EDGES:] = 20.0, (x - x0, y - y0, x1 - x, y1 - y)
    return np.tile(scores, (len(items) // len(scores), 1))


def _edges(items: Array) -> Array:
    edges: Array = np.concatenate([[0], np.flatnonzero(np.diff(items)) + 1, [len(items)]])
    return edges


BASELINE_SCORES: dict[Target, Callable[[Examples, Array], Array]] = {
    Target.CLASSES: _frequencies,
    Target.LABELS: _shares,
    Target.NUMBERS: _mean,
    Target.SPAN: _first_rows,
    Target.BOXES: _mean_box,
}
