"""What a net is wrong by: a loss for each unit, which is a row, or of SPAN an item with all its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from topwork_server import Array, Examples, InvalidInput, Target

if TYPE_CHECKING:
    from torch import Tensor


class UnitLosses:
    """The values of some examples, ready to be learnt. `count` units; `weights` (count,) float32, 1 on average."""

    def __init__(self, examples: Examples, *, balanced: bool) -> None:
        self.target = examples.target
        self.outputs = {Target.NUMBERS: 1, Target.SPAN: 2}.get(self.target, len(examples.names))
        self.shift, self.spread = np.zeros(self.outputs), np.ones(self.outputs)
        values = examples.values
        if self.target is Target.NUMBERS:
            self.shift, self.spread = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
            self.spread = np.where(self.spread > 1e-6 * np.abs(self.shift) + 1e-30, self.spread, 1.0)
            values = ((values - self.shift) / self.spread).astype(np.float32)
        self._values = values
        starts = np.arange(examples.count)
        if self.target is Target.SPAN:
            starts = np.flatnonzero(np.diff(examples.items, prepend=-1))
        self.starts, self._ends = starts, np.append(starts[1:], examples.count)
        self.count = len(starts)
        if balanced and self.target not in (Target.CLASSES, Target.LABELS):
            raise InvalidInput(f"class_weight 'balanced' means nothing for {self.target.value}", remedy="leave it out")
        self.weights = _weights(examples) if balanced and self.target is Target.CLASSES else np.ones(self.count, np.float32)
        self._label_class_weights = _label_weights(values) if balanced and self.target is Target.LABELS else None

    def rows(self, units: Array) -> Array:
        """The rows of those units, one after the other."""
        if self.target is not Target.SPAN:
            return units
        return np.concatenate([np.arange(self.starts[unit], self._ends[unit]) for unit in units])

    def losses(self, scores: Tensor, units: Array) -> Tensor:
        """(nets, units) of scores (nets, rows of those units, outputs)."""
        import torch
        from torch.nn import functional

        y_true = torch.from_numpy(np.ascontiguousarray(self._values[self.rows(units)]))
        if self.target is Target.CLASSES:
            log_probabilities = scores.log_softmax(dim=2)
            return -log_probabilities.gather(2, y_true.expand(len(scores), -1)[:, :, None])[:, :, 0]
        y_true = y_true.expand_as(scores)
        if self.target is Target.LABELS:
            weight = None
            if self._label_class_weights is not None:
                with_it, without = map(torch.from_numpy, self._label_class_weights)
                weight = torch.where(y_true > 0, with_it, without)
            return functional.binary_cross_entropy_with_logits(scores, y_true, weight, reduction="none").mean(dim=2)
        if self.target is Target.NUMBERS:
            return ((scores - y_true) ** 2).mean(dim=2)
        owner = torch.from_numpy(np.repeat(np.arange(len(units)), self._ends[units] - self.starts[units]))
        return _span_losses(scores, y_true, owner, len(units))


def _span_losses(scores: Tensor, y_true: Tensor, owner: Tensor, count: int) -> Tensor:
    """Cross entropy of where an answer starts and ends; `owner` (rows,) says to which of `count` items a row belongs."""
    index = owner[None, :, None].expand_as(scores)
    most = scores.new_zeros(len(scores), count, 2).scatter_reduce(1, index, scores.detach(), "amax", include_self=False)
    sums = scores.new_zeros(most.shape).index_add(1, owner, (scores - most.gather(1, index)).exp())
    answered = scores.new_zeros(most.shape).index_add(1, owner, y_true * (scores - most.gather(1, index)))
    answers = scores.new_zeros(most.shape).index_add(1, owner, y_true)
    return (answers * sums.log() - answered).sum(dim=2)


def _label_weights(values: Array) -> tuple[Array, Array]:
    """(labels,) float32 each: of examples that have a label, and of those that do not; both count as much in all."""
    share = np.clip(values.mean(axis=0, dtype=np.float64), 1 / (len(values) + 1), 1 - 1 / (len(values) + 1))
    return (0.5 / share).astype(np.float32), (0.5 / (1 - share)).astype(np.float32)


def _weights(examples: Examples) -> Array:
    counts = np.bincount(examples.values, minlength=len(examples.names))
    share = 1 / counts[examples.values]
    return np.asarray(share / share.mean(), np.float32)
