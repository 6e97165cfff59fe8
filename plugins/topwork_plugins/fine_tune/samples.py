"""Items as the trunk reads them: prepared once, and kept within a bound of memory. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from topwork_server import Array, Encoder, InvalidInput, Item, Sample

#: Samples beyond this are prepared anew each time that they are read; an item of more than ITEM_BYTES always is.
CACHE_BYTES = 2 << 30
ITEM_BYTES = 256 << 20
#: Batches whose items are sorted by length together: enough to save padding, few enough to mix.
POOL = 16


class PreparedSamples:
    """The samples of all items. `counts` is how many samples each has, `costs` what they cost together."""

    def __init__(self, encoder: Encoder, items: Sequence[Item], options: Any, threads: int, cache: int | None = None) -> None:
        self._encoder, self._items, self._options = encoder, items, options
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
        """All of an item's, lazily where they are not kept. InvalidInput names the item."""
        if position in self._cache:
            return iter(self._cache[position])
        return self._preprocess(position)

    def draw_samples(self, position: int, most: int, random: np.random.Generator) -> list[Sample]:
        """All of an item's samples, or `most` of them drawn at random, in their order."""
        count = int(self.counts[position])
        if count <= most:
            return list(self.samples(position))
        drawn = set(random.choice(count, most, replace=False).tolist())
        return [sample for i, sample in enumerate(self.samples(position)) if i in drawn]

    def _preprocess(self, position: int) -> Iterator[Sample]:
        try:
            yield from self._encoder.preprocess(self._items[position], self._options)
        except InvalidInput as error:
            raise error.at(position) from error

    def _measure(self, position: int) -> tuple[int, int, int, list[Sample]]:
        """How many samples an item has, their cost and bytes, and the samples; none of an item that is too large to keep."""
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


def shuffled(positions: Array, costs: Array, batch: int, random: np.random.Generator) -> list[Array]:
    """All positions once, in batches of random items of like cost, in random order."""
    mixed = random.permutation(positions)
    pools = [mixed[i : i + POOL * batch] for i in range(0, len(mixed), POOL * batch)]
    batches = [part for pool in pools for part in _batches(pool[np.argsort(costs[pool], kind="stable")], batch)]
    return [batches[i] for i in random.permutation(len(batches))]


def mirrored(sample: Sample) -> Sample:
    """A picture (channels, height, width) as in a mirror."""
    inputs = {name: np.ascontiguousarray(array[..., ::-1]) for name, array in sample.inputs.items()}
    return Sample(inputs, sample.tokens, sample.window, sample.box, sample.notes)


def runs_within_budget(costs: Sequence[int], budget: int) -> list[slice]:
    """Runs of neighbours that cost at most `budget` together, all as much as the longest; one alone may cost more."""
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
