"""Trunk, pooling and output layer as one differentiable way from samples to scores. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from topwork_server import (
    Array,
    Encoder,
    FineTuneDataset,
    Granularity,
    InvalidInput,
    Item,
    Sample,
    Target,
    TextItem,
    Trunk,
    batch_key,
)
from torch import Tensor, nn

#: Samples beyond this are prepared again each time that they are read; an item of more than ITEM_BYTES always is.
CACHE_BYTES = 2 << 30
ITEM_BYTES = 256 << 20
#: Batches whose items are sorted by length together: enough to save padding, few enough to mix.
POOL = 16
#: How many items' rows are held at a time where nothing is learned.
HELD = 64
FACTORS = {"mean+std": 2, "pair": 4}
#: Of a text and its pair, what a head with a value for each token reads: an answer is in the pair.
PARTS = {Target.SPAN: 1, Target.CLASSES: 0}
#: Poolings of pairs, each text of which the trunk reads by itself.
COSINE = "cosine"
TOWERS = ("two-tower", COSINE)


class PreparedSamples:
    """The samples of all items; with `towers` one of each text of a pair. `counts` is how many samples each has, `costs` what
    they cost together."""

    def __init__(
        self,
        encoder: Encoder,
        items: Sequence[Item],
        options: Any,
        threads: int,
        cache: int | None = None,
        *,
        towers: bool = False,
    ) -> None:
        self._encoder, self._items, self._options, self._towers = encoder, items, options, towers
        self._cache: dict[int, list[Sample]] = {}
        self.counts, self.costs = np.zeros(len(items), np.int64), np.zeros(len(items), np.int64)
        free = CACHE_BYTES if cache is None else cache
        with ThreadPoolExecutor(max(threads, 1)) as pool:
            for position, (count, cost, size, kept) in enumerate(pool.map(self._measure, range(len(items)))):
                self.counts[position], self.costs[position] = count, cost
                if kept and size <= free:
                    self._cache[position] = kept
                    free -= size

    def samples(self, position: int) -> Iterator[Sample]:
        """Return all of an item's samples, lazily where they are not kept. InvalidInput names the item."""
        if position in self._cache:
            return iter(self._cache[position])
        return self._preprocess(position)

    def draw_samples(self, position: int, most: int, random: np.random.Generator) -> list[Sample]:
        """Return all of an item's samples, or `most` of them drawn at random, in their order."""
        count = int(self.counts[position])
        if count <= most:
            return list(self.samples(position))
        drawn = set(random.choice(count, most, replace=False).tolist())
        return [sample for i, sample in enumerate(self.samples(position)) if i in drawn]

    def _preprocess(self, position: int) -> Iterator[Sample]:
        item = self._items[position]
        try:
            for side in _sides(item) if self._towers else [item]:
                yield from self._encoder.preprocess(side, self._options)
        except InvalidInput as error:
            raise error.at(position) from error

    def _measure(self, position: int) -> tuple[int, int, int, list[Sample]]:
        """Count an item's samples, their cost and bytes, and return the samples too unless they are too large to keep."""
        count = cost = size = 0
        kept: list[Sample] = []
        for sample in self._preprocess(position):
            count, cost = count + 1, cost + self._encoder.cost(sample)
            size += sum(array.nbytes for array in sample.inputs.values())
            if size <= ITEM_BYTES:
                kept.append(sample)
            else:
                kept.clear()
        if not count:
            raise InvalidInput("it gives the trunk nothing to read", remedy="leave it out", item=position)
        return count, cost, size, kept if size <= ITEM_BYTES else []


def _sides(item: Item) -> list[TextItem]:
    if not isinstance(item, TextItem) or not item.pair:
        raise InvalidInput("it is no pair of texts", remedy="leave it out")
    return [TextItem(item.text), TextItem(item.pair)]


def shuffled(positions: Array, costs: Array, batch: int, random: np.random.Generator) -> list[Array]:
    """Deal all positions once, in batches of random items of like cost, in random order."""
    mixed = random.permutation(positions)
    pools = [mixed[i : i + POOL * batch] for i in range(0, len(mixed), POOL * batch)]
    batches = [part for pool in pools for part in _batches(pool[np.argsort(costs[pool], kind="stable")], batch)]
    return [batches[i] for i in random.permutation(len(batches))]


def mirrored(sample: Sample) -> Sample:
    """Mirror a picture (channels, height, width)."""
    inputs = {name: np.ascontiguousarray(array[..., ::-1]) for name, array in sample.inputs.items()}
    return Sample(inputs, sample.tokens, sample.window, sample.box, sample.notes)


def runs_within_budget(costs: Sequence[int], budget: int) -> list[slice]:
    """List runs of neighbors that cost at most `budget` together, all as much as the longest; one alone may cost more."""
    runs: list[slice] = []
    start = longest = 0
    for i, cost in enumerate(costs):
        longest = max(longest, cost)
        if i > start and (i + 1 - start) * longest > budget:
            runs.append(slice(start, i))
            start, longest = i, cost
    return [*runs, slice(start, len(costs))] if costs else []


def _batches(positions: Array, batch: int) -> Iterator[Array]:
    return (positions[i : i + batch] for i in range(0, len(positions), batch))


class Network:
    """The trunk up to one tap, its pooling, and an output layer, `head`, on rows divided by `scale`."""

    def __init__(
        self,
        trunk: Trunk,
        head: nn.Module,
        encoder: Encoder,
        dataset: FineTuneDataset,
        prepared: PreparedSamples,
        device: torch.device,
        kind: Any,
    ) -> None:
        assert trunk.module is not None
        self.module: nn.Module = trunk.module.to(device)
        self.encoder, self.dataset, self.prepared, self.device = encoder, dataset, prepared, device
        self._inputs = tuple(trunk.inputs)
        self._place = [tap.name for tap in trunk.taps].index(dataset.tap.name)
        self._autocast = kind
        #: On a GPU a batch of sixteen times a CPU's budget fits, and is needed to fill it.
        self.budget = encoder.budget * (16 if device.type == "cuda" else 1)
        self.head = head.to(device)
        self.scale = 1.0

    def parts(self, positions: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
        """Split the positions of a batch into parts whose activations fit into memory together; gradients add up over them."""
        costs = self.prepared.costs[positions].tolist()
        return (positions[run] for run in runs_within_budget(costs, self.budget))

    def training_scores(
        self, positions: np.ndarray[Any, Any], random: np.random.Generator, windows: int, *, flip: bool
    ) -> Tensor:
        """Compute raw scores (rows of those items, outputs), with gradients."""
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
        """Yield the pooled rows of each item, as served: (position, (rows, dim)), on the CPU and in any order. `exact`: in
        fp32."""
        self.module.eval()
        kind = torch.autocast(self.device.type, enabled=False) if exact else self._autocast
        order = sorted(positions, key=lambda p: (int(self.prepared.costs[p]), p))
        for start in range(0, len(order), HELD):
            yield from self._features_of(order[start : start + HELD], kind)

    def pooled_rows(self, positions: Array, *, exact: bool = False) -> Tensor:
        """Compute `features` of items, one after the other in the order of the positions: (rows, dim), on the CPU."""
        found = dict(self.features(positions.tolist(), exact=exact))
        return torch.cat([self.no_rows(), *(found[p] for p in positions.tolist())])

    def no_rows(self) -> Tensor:
        """Make the pooled rows of no item, (0, dim)."""
        return torch.zeros(0, width_of(self.dataset))

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
        """Yield the items' samples in batches within the budget, never more than one batch of them beyond those that are kept."""
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
        """Compute the tap's rows of each sample, (rows, dim) float32."""
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
        """Pool an item's rows as its head reads them; `heads/pooling.py` does the same when it serves."""
        if self.dataset.pooling in TOWERS:
            u, v = (side.mean(0, keepdim=True) for side in rows)
            return compared(self.dataset.pooling, u, v)
        parts = _parts(samples)
        try:
            return pooled(self.dataset.pooling, torch.cat(list(rows)), parts, self.dataset.target)
        except LookupError as error:
            raise InvalidInput(
                f"tap {self.dataset.tap.name!r} has {error} for it", remedy="leave it out, or pool otherwise", item=position
            ) from error


def width_of(dataset: FineTuneDataset) -> int:
    """Return how many numbers a pooled row has."""
    if dataset.pooling in TOWERS:
        return 1 if dataset.pooling == COSINE else 4 * dataset.tap.dim + 1
    return dataset.tap.dim * FACTORS.get(dataset.pooling, 1)


def pooled(pooling: str, rows: Tensor, parts: Tensor | None, target: Target) -> Tensor:
    """Pool rows (n, dim) of one item to (m, dim'), as topwork_server.heads.pooling does. LookupError says what is missing."""
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


def compared(pooling: str, u: Tensor, v: Tensor) -> Tensor:
    """Compare rows (n, dim) of both texts of pairs, as topwork_server.heads.pooling does: (n, 1), or (n, 4 dim + 1)."""
    cosine = nn.functional.cosine_similarity(u, v, dim=1)[:, None]
    return cosine if pooling == COSINE else torch.cat([u, v, (u - v).abs(), u * v, cosine], 1)


def _pair(rows: Tensor, parts: Tensor | None) -> Tensor:
    parts = torch.zeros(len(rows)) if parts is None else parts
    own, other = (rows[(parts == part).to(rows.device)] for part in (0, 1))
    if not len(own) or not len(other):
        raise LookupError("not both parts of a pair of texts")
    u, v = own.mean(0, keepdim=True), other.mean(0, keepdim=True)
    return torch.cat([u, v, (u - v).abs(), u * v], 1)


def _deviation(rows: Tensor, mean: Tensor) -> Tensor:
    """Return the population's deviation; its gradient is 0, not infinite, where all rows are alike."""
    variance = ((rows - mean) ** 2).mean(0, keepdim=True)
    there = variance > 0
    return torch.where(there, torch.where(there, variance, 1.0).sqrt(), 0.0)


def _of_sample(output: Tensor, sample: Sample) -> Tensor:
    """Take one sample's rows of an output without its batch axis: (dim,), or (rows, dim) of cells, or of tokens with padding."""
    if output.ndim == 1:
        return output.unsqueeze(0)
    return output if sample.tokens is None else output[torch.from_numpy(sample.tokens.positions).to(output.device)]


def _parts(samples: Sequence[Sample]) -> Tensor | None:
    found = [sample.tokens.parts for sample in samples if sample.tokens is not None]
    return torch.from_numpy(np.concatenate(found)) if found else None


def _split(values: Sequence[Any], counts: Sequence[int]) -> list[Sequence[Any]]:
    ends = np.cumsum(counts)
    return [values[end - count : end] for count, end in zip(counts, ends.tolist(), strict=True)]
