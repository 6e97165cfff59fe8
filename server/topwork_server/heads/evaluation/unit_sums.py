"""Sums over bootstrap units, from which `metrics.py` computes most metrics: counts of classes, hits, squared errors.

Narrow sums are matrix products; wide ones are sparse, so that 1,000 classes cost no more than 100.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from topwork_server.heads.evaluation import calibration, span_metrics
from topwork_server.heads.evaluation.evaluation_data import EvaluationData
from topwork_server.heads.evaluation.metrics import stable_deviation
from topwork_server.heads.head_types import Task
from topwork_server.heads.span_decoding import entity_labels
from topwork_server.plugin_api.trainer import Target
from topwork_server.types import Array

NARROW = 64
DENSE_SPEED = 16  # so many numbers of a matrix product take the time of one sparse entry


class UnitSums:
    """Named rows of sums, to whose columns each unit (an item, or a group of items) adds amounts."""

    def __init__(self, units: int) -> None:
        self.units = units
        self._dense: dict[str, Array] = {}
        self._sparse: dict[str, tuple[int, Array, Array, Array]] = {}

    def add(self, name: str, width: int, unit: Array, column: Array | int = 0, amount: Array | float = 1.0) -> None:
        """Add `amount` of `unit` to `column` (0 .. width - 1) of `name`; arrays of one length, or one value for all."""
        cell = unit * width + column
        amounts = np.broadcast_to(np.asarray(amount, np.float64), cell.shape)
        if width <= NARROW:
            sums = np.bincount(cell, amounts, minlength=self.units * width)
            self._dense[name] = sums.reshape(self.units, width)
            return
        cells, place = np.unique(cell, return_inverse=True)
        self._sparse[name] = (width, cells // width, cells % width, np.bincount(place, amounts, minlength=len(cells)))

    @property
    def cost(self) -> int:
        """The cost of one resample, in sparse entries; drawing it costs one per unit."""
        dense = sum(sums.size for sums in self._dense.values())
        return self.units + dense // DENSE_SPEED + sum(len(unit) for _, unit, _, _ in self._sparse.values())

    def weighted(self, weights: Array) -> dict[str, Array]:
        """Turn (b, units) weights into (b, width) sums of each name."""
        totals = {name: np.asarray(weights @ sums) for name, sums in self._dense.items()}
        for name, (width, unit, column, amount) in self._sparse.items():
            totals[name] = np.stack([np.bincount(column, amount * row[unit], minlength=width) for row in weights])
        return totals


def unit_sums(judged: EvaluationData, whole: bool = True) -> UnitSums:
    """Compute the sums that `metric_values` reads; with `whole` false, only those of the main metric."""
    found = UnitSums(judged.units)
    FILL[judged.task](judged, found)
    if whole and judged.target in (Target.CLASSES, Target.LABELS):
        _add_calibration(judged, found)
    if whole and judged.target is Target.NUMBERS:
        _add_ranks(judged, found)
    return found


def _add_classes(judged: EvaluationData, found: UnitSums) -> None:
    many, right = len(judged.names), judged.y_pred == judged.y_true
    found.add("rows", 1, judged.unit)
    found.add("truth", many, judged.unit, judged.y_true)
    found.add("said", many, judged.unit, judged.y_pred)
    found.add("hit", many, judged.unit[right], judged.y_true[right])


def _add_labels(judged: EvaluationData, found: UnitSums) -> None:
    found.add("rows", 1, judged.unit)
    for name, cells in (("truth", judged.y_true), ("said", judged.y_pred), ("hit", judged.y_true & judged.y_pred)):
        row, label = np.nonzero(cells)
        found.add(name, len(judged.names), judged.unit[row], label)
    found.add("exact", 1, judged.unit[(judged.y_true == judged.y_pred).all(axis=1)])


def _add_numbers(judged: EvaluationData, found: UnitSums) -> None:
    """Add moments of centered numbers of unit spread: plain sums of squares would lose their digits."""
    middle, spread = judged.y_true.mean(), stable_deviation(judged.y_true) or 1.0
    truth, said = (judged.y_true - middle) / spread, (judged.y_pred - middle) / spread
    found.add("rows", 1, judged.unit)
    moments = {"y": truth, "yy": truth**2, "absolute": np.abs(said - truth), "squared": (said - truth) ** 2}
    for name, amount in moments.items():
        found.add(name, 1, judged.unit, 0, amount)


def _add_ranks(judged: EvaluationData, found: UnitSums) -> None:
    a, b = _ranks(judged.y_true), _ranks(judged.y_pred)
    for name, amount in {"a": a, "b": b, "aa": a**2, "bb": b**2, "ab": a * b}.items():
        found.add(name, 1, judged.unit, 0, amount)


def _add_entities(judged: EvaluationData, found: UnitSums) -> None:
    truth, said = (span_metrics.entity_spans(judged, classes) for classes in (judged.y_true, judged.y_pred))
    right = np.isin(truth.key(len(judged.y_true)), said.key(len(judged.y_true)))
    many = max(1, len(entity_labels(judged.names)))
    found.add("rows", 1, judged.unit)
    found.add("right", 1, judged.unit[judged.y_true == judged.y_pred])
    found.add("truth", many, judged.unit[truth.start], truth.label)
    found.add("said", many, judged.unit[said.start], said.label)
    found.add("hit", many, judged.unit[truth.start[right]], truth.label[right])


def _add_answers(judged: EvaluationData, found: UnitSums) -> None:
    answered, unit = span_metrics.answer_spans(judged), judged.unit[judged.starts[:-1]]
    found.add("items", 1, unit)
    found.add("f1", 1, unit, 0, np.array([answer.f1 for answer in answered]))
    found.add("exact", 1, unit, 0, np.array([float(answer.exact) for answer in answered]))


def _add_calibration(judged: EvaluationData, found: UnitSums) -> None:
    """Add the log loss, and for each bin by how much confidence exceeds accuracy."""
    losses = calibration.log_losses(judged.scores, judged.values, judged.target, judged.temperature)
    found.add("loss", 1, judged.unit, 0, losses)
    for name, probable in (
        ("gap before", calibration.probabilities(judged.scores, judged.target)),
        ("gap", judged.probabilities),
    ):
        sure, so = calibration.confidences(probable, judged.values, judged.target)
        unit = np.repeat(judged.unit, len(sure) // len(judged.unit))
        found.add(name, calibration.BINS, unit, calibration.bin_of(sure), sure - so)


def _ranks(numbers: Array) -> Array:
    """Rank numbers from -1 to 1; equal numbers get their mean rank."""
    _, place, count = np.unique(numbers, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count + 1) / 2
    return np.asarray(2 * middle[place] / max(1, len(numbers) - 1) - 1)


FILL: dict[Task, Callable[[EvaluationData, UnitSums], None]] = {
    Task.CLASSIFICATION: _add_classes,
    Task.MULTI_LABEL: _add_labels,
    Task.REGRESSION: _add_numbers,
    Task.TAGGING: _add_entities,
    Task.QUESTION_ANSWERING: _add_answers,
    Task.SEGMENTATION: _add_classes,
}
