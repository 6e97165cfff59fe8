"""One search of an index of faiss: enough effort for k, masks honoured by every kind, and no gap where there is more to find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from topwork_server import Array

from topwork_plugins.faiss_index import introspection, library, scores, search_params
from topwork_plugins.faiss_index.masks import PositionMask

DistancesAndPositions: TypeAlias = tuple[Array, Array]

#: Numbers that an over-fetching search holds at a time.
MOST_NUMBERS = 1 << 22


class Searcher:
    """Searches `index` and keeps no state of a search, so that threads may share it.

    Where few rows are allowed, a graph or a list is the wrong way to them: as soon as they are no more than the rows that the
    search would look at, all of them are compared with, if there is a storage that can. A search that finds fewer than k tries
    harder, up to the last effort and then through that storage.
    """

    def __init__(self, index: Any) -> None:
        self.index = index
        self.takes_masks = _takes_masks(index)
        self._transforms, storage = _exact_storage(index)
        self._exact_searcher = None if storage is None else Searcher(storage)

    def search(self, queries: Array, k: int, effort: int, mask: PositionMask) -> DistancesAndPositions:
        """Distances (q, k) float32 as faiss has them and positions (q, k) int64; 1 <= k <= mask.allowed."""
        distances = np.empty((len(queries), k), np.float32)
        positions = np.full((len(queries), k), -1)
        short = np.arange(len(queries))
        for attempt in self._attempts(effort, k, mask):
            distances[short], positions[short] = attempt(queries[short], k, mask)
            short = short[positions[short, -1] < 0]
            if not len(short):
                break
        return distances, positions

    def _attempts(
        self, effort: int, k: int, mask: PositionMask
    ) -> Iterator[Callable[[Array, int, PositionMask], DistancesAndPositions]]:
        few = mask.bits is not None and mask.allowed <= search_params.rows_compared(self.index, effort)
        if not (few and self._exact_searcher):
            effort = search_params.sufficient_effort(self.index, effort, k, mask.density)
            yield partial(self._once, effort)
            for harder in search_params.higher_efforts(self.index, effort):
                yield partial(self._once, harder)
        if self._exact_searcher:
            yield self._exhaustive

    def _exhaustive(self, queries: Array, k: int, mask: PositionMask) -> DistancesAndPositions:
        assert self._exact_searcher is not None
        for transform in self._transforms:
            queries = transform.apply(queries)
        return self._exact_searcher.search(queries, k, 0, mask)

    def _once(self, effort: int, queries: Array, k: int, mask: PositionMask) -> DistancesAndPositions:
        if mask.bits is not None and not self.takes_masks:
            return self._over_fetched(effort, queries, k, mask)
        return self._nearest(queries, k, effort, mask.selector(self.index))

    def _nearest(self, queries: Array, k: int, effort: int, selector: Any | None) -> DistancesAndPositions:
        distances, positions = self.index.search(
            queries, k, params=search_params.search_parameters(self.index, effort, k, selector)
        )
        if selector is None and introspection.is_flat(self.index) and self.index.metric_type == library.load().METRIC_L2:
            scores.recompute_small_distances(introspection.rows_of(self.index), queries, distances, positions)
        return distances, positions

    def _over_fetched(self, effort: int, queries: Array, k: int, mask: PositionMask) -> DistancesAndPositions:
        """For kinds that take no selector: fetch more and leave out, until there are k or no more."""
        distances = np.empty((len(queries), k), np.float32)
        positions = np.full((len(queries), k), -1)
        fetch, short = min(mask.total, int(2 * k / mask.density) + 1), np.arange(len(queries))
        while len(short):
            for some in np.array_split(short, -(-len(short) * fetch // MOST_NUMBERS)):
                found = self._nearest(queries[some], fetch, effort, None)
                distances[some], positions[some] = _keep_allowed(mask, k, *found)
            short = short[positions[short, -1] < 0]
            if fetch == mask.total:
                break
            fetch = min(mask.total, 4 * fetch)
        return distances, positions


def _keep_allowed(mask: PositionMask, k: int, distances: Array, positions: Array) -> DistancesAndPositions:
    """The first k of each row that are allowed; -1 after them."""
    allowed = mask.allows(positions)
    order = np.argsort(~allowed, axis=1, kind="stable")[:, :k]
    positions = np.where(allowed, positions, -1)
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(positions, order, axis=1)


def _takes_masks(index: Any) -> bool:
    """Tried rather than listed: some kinds refuse a selector, and which ones changes with faiss."""
    nothing = PositionMask(np.zeros((index.ntotal + 7) // 8, np.uint8), index.ntotal)
    query = np.zeros((1, index.d), np.float32)
    try:
        index.search(query, 1, params=search_params.search_parameters(index, 1, 1, nothing.selector(index)))
    except RuntimeError:
        return False
    return True


def _exact_storage(index: Any) -> tuple[list[Any], Any | None]:
    """The storage that can compare with every row, and the transforms that a query goes through on its way there."""
    faiss = library.load()
    transforms: list[Any] = []
    for layer in introspection.layers(index):
        storage = introspection.storage(layer)
        if storage is not None:
            return transforms, storage
        if isinstance(layer, faiss.IndexPreTransform):
            transforms += [faiss.downcast_VectorTransform(layer.chain.at(i)) for i in range(layer.chain.size())]
    return [], None
