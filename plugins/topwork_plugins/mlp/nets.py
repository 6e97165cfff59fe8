"""Many small nets that learn at once, in batched matrix products: every weight decay with every part left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from topwork_server.types import Array

from topwork_plugins.mlp.losses import Task
from topwork_plugins.mlp.options import MlpOptions

if TYPE_CHECKING:
    from torch import Generator, Tensor

#: Share of the steps in which the learning rate rises.
WARM_UP = 0.1
#: Rows that are scored at once.
BLOCK = 4096


@dataclass(frozen=True)
class Learnt:
    """The nets of one weight decay as they were at their best epoch: layers as `Mlp` has them, and the mean loss of what each
    left out."""

    decay: float
    layers: list[tuple[Array, Array]]
    loss: float
    epoch: int


class Nets:
    """One net for each weight decay and part: net = decay * parts + part."""

    def __init__(self, sizes: Sequence[int], decays: Sequence[float], parts: int, dropout: float, random: Generator) -> None:
        import torch

        self._random, self._dropout = random, dropout
        count = len(decays) * parts
        self._decay = torch.tensor(decays).repeat_interleave(parts)[:, None, None]
        self.layers: list[tuple[Tensor, Tensor]] = []
        for inputs, outputs in pairwise(sizes):
            weight = torch.randn(count, inputs, outputs, generator=random) * math.sqrt(2 / inputs)  # He et al. 2015
            self.layers.append((weight.requires_grad_(), torch.zeros(count, 1, outputs).requires_grad_()))
        with torch.no_grad():
            self.layers[-1][0].mul_(0.1)  # begin near to knowing nothing
        parameters = [parameter for layer in self.layers for parameter in layer]
        self._adam = torch.optim.Adam(parameters)

    def scores(self, rows: Tensor, *, learning: bool = False) -> Tensor:
        """(nets, n, outputs) of (n, dim)."""
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
        """AdamW (Loshchilov and Hutter 2019); each net has its own decay."""
        import torch

        self._adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for weight, _ in self.layers:
                weight.mul_((1 - rate * self._decay).clamp(min=0))
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()

    def taken(self, nets: slice) -> list[tuple[Array, Array]]:
        return [(weight.detach()[nets].numpy().copy(), bias.detach()[nets].numpy().copy()) for weight, bias in self.layers]


def learn(
    rows: Array, task: Task, held: Array, decays: Sequence[float], options: MlpOptions, seed: int, threads: int
) -> list[Learnt]:
    """For each decay, nets of scaled rows; held (parts, units) bool: what each leaves out."""
    import torch

    torch.set_num_threads(threads)
    random = torch.Generator().manual_seed(seed)
    sizes = [rows.shape[1], *[options.width] * options.layers, task.outputs]
    nets = Nets(sizes, decays, len(held), options.dropout, random)
    batch = options.batch or min(256, max(4, task.count // 8))
    epochs = options.epochs or min(60, max(10, 500_000 // task.count))
    rates = _rates(options.learning_rate, epochs * -(-task.count // batch))
    data = _Data(torch.from_numpy(rows), task, torch.from_numpy(held).repeat(len(decays), 1), torch.from_numpy(task.weights))
    best: dict[float, Learnt] = {}
    for epoch in range(1, epochs + 1):
        order = torch.randperm(task.count, generator=random)
        for units in torch.split(order, batch):
            nets.step(data.loss(nets, units), next(rates))
        losses = data.held_losses(nets).reshape(len(decays), -1).mean(dim=1).tolist()
        for at, (decay, loss) in enumerate(zip(decays, losses, strict=True)):
            if decay not in best or loss < best[decay].loss:
                best[decay] = Learnt(decay, nets.taken(slice(at * len(held), (at + 1) * len(held))), loss, epoch)
        if epoch - max(learnt.epoch for learnt in best.values()) >= options.patience:
            break
    return [best[decay] for decay in decays]


@dataclass(frozen=True)
class _Data:
    """Rows (n, dim), and for each net (nets, units) what it leaves out."""

    rows: Tensor
    task: Task
    held: Tensor
    weights: Tensor

    def loss(self, nets: Nets, units: Tensor) -> Tensor:
        """The sum over nets of their mean losses of those units that they do not leave out."""
        found = self.task.losses(nets.scores(self._rows(units), learning=True), units.numpy())
        weights = self.weights[units] * ~self.held[:, units]
        return ((found * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)).sum()

    def held_losses(self, nets: Nets) -> Tensor:
        """(nets,) the mean loss of what each leaves out."""
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
    """Warm-up, then a cosine down to nothing."""
    warm = max(1, int(WARM_UP * steps))
    for step in range(steps):
        yield height * min(1, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
