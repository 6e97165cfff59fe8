"""A few small nets that learn at once, in batched matrix products: each leaves another part of the examples out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from topwork_server import Array, InvalidInput

from topwork_plugins.mlp.losses import UnitLosses
from topwork_plugins.mlp.options import MlpOptions

if TYPE_CHECKING:
    from torch import Generator, Tensor

#: Share of the steps in which the learning rate rises.
WARM_UP = 0.1
#: Products a step, of the first layer, from which a second thread gains more than it waits for the others.
WORTH_THREADS = 100_000_000
#: Rows that are scored at once.
BLOCK = 4096


@dataclass(frozen=True)
class TrainedNets:
    """The nets as they were at their best epoch: layers as `Mlp` has them, and the mean loss of what each left out."""

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
        """AdamW (Loshchilov and Hutter 2019), of weights alone."""
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
    """Of scaled rows; held (nets, units) bool: what each leaves out."""
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
        """The sum over nets of their mean losses of those units that they do not leave out."""
        found = self.task.losses(nets.scores(self._rows(units), learning=True), units.numpy())
        weights = self.weights[units] * ~self.held[:, units]
        return ((found * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)).sum()

    def held_losses(self, nets: NetEnsemble) -> Tensor:
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
