"""Trunk, pooling and output layer as one differentiable way from samples to scores. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from topwork_server import Encoder, FineTuneDataset, Granularity, InvalidInput, Sample, Target, Trunk, batch_key
from torch import Tensor, nn

from topwork_plugins.fine_tune.samples import PreparedSamples, mirrored, runs_within_budget

#: How many items' rows are held at a time where nothing is learnt.
HELD = 64
FACTORS = {"mean+std": 2, "pair": 4}
#: Of a text and its pair, what a head with a value for each token reads: an answer is in the pair.
PARTS = {Target.SPAN: 1, Target.CLASSES: 0}


class Network:
    """The trunk up to one tap, its pooling, and a linear output layer on rows divided by `scale`."""

    def __init__(
        self, trunk: Trunk, encoder: Encoder, lesson: FineTuneDataset, prepared: PreparedSamples, device: torch.device, kind: Any
    ) -> None:
        assert trunk.module is not None
        self.module: nn.Module = trunk.module.to(device)
        self.encoder, self.dataset, self.prepared, self.device = encoder, lesson, prepared, device
        self._inputs = tuple(trunk.inputs)
        self._place = [tap.name for tap in trunk.taps].index(lesson.tap.name)
        self._autocast = kind
        #: On a GPU a batch of sixteen times a CPU's budget fits, and is needed to fill it.
        self.budget = encoder.budget * (16 if device.type == "cuda" else 1)
        dim = lesson.tap.dim * FACTORS.get(lesson.pooling, 1)
        outputs = lesson.values.shape[1] if lesson.values.ndim > 1 else len(lesson.names)
        self.head = nn.Linear(dim, outputs)
        nn.init.normal_(self.head.weight, 0.0, 0.02)
        nn.init.zeros_(self.head.bias)
        self.head.to(device)
        self.scale = 1.0

    def parts(self, positions: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
        """Positions of a batch as parts whose activations fit into memory together; gradients add up over them."""
        costs = self.prepared.costs[positions].tolist()
        return (positions[run] for run in runs_within_budget(costs, self.budget))

    def training_scores(
        self, positions: np.ndarray[Any, Any], random: np.random.Generator, windows: int, *, flip: bool
    ) -> Tensor:
        """Raw scores (rows of those items, outputs), with gradients."""
        whole = self.dataset.pooling == "rows" or self.dataset.tap.granularity is not Granularity.WINDOW
        drawn = [self.prepared.draw_samples(int(p), 1 << 30 if whole else windows, random) for p in positions]
        if flip:
            drawn = [[mirrored(s) for s in samples] if random.random() < 0.5 else samples for samples in drawn]
        rows = self._rows([sample for samples in drawn for sample in samples], self._autocast)
        counts = [len(samples) for samples in drawn]
        owned = _split(rows, counts)
        samples = _split([sample for group in drawn for sample in group], counts)
        pooled = [self._pooled(*pair, int(p)) for pair, p in zip(zip(owned, samples, strict=True), positions, strict=True)]
        return self.scores(torch.cat(pooled))

    def scores(self, rows: Tensor) -> Tensor:
        scores: Tensor = self.head(rows / self.scale)
        return scores

    @torch.no_grad()
    def features(self, positions: Sequence[int], *, exact: bool = False) -> Iterator[tuple[int, Tensor]]:
        """The pooled rows of each item, as served: (position, (rows, dim)), on the CPU and in any order. `exact`: in fp32."""
        self.module.eval()
        kind = torch.autocast(self.device.type, enabled=False) if exact else self._autocast
        order = sorted(positions, key=lambda p: (int(self.prepared.costs[p]), p))
        for start in range(0, len(order), HELD):
            yield from self._features_of(order[start : start + HELD], kind)

    def _features_of(self, positions: Sequence[int], kind: AbstractContextManager[Any]) -> Iterator[tuple[int, Tensor]]:
        for run in runs_within_budget(self.prepared.costs[list(positions)].tolist(), self.budget):
            group = positions[run]
            rows: list[list[Tensor]] = [[] for _ in group]
            kept: list[list[Sample]] = [[] for _ in group]
            for owners, samples in self._batches(group):
                for owner, sample, found in zip(owners, samples, self._rows(samples, kind), strict=True):
                    rows[owner].append(found)
                    kept[owner].append(Sample({}, sample.tokens))
            for position, own, samples in zip(group, rows, kept, strict=True):
                yield position, self._pooled(own, samples, position).cpu()

    def _batches(self, positions: Sequence[int]) -> Iterator[tuple[list[int], list[Sample]]]:
        """The items' samples in batches within the budget, never more than one batch of them beyond those that are kept."""
        owners: list[int] = []
        samples: list[Sample] = []
        longest = 0
        for owner, position in enumerate(positions):
            for sample in self.prepared.samples(position):
                cost = self.encoder.cost(sample)
                if samples and (len(samples) + 1) * max(longest, cost) > self.budget:
                    yield owners, samples
                    owners, samples, longest = [], [], 0
                owners.append(owner)
                samples.append(sample)
                longest = max(longest, cost)
        yield owners, samples

    def _rows(self, samples: Sequence[Sample], kind: AbstractContextManager[Any]) -> list[Tensor]:
        """The tap's rows of each sample, (rows, dim) float32."""
        groups: dict[Any, list[int]] = {}
        for i, sample in enumerate(samples):
            groups.setdefault(batch_key(self.encoder, sample), []).append(i)
        found: dict[int, Tensor] = {}
        for members in groups.values():
            output = self._forward(self.encoder.collate([samples[i] for i in members]), kind)
            found |= {i: _of_sample(output[n], samples[i]) for n, i in enumerate(members)}
        return [found[i] for i in range(len(samples))]

    def _forward(self, arrays: Mapping[str, np.ndarray[Any, Any]], kind: AbstractContextManager[Any]) -> Tensor:
        tensors = [torch.from_numpy(arrays[name]).to(self.device) for name in self._inputs]
        with kind:
            output: Tensor = self.module(*tensors)[self._place]
        return output.float()

    def _pooled(self, rows: Sequence[Tensor], samples: Sequence[Sample], position: int) -> Tensor:
        """An item's rows as its head reads them; `heads/pooling.py` does the same when it serves."""
        parts = _parts(samples)
        try:
            return pooled(self.dataset.pooling, torch.cat(list(rows)), parts, self.dataset.target)
        except LookupError as error:
            raise InvalidInput(
                f"tap {self.dataset.tap.name!r} has {error} for it", remedy="leave it out, or pool otherwise", item=position
            ) from error


def pooled(pooling: str, rows: Tensor, parts: Tensor | None, target: Target) -> Tensor:
    """(n, dim) rows of one item to (m, dim'), as topwork_server.heads.pooling has it. LookupError says what there is not."""
    if pooling == "rows":
        rows = rows if parts is None or target not in PARTS else rows[parts.to(rows.device) == PARTS[target]]
        if not len(rows):
            raise LookupError("no row that has a value")
        return rows
    if pooling == "row":
        if len(rows) != 1:
            raise LookupError(f"{len(rows)} rows, not one,")
        return rows
    if not len(rows):
        raise LookupError("no row")
    if pooling == "pair":
        return _pair(rows, parts)
    mean = rows.mean(0, keepdim=True)
    if pooling == "mean+std":
        return torch.cat([mean, _deviation(rows, mean)], 1)
    return rows.amax(0, keepdim=True) if pooling == "max" else mean


def _pair(rows: Tensor, parts: Tensor | None) -> Tensor:
    parts = torch.zeros(len(rows)) if parts is None else parts
    own, other = (rows[(parts == part).to(rows.device)] for part in (0, 1))
    if not len(own) or not len(other):
        raise LookupError("not both parts of a pair of texts")
    u, v = own.mean(0, keepdim=True), other.mean(0, keepdim=True)
    return torch.cat([u, v, (u - v).abs(), u * v], 1)


def _deviation(rows: Tensor, mean: Tensor) -> Tensor:
    """The population's; its gradient is 0, not infinite, where all rows are alike."""
    variance = ((rows - mean) ** 2).mean(0, keepdim=True)
    there = variance > 0
    return torch.where(there, torch.where(there, variance, 1.0).sqrt(), 0.0)


def _of_sample(output: Tensor, sample: Sample) -> Tensor:
    """One sample's rows of an output without its batch axis: (dim,), or (rows, dim) of cells, or of tokens with padding."""
    if output.ndim == 1:
        return output.unsqueeze(0)
    return output if sample.tokens is None else output[torch.from_numpy(sample.tokens.positions).to(output.device)]


def _parts(samples: Sequence[Sample]) -> Tensor | None:
    found = [sample.tokens.parts for sample in samples if sample.tokens is not None]
    return torch.from_numpy(np.concatenate(found)) if found else None


def _split(values: Sequence[Any], counts: Sequence[int]) -> list[Sequence[Any]]:
    ends = np.cumsum(counts)
    return [values[end - count : end] for count, end in zip(counts, ends.tolist(), strict=True)]
