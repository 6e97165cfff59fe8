"""Contrastive tuning by cosines, with a linear head that is fitted to the tuned rows. Imports torch.

Of classes as SetFit does it for few labels (Tunstall et al. 2022): rows of one class are drawn together and others apart. Of
pairs of texts with a number, their similarity, the cosines are brought into the order of the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from topwork_server import Array, Examples, FeatureView, FineTuneDataset, InvalidInput, Target
from torch import Tensor, nn

from topwork_plugins.fine_tune.loop import LearnedTarget
from topwork_plugins.fine_tune.network import COSINE, TOWERS
from topwork_plugins.fine_tune.objective import Objective
from topwork_plugins.fine_tune.options import TrunkOptions
from topwork_plugins.fine_tune.tune import Tuning
from topwork_plugins.linear.plugin import LinearHead, LinearOptions, LinearTrainer

#: What differences of cosines are multiplied by, as sentence-transformers' CoSENTLoss has it.
SHARPNESS = 20.0


class OrderObjective(Objective):
    """The loss of CoSENT (Su 2022), of a batch of pairs: log(1 + sum of exp(20 (c - d))) over all c and d where d is the cosine
    of a pair with the larger number. The order of the numbers counts alone, so that they may be of any range."""

    def loss(self, raw: Tensor, positions: Sequence[int] | Array) -> Tensor:
        """Return the loss of the batch, times its pairs: divided by `size` it is the loss."""
        values = torch.from_numpy(self._values[np.asarray(positions), 0]).to(raw.device)
        cosines = SHARPNESS * raw[:, 0]
        wrong = (cosines[:, None] - cosines[None, :])[values[:, None] < values[None, :]]
        return torch.cat([wrong.new_zeros(1), wrong]).logsumexp(0) * len(raw) + raw.sum() * 0.0


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
        if (dataset.pooling == COSINE) != (dataset.target is Target.NUMBERS) or dataset.pooling == TOWERS[0]:
            raise InvalidInput(
                f"contrastive tuning learns classes of items, or numbers of pairs by {COSINE!r}, and not {dataset.target.value}"
                f" by {dataset.pooling!r}",
                remedy="say task regression where the labels of pairs are numbers, and leave the poolings out",
            )
        if self._options.frozen_blocks < 0:
            raise InvalidInput("no block would learn: frozen_blocks is -1", remedy="leave it 0, or train linear")
        return OrderObjective(dataset, "none") if dataset.target is Target.NUMBERS else PairObjective(dataset)

    def layer(self, dataset: FineTuneDataset) -> nn.Module:
        return nn.Identity()

    def start(self, target: LearnedTarget) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        return [], {}

    def before(self, target: LearnedTarget) -> Array | None:
        network = target.network
        return network.pooled_rows(network.dataset.test, exact=True).numpy() if network.dataset.pooling == COSINE else None

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
