"""The output layer before the trunk learns: the scale of what it reads, and a linear head on frozen features. Imports torch."""

from __future__ import annotations

import numpy as np
import torch
from topwork_server import Array, FineTuneDataset
from torch import Tensor

from topwork_plugins.fine_tune.network import Network
from topwork_plugins.fine_tune.objective import Objective

#: Items that tell the scale, and rows that a linear head is fitted to.
SCALED, PROBED = 128, 200_000
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ITERATIONS = 200


def measure_scale(network: Network, train: Array) -> float:
    """The root of the mean square of what the output layer reads: rates of learning then suit any trunk."""
    step = max(len(train) // SCALED, 1)
    squares = [(float((rows**2).mean()), len(rows)) for _, rows in network.features(train[::step][:SCALED].tolist())]
    mean = sum(square * count for square, count in squares) / sum(count for _, count in squares)
    return float(np.sqrt(mean)) or 1.0


def start_linear(network: Network, objective: Objective, lesson: FineTuneDataset) -> float:
    """Linear probing first (Kumar et al. 2022), its strength chosen on the validation items; returns the strength."""
    train = _some(lesson, lesson.train)
    learnt, judged = _features(network, train), _features(network, lesson.validation)
    best, found = float("inf"), (STRENGTHS[2], *_fit(network, objective, learnt, train, STRENGTHS[2]))
    for strength in STRENGTHS if len(lesson.validation) else ():
        weight, bias = _fit(network, objective, learnt, train, strength)
        with torch.no_grad():
            loss = float(objective.loss(judged @ weight.T + bias, lesson.validation))
        if loss < best:
            best, found = loss, (strength, weight, bias)
    with torch.no_grad():
        network.head.weight.copy_(found[1])
        network.head.bias.copy_(found[2])
    return found[0]


def _fit(network: Network, objective: Objective, rows: Tensor, positions: Array, strength: float) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(network.head.weight.shape, device=rows.device, requires_grad=True)
    bias = torch.zeros(network.head.bias.shape, device=rows.device, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")
    size = max(objective.size(positions), 1)

    def closure() -> Tensor:
        solver.zero_grad()
        loss = objective.loss(rows @ weight.T + bias, positions) / size + strength / 2 * (weight**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def _some(lesson: FineTuneDataset, positions: Array) -> Array:
    """The first items, of at most PROBED rows."""
    return positions[np.cumsum(lesson.counts[positions]) <= max(PROBED, int(lesson.counts[positions[0]]))]


def _features(network: Network, positions: Array) -> Tensor:
    found = dict(network.features(positions.tolist()))
    rows = [found[p] for p in positions.tolist()] or [torch.zeros(0, network.head.in_features)]
    return torch.cat(rows).to(network.device) / network.scale
