"""A few small nets that learn at once, in batched matrix products: each leaves another part of the examples out.

Torch is imported where they learn; the head that averages them is numpy and a graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from topwork_server import Array, Examples, FittedHead, InvalidInput, Target, head_graph, option

if TYPE_CHECKING:
    import onnx
    from torch import Generator, Tensor

#: Share of the steps in which the learning rate rises.
WARM_UP = 0.1
#: Products a step, of the first layer, from which a second thread gains more than it waits for the others.
WORTH_THREADS = 100_000_000
#: Rows that are scored at once.
BLOCK = 4096
#: How many standard deviations from the mean a column may stand out: one far number must not decide alone.
FAR = 10.0


@dataclass(frozen=True)
class MlpOptions:
    layers: int = option(1, "hidden layers", minimum=1, maximum=3)
    width: int = option(128, "units of a hidden layer", minimum=8, maximum=4096)
    dropout: float = option(0.5, "share of hidden units that are dropped while learning", minimum=0, maximum=0.9)
    weight_decay: float = option(1.0, "decoupled (AdamW)", minimum=0, maximum=100)
    learning_rate: float = option(2e-3, "at its height", minimum=1e-6, maximum=1)
    epochs: int | None = option(None, "at most; 60 unless there are very many examples", minimum=1, maximum=10_000)
    patience: int = option(10, "epochs without a gain on what was left out", minimum=1, maximum=10_000)
    batch: int | None = option(None, "examples a step; an eighth of all, 4 to 256", minimum=1, maximum=65_536)
    members: int | None = option(
        None,
        "nets that are averaged; each leaves another part out. 5 up to 2,000 examples, else 1",
        minimum=1,
        maximum=10,
    )
    class_weight: Literal["none", "balanced"] = option("none", "balanced: rare classes count as much as frequent ones")


def check_balanced(target: Target, options: MlpOptions) -> None:
    """Raise InvalidInput where classes are to be balanced and there are none."""
    if options.class_weight == "balanced" and target not in (Target.CLASSES, Target.LABELS):
        raise InvalidInput(f"class_weight 'balanced' means nothing for {target.value}", remedy="leave it out")


class UnitLosses:
    """The values of some examples, and the loss of each unit: a row, or of SPAN an item with its rows. `weights` (count,) average
    1."""

    def __init__(self, examples: Examples, *, balanced: bool) -> None:
        self.target = examples.target
        self.outputs = {Target.NUMBERS: 1, Target.SPAN: 2}.get(self.target, len(examples.names))
        self.shift, self.spread = np.zeros(self.outputs), np.ones(self.outputs)
        values = examples.values
        if self.target is Target.NUMBERS:
            self.shift, self.spread = _moments(values, examples.counted)
            self.spread = np.where(self.spread > 1e-6 * np.abs(self.shift) + 1e-30, self.spread, 1.0)
            values = ((values - self.shift) / self.spread).astype(np.float32)
        self._values = values
        starts = np.arange(examples.count)
        if self.target is Target.SPAN:
            starts = np.flatnonzero(np.diff(examples.items, prepend=-1))
        self.starts, self._ends = starts, np.append(starts[1:], examples.count)
        self.count = len(starts)
        self.weights = _weights(examples, balanced=balanced and self.target is Target.CLASSES)[starts]
        self._label_class_weights = (
            _label_weights(values, examples.counted) if balanced and self.target is Target.LABELS else None
        )

    def rows(self, units: Array) -> Array:
        """Return the rows of those units, one after the other."""
        if self.target is not Target.SPAN:
            return units
        return np.concatenate([np.arange(self.starts[unit], self._ends[unit]) for unit in units])

    def losses(self, scores: Tensor, units: Array) -> Tensor:
        """Return the losses (nets, units) of scores (nets, rows of those units, outputs)."""
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
    """Return the cross entropy of where an answer starts and ends; `owner` (rows,) says to which of `count` items a row
    belongs."""
    index = owner[None, :, None].expand_as(scores)
    most = scores.new_zeros(len(scores), count, 2).scatter_reduce(1, index, scores.detach(), "amax", include_self=False)
    sums = scores.new_zeros(most.shape).index_add(1, owner, (scores - most.gather(1, index)).exp())
    answered = scores.new_zeros(most.shape).index_add(1, owner, y_true * (scores - most.gather(1, index)))
    answers = scores.new_zeros(most.shape).index_add(1, owner, y_true)
    return (answers * sums.log() - answered).sum(dim=2)


def _label_weights(values: Array, counted: Array) -> tuple[Array, Array]:
    """Return the weights (labels,) float32 of examples with and without a label: both count as much in all."""
    share = np.clip(np.average(values, axis=0, weights=counted), 1 / (len(values) + 1), 1 - 1 / (len(values) + 1))
    return (0.5 / share).astype(np.float32), (0.5 / (1 - share)).astype(np.float32)


def _weights(examples: Examples, *, balanced: bool) -> Array:
    """Return what each row counts for, (n,) float32, 1 on average; `balanced`: each class as much as another."""
    share = examples.counted
    if balanced:
        share = share / np.bincount(examples.values, share, minlength=len(examples.names))[examples.values]
    return np.asarray(share / share.mean(), np.float32)


def _moments(rows: Array, counted: Array | None) -> tuple[Array, Array]:
    """Return the mean and the deviation of each column, float64, of rows that count for so much; None: all for 1."""
    if counted is None:
        return rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    mean = np.average(rows, axis=0, weights=counted)
    return mean, np.sqrt(np.average((rows - mean) ** 2, axis=0, weights=counted))


@dataclass(frozen=True)
class TrainedNets:
    """The nets as they were at their best epoch: layers as `MlpHead` has them, and the mean loss of what each left out."""

    layers: list[tuple[Array, Array]]
    loss: float
    epoch: int


class NetEnsemble:
    def __init__(self, count: int, sizes: Sequence[int], options: MlpOptions, random: Generator) -> None:
        import torch

        self._random, self._dropout, self._decay = random, options.dropout, options.weight_decay
        self.layers: list[tuple[Tensor, Tensor]] = []
        for inputs, outputs in pairwise(sizes):
            weight = torch.randn(count, inputs, outputs, generator=random) * math.sqrt(2 / inputs)  # He et al. 2015
            self.layers.append((weight.requires_grad_(), torch.zeros(count, 1, outputs).requires_grad_()))
        with torch.no_grad():
            self.layers[-1][0].mul_(0.1)  # begin near to knowing nothing
        parameters = [parameter for layer in self.layers for parameter in layer]
        self._adam = torch.optim.Adam(parameters)

    def scores(self, rows: Tensor, *, learning: bool = False) -> Tensor:
        """Return scores (nets, n, outputs) of rows (n, dim)."""
        found = rows[None]
        for at, (weight, bias) in enumerate(self.layers):
            if at:
                found = self._dropped(found.relu()) if learning and self._dropout else found.relu()
            found = found @ weight + bias
        return found

    def _dropped(self, found: Tensor) -> Tensor:
        import torch

        kept = torch.rand(found.shape, generator=self._random) >= self._dropout
        return found * kept / (1 - self._dropout)

    def step(self, loss: Tensor, rate: float) -> None:
        """Take a step of AdamW (Loshchilov and Hutter 2019), whose decay is of weights alone."""
        import torch

        self._adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for weight, _ in self.layers:
                weight.mul_(max(0, 1 - rate * self._decay))
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()

    def layer_arrays(self) -> list[tuple[Array, Array]]:
        return [(weight.detach().numpy().copy(), bias.detach().numpy().copy()) for weight, bias in self.layers]


def train_nets(rows: Array, task: UnitLosses, held: Array, options: MlpOptions, seed: int, threads: int) -> TrainedNets:
    """Train on scaled rows; held (nets, units) bool marks what each net leaves out."""
    import torch

    random = torch.Generator().manual_seed(seed)
    nets = NetEnsemble(len(held), [rows.shape[1], *[options.width] * options.layers, task.outputs], options, random)
    batch = options.batch or min(256, max(4, task.count // 8))
    epochs = options.epochs or min(60, max(10, 500_000 // task.count))
    torch.set_num_threads(threads if batch * rows.shape[1] * options.width * len(held) >= WORTH_THREADS else 1)
    rates = _rates(options.learning_rate, epochs * -(-task.count // batch))
    data = _Data(torch.from_numpy(rows), task, torch.from_numpy(held), torch.from_numpy(task.weights))
    best = TrainedNets([], math.inf, 0)
    for epoch in range(1, epochs + 1):
        for units in torch.split(torch.randperm(task.count, generator=random), batch):
            nets.step(data.loss(nets, units), next(rates))
        loss = float(data.held_losses(nets).mean())
        if loss < best.loss:
            best = TrainedNets(nets.layer_arrays(), loss, epoch)
        if epoch - best.epoch >= options.patience:
            break
    if not best.layers:
        raise InvalidInput("the nets ran away: no epoch had a finite loss", remedy="take a smaller learning_rate")
    return best


@dataclass(frozen=True)
class _Data:
    """Rows (n, dim), and what each net leaves out: (nets, units) bool."""

    rows: Tensor
    task: UnitLosses
    held: Tensor
    weights: Tensor

    def loss(self, nets: NetEnsemble, units: Tensor) -> Tensor:
        """Return the sum over nets of their mean losses of those units that they do not leave out."""
        found = self.task.losses(nets.scores(self._rows(units), learning=True), units.numpy())
        weights = self.weights[units] * ~self.held[:, units]
        return ((found * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)).sum()

    def held_losses(self, nets: NetEnsemble) -> Tensor:
        """Return the mean loss (nets,) of what each leaves out."""
        import torch

        sums, counts = torch.zeros(len(self.held)), torch.zeros(len(self.held))
        asked = torch.nonzero(self.held.any(dim=0))[:, 0]
        with torch.no_grad():
            for units in torch.split(asked, BLOCK):
                weights = self.weights[units] * self.held[:, units]
                sums += (self.task.losses(nets.scores(self._rows(units)), units.numpy()) * weights).sum(dim=1)
                counts += weights.sum(dim=1)
        return sums / counts

    def _rows(self, units: Tensor) -> Tensor:
        import torch

        return self.rows[torch.from_numpy(self.task.rows(units.numpy()))]


def _rates(height: float, steps: int) -> Iterator[float]:
    """Yield the rates: a warm-up, then a cosine down to nothing."""
    warm = max(1, int(WARM_UP * steps))
    for step in range(steps):
        yield height * min(1, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


class ColumnScaler:
    """Columns to mean 0 and deviation 1, within FAR; those that never change to 0."""

    def __init__(self, rows: Array, counted: Array | None = None) -> None:
        mean, deviation = _moments(rows, counted)
        self.mean = mean.astype(np.float32)
        dull = deviation <= 1e-5 * np.abs(self.mean) + 1e-12
        self.factor = np.where(dull, 0, 1 / np.where(dull, 1, deviation)).astype(np.float32)

    def __call__(self, rows: Array) -> Array:
        return np.asarray(np.clip((rows - self.mean) * self.factor, -FAR, FAR), np.float32)


class MlpHead(FittedHead):
    """Layers of (weight (nets, inputs, outputs), bias (nets, 1, outputs)) float32, with ReLU between them."""

    def __init__(self, view: int, scale: ColumnScaler, layers: Sequence[tuple[Array, Array]]) -> None:
        self.view, self._scale, self._layers = view, scale, layers

    def scores(self, rows: Array) -> Array:
        found = self._scale(rows)[None]
        for at, (weight, bias) in enumerate(self._layers):
            found = (np.maximum(found, 0) if at else found) @ weight + bias
        return np.asarray(found.mean(axis=0), np.float32)

    def graph(self) -> onnx.ModelProto:
        from onnx.helper import make_node

        nodes = [
            make_node("Sub", ["rows", "mean"], ["off"]),
            make_node("Mul", ["off", "factor"], ["scaled"]),
            make_node("Clip", ["scaled", "low", "high"], ["within"]),
            make_node("Unsqueeze", ["within", "net"], ["layer0"]),
        ]
        constants = {"mean": self._scale.mean, "factor": self._scale.factor, "net": np.array([0])}
        constants |= {"low": np.array(-FAR), "high": np.array(FAR)}
        for at, (weight, bias) in enumerate(self._layers):
            if at:
                nodes.append(make_node("Relu", [f"added{at - 1}"], [f"layer{at}"]))
            nodes.append(make_node("MatMul", [f"layer{at}", f"weight{at}"], [f"product{at}"]))
            nodes.append(make_node("Add", [f"product{at}", f"bias{at}"], [f"added{at}"]))
            constants |= {f"weight{at}": weight, f"bias{at}": bias}
        nodes.append(make_node("ReduceMean", [f"added{len(self._layers) - 1}", "net"], ["scores"], keepdims=0))
        return head_graph(nodes, constants, len(self._scale.mean), self._layers[-1][0].shape[2])
