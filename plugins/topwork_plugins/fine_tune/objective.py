"""Loss that is minimized and score that stops the training, by Target. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from topwork_server import Array, FineTuneDataset, InvalidInput, Target
from torch import Tensor
from torch.nn import functional

from topwork_plugins.fine_tune.network import shuffled

#: Rows of a CLASSES dataset whose value is below 0 are neither trained on nor evaluated.
IGNORED = -1


class Objective:
    """The loss and the score of raw scores, which the output layer gives; NUMBERS are learned as deviations from the training
    mean.

    `name` says what `score` is; of all, more is better.
    """

    _values: Array

    def __init__(self, dataset: FineTuneDataset, class_weight: str) -> None:
        self.target = dataset.target
        self._ends = np.cumsum(dataset.counts)
        self._counts = dataset.counts
        self._values = np.asarray(dataset.values, np.int64 if self.target is Target.CLASSES else np.float32)
        self._rowwise = dataset.pooling == "rows"
        learned = self._values[self.rows_of(dataset.train)]
        _check(learned, dataset)
        self.center, self.unit = _units(learned) if self.target is Target.NUMBERS else (0.0, 1.0)
        weight = _weights(learned, self.target, len(dataset.names)) if class_weight == "balanced" else None
        self._weight = None if weight is None else torch.from_numpy(weight)

    def steps(self, items: int, batch: int) -> int:
        """Count the batches of a pass over so many items."""
        return math.ceil(items / batch)

    def batches(self, train: Array, costs: Array, batch: int, random: np.random.Generator) -> list[Array]:
        """Deal the positions of a pass."""
        return shuffled(train, costs, batch, random)

    @property
    def name(self) -> str:
        if self.target is Target.CLASSES:
            return "macro F1" if self._rowwise else "accuracy"
        return {Target.LABELS: "macro F1", Target.NUMBERS: "R2", Target.SPAN: "exact match"}[self.target]

    def rows_of(self, positions: Sequence[int] | Array) -> Array:
        """Return the rows of items, in their order, in `FineTuneDataset.values`."""
        spans = [np.arange(self._ends[p] - self._counts[p], self._ends[p]) for p in positions]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)

    def size(self, positions: Array) -> int:
        """Count the rows (of SPAN: items) with a value that the mean loss of these items is over."""
        values = self._values[self.rows_of(positions)]
        if self.target is Target.SPAN:
            return len(positions)
        return int((values >= 0).sum()) if self.target is Target.CLASSES else len(values)

    def loss(self, raw: Tensor, positions: Sequence[int] | Array) -> Tensor:
        """Return the sum over the rows of those items; divided by `size` it is the mean."""
        if len(raw) != (wanted := int(self._counts[list(positions)].sum())):
            raise InvalidInput(
                f"the trunk gives {len(raw)} rows for {len(positions)} items, and there are {wanted} values",
                remedy="write the set again with the options of its encoder",
            )
        values = torch.from_numpy(self._values[self.rows_of(positions)]).to(raw.device)
        weight = None if self._weight is None else self._weight.to(raw.device)
        if self.target is Target.CLASSES:
            return functional.cross_entropy(raw, values, weight, ignore_index=IGNORED, reduction="sum")
        if self.target is Target.LABELS:
            each = functional.binary_cross_entropy_with_logits(raw, values, pos_weight=weight, reduction="none")
            return each.mean(1).sum()
        if self.target is Target.NUMBERS:
            return ((raw - (values - self.center) / self.unit) ** 2).sum()
        return self._span_loss(raw, values, positions)

    def _span_loss(self, raw: Tensor, values: Tensor, positions: Sequence[int] | Array) -> Tensor:
        """Return - log of the probability of any right start, and of any right end; an item without an answer counts nothing."""
        total = raw.sum() * 0.0
        counts = self._counts[list(positions)].tolist()
        for own, right in zip(torch.split(raw, counts), torch.split(values, counts), strict=True):
            if bool(right.any(0).all()):
                among = own.masked_fill(right == 0, float("-inf"))
                total = total + (own.logsumexp(0) - among.logsumexp(0)).mean()
        return total

    def scores_of(self, raw: Tensor) -> Array:
        """Return scores as Target has them, float32."""
        found: Array = (raw * self.unit + self.center).numpy().astype(np.float32)
        return found

    def score(self, scores: Array, positions: Sequence[int] | Array) -> float:
        """Measure scores as `scores_of` gives them, for the rows of those items."""
        values = self._values[self.rows_of(positions)]
        if self.target is Target.SPAN:
            return _exact(scores, values, self._counts[list(positions)])
        if self.target is Target.NUMBERS:
            spread = float(((values - values.mean()) ** 2).sum())
            return 1.0 - float(((scores - values) ** 2).sum()) / spread if spread else 0.0
        if self.target is Target.LABELS:
            return _macro_f1(scores > 0, values > 0)
        scores, values = scores[values >= 0], values[values >= 0]
        best, classes = scores.argmax(1), np.arange(scores.shape[1])
        if self._rowwise:
            return _macro_f1(best[:, None] == classes, values[:, None] == classes)
        return float((best == values).mean()) if len(values) else 0.0

    def fold_output_layer(self, weight: Array, bias: Array, scale: float) -> tuple[Array, Array]:
        """Fold scale, center and unit into the output layer, so that it reads rows and gives numbers as they are."""
        return (
            np.ascontiguousarray(weight / scale * self.unit, np.float32),
            np.asarray(bias * self.unit + self.center, np.float32),
        )


def _check(learned: Array, dataset: FineTuneDataset) -> None:
    """Raise InvalidInput where there is nothing to learn."""
    if not len(dataset.train) or not len(learned):
        raise InvalidInput("there is no item to learn from", remedy="label more items")
    if not np.isfinite(learned).all():
        raise InvalidInput("the values to learn are not all finite", remedy="leave items without a number unlabeled")
    if dataset.target is Target.NUMBERS and not np.ptp(learned):
        raise InvalidInput(f"all training items have the value {learned[0, 0]:g}", remedy="label items of other values")
    if dataset.target is Target.CLASSES and len(np.unique(learned[learned >= 0])) < 2:
        raise InvalidInput("the training items are of one class", remedy="label items of at least two classes")
    if dataset.target is Target.CLASSES and learned.max() >= len(dataset.names):
        raise InvalidInput(f"class {learned.max()} has no name among {len(dataset.names)}")
    if dataset.target in (Target.LABELS, Target.SPAN) and not learned.any():
        raise InvalidInput("no training item has a label", remedy="label more items")


def _units(learned: Array) -> tuple[float, float]:
    return float(learned.mean()), float(learned.std())


def _weights(learned: Array, target: Target, names: int) -> Array:
    """Return balanced weights. CLASSES: rows / (classes * rows of the class); LABELS: rows without the label for each with it."""
    if target is Target.CLASSES:
        counts = np.bincount(learned[learned >= 0], minlength=names)
        return np.asarray(counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)), np.float32)
    if target is Target.LABELS:
        there = (learned > 0).sum(0)
        return np.asarray(((len(learned) - there) / np.maximum(there, 1)).clip(1e-3, 1e3), np.float32)
    raise InvalidInput(f"class_weight balances classes and labels, not {target.value}", remedy="leave it 'none'")


def _macro_f1(predicted: Array, true: Array) -> float:
    """Return the macro F1 of (rows, classes) bool, over the classes that are there or are predicted."""
    both, either = (predicted & true).sum(0), predicted.sum(0) + true.sum(0)
    return float((2 * both[either > 0] / either[either > 0]).mean()) if either.any() else 0.0


def _exact(scores: Array, values: Array, counts: Array) -> float:
    """Return the share of items whose likeliest start and end are both right."""
    right: list[bool] = []
    ends: Any = np.cumsum(counts)
    for end, count in zip(ends.tolist(), counts.tolist(), strict=True):
        own, true = scores[end - count : end], values[end - count : end]
        if true.any():
            right.append(bool(all(true[own[:, side].argmax(), side] for side in (0, 1))))
    return float(np.mean(right)) if right else 0.0
