"""Tuning of a trunk together with an output layer, which starts at random or as a linear head. Imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from topwork_server import Array, FineTuneDataset
from torch import Tensor, nn

from topwork_plugins.fine_tune.loop import LearnedTarget
from topwork_plugins.fine_tune.network import Network, width_of
from topwork_plugins.fine_tune.objective import Objective
from topwork_plugins.fine_tune.options import FineTuneOptions
from topwork_plugins.fine_tune.tune import Tuning
from topwork_plugins.linear.plugin import LinearHead

#: Rows that a linear head is fitted to.
PROBED = 200_000
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ITERATIONS = 200


class LayerTuning(Tuning):
    """The loss is that of an output layer, which learns too and becomes the head."""

    def __init__(self, options: FineTuneOptions) -> None:
        self._options, self.patience = options, options.patience

    def objective(self, dataset: FineTuneDataset) -> Objective:
        return Objective(dataset, self._options.class_weight)

    def layer(self, dataset: FineTuneDataset) -> nn.Linear:
        outputs = dataset.values.shape[1] if dataset.values.ndim > 1 else len(dataset.names)
        made = nn.Linear(width_of(dataset), outputs)
        nn.init.normal_(made.weight, 0.0, 0.02)
        nn.init.zeros_(made.bias)
        return made

    def start(self, target: LearnedTarget) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        network, objective, dataset = target.network, target.objective, target.dataset
        begun = {"probe_strength": start_linear(network, objective, dataset)} if self._options.head_start == "probe" else {}
        rate, decay = self._options.head_learning_rate, self._options.weight_decay
        groups = [{"params": [p], "lr": rate, "weight_decay": decay if p.ndim > 1 else 0.0} for p in network.head.parameters()]
        return groups, begun

    def finish(self, target: LearnedTarget) -> tuple[LinearHead, Array, Array]:
        network, objective, dataset = target.network, target.objective, target.dataset
        validation, test = (
            objective.scores_of(target.raw_scores(which, exact=True)) for which in (dataset.validation, dataset.test)
        )
        layer = linear_layer(network).cpu()
        weight, bias = objective.fold_output_layer(layer.weight.detach().numpy(), layer.bias.detach().numpy(), network.scale)
        return LinearHead(weight, bias), validation, test


def linear_layer(network: Network) -> nn.Linear:
    assert isinstance(network.head, nn.Linear), "it was made here"
    return network.head


def start_linear(network: Network, objective: Objective, dataset: FineTuneDataset) -> float:
    """Start from a linear probe (Kumar et al. 2022), its strength chosen on the validation items; return the strength."""
    train = _some(dataset, dataset.train)
    train_features, validation_features = _features(network, train), _features(network, dataset.validation)
    best, found = float("inf"), (STRENGTHS[2], *_fit(network, objective, train_features, train, STRENGTHS[2]))
    for strength in STRENGTHS if len(dataset.validation) else ():
        weight, bias = _fit(network, objective, train_features, train, strength)
        with torch.no_grad():
            loss = float(objective.loss(validation_features @ weight.T + bias, dataset.validation))
        if loss < best:
            best, found = loss, (strength, weight, bias)
    layer = linear_layer(network)
    with torch.no_grad():
        layer.weight.copy_(found[1])
        layer.bias.copy_(found[2])
    return found[0]


def _fit(network: Network, objective: Objective, rows: Tensor, positions: Array, strength: float) -> tuple[Tensor, Tensor]:
    layer = linear_layer(network)
    weight = torch.zeros(layer.weight.shape, device=rows.device, requires_grad=True)
    bias = torch.zeros(layer.bias.shape, device=rows.device, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")
    size = max(objective.size(positions), 1)

    def closure() -> Tensor:
        solver.zero_grad()
        loss = objective.loss(rows @ weight.T + bias, positions) / size + strength / 2 * (weight**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def _some(dataset: FineTuneDataset, positions: Array) -> Array:
    """Return the first items, of at most PROBED rows."""
    return positions[np.cumsum(dataset.counts[positions]) <= max(PROBED, int(dataset.counts[positions[0]]))]


def _features(network: Network, positions: Array) -> Tensor:
    return network.pooled_rows(positions).to(network.device) / network.scale
