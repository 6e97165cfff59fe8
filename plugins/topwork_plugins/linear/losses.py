"""Losses of many heads at once: scores are (rows, heads, outputs) float32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from topwork_server import Array

_TINY = np.float32(1e-30)


class Loss(ABC):
    """A sum over rows. `measure` names what `score` returns; `tempers` says that scores are logits, which a temperature may
    scale; `counted` (rows,) float32 is what each row counts for, whichever class it has."""

    counted: Array
    measure: ClassVar[str] = "mean log likelihood"
    tempers: ClassVar[bool] = True

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Number of scores of a row."""

    @property
    @abstractmethod
    def count(self) -> float:
        """Weight of all rows, over which a mean is taken."""

    @abstractmethod
    def __call__(self, scores: Array, start: int) -> tuple[Array, Array]:
        """Return the loss (heads,) float64 of rows start, start + 1, ... and the mean curvature (heads,) of a score.

        `scores` becomes its own derivative, in place.
        """

    def bounds(self, size: int) -> list[int]:
        """List where chunks of about `size` rows start, and the end of the last."""
        return [*range(0, self._rows(), size), self._rows()]

    @abstractmethod
    def _rows(self) -> int: ...

    @abstractmethod
    def bias(self) -> Array:
        """Return the best scores (outputs,) float64 where nothing is known of a row; they are finite for any counts."""

    @abstractmethod
    def targets(self) -> Array:
        """Return the targets (rows, outputs) float32 of least squares."""

    @abstractmethod
    def take(self, rows: Array) -> Loss:
        """Return the loss of some rows (ascending)."""

    def score(self, losses: Array) -> Array:
        """Turn losses into scores, of which more is better."""
        return -losses / self.count


@dataclass(frozen=True)
class SoftmaxLoss(Loss):
    """Cross entropy of one class of several. classes (n,) int64 of 0 .. many - 1; weights (n,) float32 of rows, times those of
    their classes."""

    classes: Array
    weights: Array
    many: int
    counted: Array

    @property
    def outputs(self) -> int:
        return self.many

    @property
    def count(self) -> float:
        return float(self.weights.sum())

    def __call__(self, scores: Array, start: int) -> tuple[Array, Array]:
        count, _, outputs = scores.shape
        classes, weights = self.classes[start : start + count], self.weights[start : start + count, None]
        scores -= scores.max(axis=2, keepdims=True)
        here = np.arange(count)
        picked = scores[here, :, classes]
        np.exp(scores, out=scores)
        total = scores.sum(axis=2)
        loss = (weights * (np.log(total) - picked)).sum(axis=0, dtype=np.float64)
        scores *= (1 / total)[..., None]
        curvature = (1 - np.einsum("nbk,nbk->b", scores, scores) / count) / outputs
        scores[here, :, classes] -= 1
        scores *= weights[..., None]
        return loss, np.asarray(curvature, np.float64)

    def bias(self) -> Array:
        counts = np.bincount(self.classes, self.weights, self.outputs) + 0.5
        return np.asarray(np.log(counts / counts.sum()))

    def targets(self) -> Array:
        found = np.zeros((len(self.classes), self.outputs), np.float32)
        found[np.arange(len(self.classes)), self.classes] = 1
        return found

    def take(self, rows: Array) -> SoftmaxLoss:
        return SoftmaxLoss(self.classes[rows], self.weights[rows], self.outputs, self.counted[rows])

    def _rows(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class SigmoidLoss(Loss):
    """Cross entropy of any labels of several. labels (n, outputs) float32, 0 or 1; weights (n, outputs) float32 of rows, times
    those of their labels."""

    labels: Array
    weights: Array
    counted: Array

    @property
    def outputs(self) -> int:
        return int(self.labels.shape[1])

    @property
    def count(self) -> float:
        return float(self.weights.sum())

    def __call__(self, scores: Array, start: int) -> tuple[Array, Array]:
        rows = slice(start, start + len(scores))
        labels, weights = self.labels[rows, None], self.weights[rows, None]
        small = np.exp(-np.abs(scores))
        loss = weights * (np.log1p(small) + np.maximum(scores, 0) - labels * scores)
        probability = np.where(scores >= 0, 1, small) / (1 + small)
        np.multiply(weights, probability - labels, out=scores)
        curvature = (probability * (1 - probability)).mean(axis=(0, 2), dtype=np.float64)
        return loss.sum(axis=(0, 2), dtype=np.float64), curvature

    def bias(self) -> Array:
        positive = (self.weights * self.labels).sum(axis=0, dtype=np.float64) + 0.5
        negative = self.weights.sum(axis=0, dtype=np.float64) + 1 - positive
        return np.asarray(np.log(positive / negative))

    def targets(self) -> Array:
        return self.labels

    def take(self, rows: Array) -> SigmoidLoss:
        return SigmoidLoss(self.labels[rows], self.weights[rows], self.counted[rows])

    def _rows(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class SpanLoss(Loss):
    """Cross entropy of one row of an item: a softmax over its rows. marks (n, 2) float32, 1 where an answer starts or ends; items
    (n,) ascending. Where several rows are right, the loss is their mean; an item without an answer costs nothing."""

    marks: Array
    items: Array
    counted: Array

    @property
    def outputs(self) -> int:
        return 2

    @property
    def count(self) -> float:
        return float(self._parts(0, len(self.items))[1].sum()) or 1.0

    def __call__(self, scores: Array, start: int) -> tuple[Array, Array]:
        edges, answered, sizes, shares = self._parts(start, start + len(scores))
        scores -= np.repeat(np.maximum.reduceat(scores, edges, axis=0), sizes, axis=0)
        picked = (shares * scores).sum(axis=0, dtype=np.float64).sum(axis=1)
        np.exp(scores, out=scores)
        total = np.add.reduceat(scores, edges, axis=0)
        loss = (answered[:, None] * np.log(total)).sum(axis=(0, 2), dtype=np.float64) - picked
        scores *= np.repeat(answered[:, None] / np.maximum(total, _TINY), sizes, axis=0)
        curvature = (scores * (1 - scores)).mean(axis=(0, 2), dtype=np.float64)
        scores -= shares
        return loss, curvature

    def _parts(self, start: int, end: int) -> tuple[Array, Array, Array, Array]:
        """Return where items start, what they count for where their start and end are known, else 0 (items, 2), how many rows
        they have, and what share of their item's answers each row is, as often as it counts (rows, 1, 2)."""
        items, marks, counted = self.items[start:end], self.marks[start:end], self.counted[start:end, None]
        edges = np.flatnonzero(np.diff(items, prepend=items[0] - 1))
        sizes = np.diff(edges, append=len(items))
        right = np.add.reduceat(marks, edges, axis=0)
        shares = marks / np.repeat(np.maximum(right, 1), sizes, axis=0)
        return edges, counted[edges] * (right > 0), sizes, (counted * shares)[:, None]

    def bounds(self, size: int) -> list[int]:
        edges = np.append(np.flatnonzero(np.diff(self.items, prepend=self.items[0] - 1)), len(self.items))
        return [*np.unique(edges[np.searchsorted(edges, super().bounds(size), side="right") - 1]).tolist()]

    def bias(self) -> Array:
        return np.zeros(2)

    def targets(self) -> Array:
        return self.marks

    def take(self, rows: Array) -> SpanLoss:
        return SpanLoss(self.marks[rows], self.items[rows], self.counted[rows])

    def _rows(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class SquaredLoss(Loss):
    """Squared error of numbers (n, outputs) float32. The score is R2."""

    numbers: Array
    counted: Array
    measure: ClassVar[str] = "R2"
    tempers: ClassVar[bool] = False

    @property
    def outputs(self) -> int:
        return int(self.numbers.shape[1])

    @property
    def count(self) -> float:
        return float(self.counted.sum())

    def __call__(self, scores: Array, start: int) -> tuple[Array, Array]:
        scores -= self.numbers[start : start + len(scores), None]
        off, counted = scores.copy(), self.counted[start : start + len(scores), None, None]
        scores *= counted
        return np.multiply(scores, off, dtype=np.float64).sum(axis=(0, 2)), np.ones(scores.shape[1])

    def bias(self) -> Array:
        return np.asarray(np.average(self.numbers, axis=0, weights=self.counted.astype(np.float64)))

    def targets(self) -> Array:
        return self.numbers

    def take(self, rows: Array) -> SquaredLoss:
        return SquaredLoss(self.numbers[rows], self.counted[rows])

    def score(self, losses: Array) -> Array:
        total = (self.counted[:, None] * np.square(self.numbers - self.bias(), dtype=np.float64)).sum()
        return 1 - losses / total if total > 0 else -losses

    def _rows(self) -> int:
        return len(self.numbers)
