"""The data of an evaluation, held-out rows with their true values and predictions, and its results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from topwork.heads import MetricValue
from topwork.report import AbstentionCost, ClassMetrics, ConfusionMatrix, Misclassified, ReliabilityBin

from topwork_server.errors import TopworkError
from topwork_server.heads.conformal import HeldOutScores
from topwork_server.heads.evaluation import calibration
from topwork_server.heads.head_types import Task
from topwork_server.plugin_api.average_precision import ClassMatches, match_pictures
from topwork_server.plugin_api.trainer import Examples, Target
from topwork_server.types import Array


@dataclass(frozen=True)
class HeldOutPredictions:
    """Scores of rows by heads that were not trained on them.

    rows (m,) int64: positions in the examples, ascending; scores (m, outputs) float32, as Target defines them (numbers in
    float64); folds (m,) int64: the head that predicted each row.
    """

    rows: Array
    scores: Array
    folds: Array


@dataclass(frozen=True)
class EvaluationData:
    """Everything that metrics are computed from. All arrays have m entries, one per row, in the order of items.

    `temperature` (m, 1) is cross-fitted: that of a row was fitted on rows of other folds. `counted` (m,) float64 is what each row
    counts for.
    """

    task: Task
    names: tuple[str, ...]
    values: Array
    scores: Array
    items: Array
    groups: Array
    folds: Array
    counted: Array
    temperature: Array | float = 1.0
    grid: tuple[int, int] | None = None

    @property
    def target(self) -> Target:
        return self.task.target

    @cached_property
    def unit(self) -> Array:
        """The bootstrap unit of each row, (m,) int64: its group, counted from 0."""
        unit: Array = np.unique(self.groups, return_inverse=True)[1]
        return unit

    @property
    def units(self) -> int:
        return int(self.unit.max()) + 1

    @cached_property
    def y_pred(self) -> Array:
        """The predictions: (m,) int64 classes, (m, labels) bool, (m,) float64 numbers."""
        if self.target is Target.CLASSES:
            return np.asarray(self.scores.argmax(axis=1))
        return self.scores > 0 if self.target is Target.LABELS else self.scores[:, 0].astype(np.float64)

    @cached_property
    def y_true(self) -> Array:
        """The true values, in the form of `y_pred`."""
        if self.target is Target.CLASSES:
            return self.values
        return self.values > 0 if self.target is Target.LABELS else self.values[:, 0].astype(np.float64)

    @cached_property
    def probabilities(self) -> Array:
        """The probabilities (m, outputs) float32, for CLASSES and LABELS."""
        return calibration.probabilities(self.scores, self.target, self.temperature)

    @cached_property
    def matches(self) -> list[ClassMatches]:
        """The boxes of whole pictures, matched to the true ones, class by class: BOXES."""
        assert self.grid is not None, "BOXES have a grid"
        return match_pictures(self.values, self.scores, self.grid, self.unit[self.starts[:-1]])

    @cached_property
    def starts(self) -> Array:
        """Return the first row of each item, and the end of the last, (items + 1,)."""
        edges: Array = np.concatenate([[0], np.flatnonzero(np.diff(self.items)) + 1, [len(self.items)]])
        return edges

    def at_temperature(self, temperature: Array | float) -> EvaluationData:
        return replace(self, temperature=temperature)


@dataclass(frozen=True)
class Evaluation:
    """Results of an evaluation; `Report` describes its fields.

    Log loss, calibration error and confidences belong to probabilities after a temperature that was fitted on the other folds;
    `temperature` is fitted on all held-out rows, and is the one that is served. `min_score`, of detection, is the score of the
    best F1.
    """

    metrics: tuple[MetricValue, ...]
    baseline: tuple[MetricValue, ...]
    temperature: float = 1.0
    interval: float = 0.0
    held_out: HeldOutScores | None = None
    min_score: float = 0.0
    calibration_before: tuple[ReliabilityBin, ...] = ()
    calibration_after: tuple[ReliabilityBin, ...] = ()
    abstaining: tuple[AbstentionCost, ...] = ()
    classes: tuple[ClassMetrics, ...] = ()
    confusion: ConfusionMatrix | None = None
    scatter: tuple[tuple[float, float], ...] = ()
    misclassified: tuple[Misclassified, ...] = ()
    warnings: tuple[str, ...] = ()


def evaluation_data(examples: Examples, task: Task, predictions: HeldOutPredictions) -> EvaluationData:
    """Join examples and predictions. TopworkError for scores that are not finite, or where nothing was held out."""
    rows = predictions.rows
    if not len(rows):
        raise TopworkError("there is nothing to evaluate: no item was held out")
    if not np.isfinite(predictions.scores).all():
        raise TopworkError("the head gave scores that are not finite", remedy="report it to the trainer's author")
    values, items, groups = examples.values[rows], examples.items[rows], examples.groups[rows]
    counted, folds = examples.counted[rows], predictions.folds
    return EvaluationData(task, examples.names, values, predictions.scores, items, groups, folds, counted, grid=examples.grid)
