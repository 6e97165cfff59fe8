"""Contrastive tuning, as SetFit does it for few labels (Tunstall et al. 2022): rows of one class are drawn together and others
apart, by cosine, and a linear head is fitted to the tuned rows. Imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from topwork_server import Array, Examples, FeatureView, FineTuneDataset, InvalidInput
from torch import Tensor, nn

from topwork_plugins.fine_tune.loop import LearnedTarget
from topwork_plugins.fine_tune.objective import Objective
from topwork_plugins.fine_tune.options import TrunkOptions
from topwork_plugins.fine_tune.tune import Tuning
from topwork_plugins.linear.plugin import LinearHead, LinearOptions, LinearTrainer


class PairObjective(Objective):
    """The squared error of the cosines of all pairs in a batch: 1 is right for two items of a class, 0 for others. Both kinds
    count alike."""

    def __init__(self, dataset: FineTuneDataset) -> None:
        super().__init__(dataset, "none")
        train = np.unique(dataset.train)
        self._of_class = {int(c): train[self._values[train] == c] for c in np.unique(self._values[train])}

    def steps(self, items: int, batch: int) -> int:
        return math.ceil(items / _anchors(batch))

    def batches(self, train: Array, costs: Array, batch: int, random: np.random.Generator) -> list[Array]:
        """Deal each item once, beside another of its class: batches have pairs of either kind, whatever number of classes there
        is. Where there is no other, it is paired with itself, which dropout makes two rows of (Gao et al. 2021)."""
        mixed = random.permutation(train)
        pairs = np.stack([mixed, [self._partner(position, random) for position in mixed.tolist()]], 1)
        step = _anchors(batch)
        return [pairs[i : i + step].reshape(-1) for i in range(0, len(pairs), step)]

    def size(self, positions: Array) -> int:
        return len(positions)

    def loss(self, raw: Tensor, positions: Sequence[int] | Array) -> Tensor:
        """Return the mean over pairs, times the number of items: divided by `size` it is the mean."""
        values = torch.from_numpy(self._values[np.asarray(positions)]).to(raw.device)
        unit = nn.functional.normalize(raw, dim=1)
        one, other = torch.triu_indices(len(raw), len(raw), 1, device=raw.device)
        cosines, same = (unit[one] * unit[other]).sum(1), values[one] == values[other]
        errors = [(1 - cosines[same]) ** 2, cosines[~same] ** 2]
        means = [error.mean() for error in errors if len(error)]
        return torch.stack(means).mean() * len(raw) if means else raw.sum() * 0.0

    def _partner(self, position: int, random: np.random.Generator) -> int:
        members = self._of_class[int(self._values[position])]
        others = members[members != position]
        return int(random.choice(others)) if len(others) else position


def _anchors(batch: int) -> int:
    return max(batch // 2, 1)


class PairTuning(Tuning):
    """The loss is of pairs of rows; the head is fitted afterwards."""

    def __init__(self, options: TrunkOptions, seed: int, threads: int) -> None:
        self._options, self._seed, self._threads = options, seed, threads

    def objective(self, dataset: FineTuneDataset) -> Objective:
        if dataset.pooling == "rows":
            raise InvalidInput("contrastive tuning compares items, and here each row has a class", remedy="train fine-tune")
        if self._options.frozen_blocks < 0:
            raise InvalidInput("no block would learn: frozen_blocks is -1", remedy="leave it 0, or train linear")
        return PairObjective(dataset)

    def layer(self, dataset: FineTuneDataset) -> nn.Module:
        return nn.Identity()

    def start(self, target: LearnedTarget) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        return [], {}

    def finish(self, target: LearnedTarget) -> tuple[LinearHead, Array, Array]:
        network, dataset = target.network, target.dataset
        rows = network.pooled_rows(dataset.train, exact=True).numpy()
        items, view = np.arange(len(rows)), FeatureView(dataset.tap.name, dataset.pooling, rows)
        examples = Examples((view,), dataset.target, dataset.names, dataset.values[dataset.train], items, items)
        [head] = LinearTrainer.fit(examples, [items], LinearOptions(), self._seed, self._threads, lambda *_: None)
        assert isinstance(head, LinearHead), "its trainer gives it"
        validation, test = (
            head.scores(network.pooled_rows(which, exact=True).numpy()) for which in (dataset.validation, dataset.test)
        )
        return head, validation, test
