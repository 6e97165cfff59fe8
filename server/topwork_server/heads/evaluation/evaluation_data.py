"""What is judged: rows that a head has not learnt from, their values, and what the head said of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from topwork_server.errors import TopworkError
from topwork_server.heads.evaluation import calibration
from topwork_server.heads.head_types import Task
from topwork_server.plugin_api.trainer import Examples, Target
from topwork_server.types import Array


@dataclass(frozen=True)
class HeldOutPredictions:
    """What heads said of rows that they have not learnt from. rows (m,) int64: positions in the examples, ascending; scores
    (m, outputs) float32, as Target has them (numbers in float64); folds (m,) int64: which head said it."""

    rows: Array
    scores: Array
    folds: Array


@dataclass(frozen=True)
class EvaluationData:
    """All arrays have an entry a row, m in all, in the order of items. `temperature` (m, 1) is cross-fitted: that of a row was
    fitted on rows of other folds."""

    task: Task
    names: tuple[str, ...]
    values: Array
    scores: Array
    items: Array
    groups: Array
    folds: Array
    temperature: Array | float = 1.0

    @property
    def target(self) -> Target:
        return self.task.target

    @cached_property
    def unit(self) -> Array:
        """(m,) int64: of each row which unit of the bootstrap it is of: its group, counted from 0."""
        unit: Array = np.unique(self.groups, return_inverse=True)[1]
        return unit

    @property
    def units(self) -> int:
        return int(self.unit.max()) + 1

    @cached_property
    def y_pred(self) -> Array:
        """What is predicted: (m,) int64 classes, (m, labels) bool, (m,) float64 numbers."""
        if self.target is Target.CLASSES:
            return np.asarray(self.scores.argmax(axis=1))
        return self.scores > 0 if self.target is Target.LABELS else self.scores[:, 0].astype(np.float64)

    @cached_property
    def y_true(self) -> Array:
        """In the same form."""
        if self.target is Target.CLASSES:
            return self.values
        return self.values > 0 if self.target is Target.LABELS else self.values[:, 0].astype(np.float64)

    @cached_property
    def probabilities(self) -> Array:
        """(m, outputs) float32, of CLASSES and LABELS."""
        return calibration.probabilities(self.scores, self.target, self.temperature)

    @cached_property
    def starts(self) -> Array:
        """(items + 1,): where the rows of each item begin, and the end of all."""
        edges: Array = np.concatenate([[0], np.flatnonzero(np.diff(self.items)) + 1, [len(self.items)]])
        return edges

    def at_temperature(self, temperature: Array | float) -> EvaluationData:
        return replace(self, temperature=temperature)


def evaluation_data(examples: Examples, task: Task, answers: HeldOutPredictions) -> EvaluationData:
    """TopworkError where a head said what is no number, or there is nothing to judge."""
    rows = answers.rows
    if not len(rows):
        raise TopworkError("there is nothing to judge: no item was held out")
    if not np.isfinite(answers.scores).all():
        raise TopworkError("the head gave scores that are not finite", remedy="report it to the trainer's author")
    values, items, groups = examples.values[rows], examples.items[rows], examples.groups[rows]
    return EvaluationData(task, examples.names, values, answers.scores, items, groups, answers.folds)
