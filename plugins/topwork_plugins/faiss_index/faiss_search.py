"""One search of an index of FAISS: enough effort for k, masks honored by every kind, and no gap where there is more to find.

The effort is passed to FAISS by SearchParameters, which are objects of one call. faiss.ParameterSpace would list and set
efforts by name, but it sets them on the index, which threads share, and its steps end before all lists are looked into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from topwork_server import Array, Metric

from topwork_plugins.faiss_index import library

DistancesAndPositions: TypeAlias = tuple[Array, Array]

#: Numbers that an over-fetching search holds at a time.
MOST_NUMBERS = 1 << 22
#: A matrix is asked for a list of positions where at most one row in so many is allowed; else it tests a bit a row.
SPARSE = 64
#: Below this share of |query|^2 + |row|^2 a squared distance that came out of a matrix product has lost more than three digits.
NEAR = 1e-3
LEAST_EF, MOST_EF = 16, 2048
#: Rows that a graph compares with for one of efSearch.
GRAPH_ROWS = 20
MOST_CANDIDATES = 64


class PositionMask:
    """The positions that may be found: `bits` as VectorIndex.search has them, or None where all of `total` are allowed."""

    def __init__(self, bits: Array | None, total: int) -> None:
        if bits is not None and (bits.dtype != np.uint8 or bits.shape != ((total + 7) // 8,)):
            raise ValueError(f"a mask of {total} positions is ({(total + 7) // 8},) uint8, not {bits.shape} {bits.dtype}")
        self.bits = None if bits is None else _cleared(np.ascontiguousarray(bits), total)
        self.total = total
        self.allowed = total if self.bits is None else int(np.bitwise_count(self.bits).sum())

    @property
    def density(self) -> float:
        return self.allowed / max(1, self.total)

    def allows(self, positions: Array) -> Array:
        """Mark the positions (any shape, int64) that are allowed; -1 is not."""
        if self.bits is None:
            return positions >= 0
        found: Array = (positions >= 0) & ((self.bits[positions >> 3] >> (positions & 7).astype(np.uint8)) & 1).astype(bool)
        return found

    def positions(self) -> Array:
        """List the allowed positions, (allowed,) int64, ascending."""
        if self.bits is None:
            return np.arange(self.total)
        return np.flatnonzero(np.unpackbits(self.bits, count=self.total, bitorder="little"))

    def selector(self, index: Any) -> Any | None:
        """Make the IDSelector for a search of `index`. It keeps the arrays that it points to."""
        if self.bits is None:
            return None
        faiss = library.load_faiss()
        if library.is_flat(index) and self.allowed * SPARSE <= self.total:
            return faiss.IDSelectorArray(self.positions())
        selector = faiss.IDSelectorBitmap(len(self.bits), faiss.swig_ptr(self.bits))
        selector.kept = self.bits
        return selector


def _cleared(bits: Array, total: int) -> Array:
    """Clear the bits after the last position."""
    spare = -total % 8
    if spare and bits[-1] >> (8 - spare):
        bits = bits.copy()
        bits[-1] &= 0xFF >> spare
    return bits


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
        """Return distances (q, k) float32 as FAISS has them and positions (q, k) int64; 1 <= k <= mask.allowed."""
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
        few = mask.bits is not None and mask.allowed <= rows_compared(self.index, effort)
        if not (few and self._exact_searcher):
            effort = sufficient_effort(self.index, effort, k, mask.density)
            yield partial(self._once, effort)
            for harder in higher_efforts(self.index, effort):
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
        distances, positions = self.index.search(queries, k, params=search_parameters(self.index, effort, k, selector))
        if selector is None and library.is_flat(self.index) and self.index.metric_type == library.load_faiss().METRIC_L2:
            recompute_small_distances(library.rows_of(self.index), queries, distances, positions)
        return distances, positions

    def _over_fetched(self, effort: int, queries: Array, k: int, mask: PositionMask) -> DistancesAndPositions:
        """Search a kind that takes no selector: fetch more and leave out, until there are k or no more."""
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
    """Keep the first k of each row that are allowed; -1 after them."""
    allowed = mask.allows(positions)
    order = np.argsort(~allowed, axis=1, kind="stable")[:, :k]
    positions = np.where(allowed, positions, -1)
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(positions, order, axis=1)


def _takes_masks(index: Any) -> bool:
    """Try whether the index takes a selector: some kinds refuse it, and which ones changes with FAISS."""
    nothing = PositionMask(np.zeros((index.ntotal + 7) // 8, np.uint8), index.ntotal)
    query = np.zeros((1, index.d), np.float32)
    try:
        index.search(query, 1, params=search_parameters(index, 1, 1, nothing.selector(index)))
    except RuntimeError:
        return False
    return True


def _exact_storage(index: Any) -> tuple[list[Any], Any | None]:
    """Find the transforms that a query goes through, and the storage behind them that can compare with every row, if any."""
    faiss = library.load_faiss()
    transforms: list[Any] = []
    for layer in library.layers(index):
        storage = library.storage(layer)
        if storage is not None:
            return transforms, storage
        if isinstance(layer, faiss.IndexPreTransform):
            transforms += [faiss.downcast_VectorTransform(layer.chain.at(i)) for i in range(layer.chain.size())]
    return [], None


def effort_ladder(index: Any) -> tuple[int, ...]:
    """List efforts: nprobe of IVF to all lists; efSearch of a graph to 2,048; candidates a hit of another refinement; else 0."""
    faiss = library.load_faiss()
    core = library.core(index)
    if isinstance(core, faiss.IndexIVF):
        return _powers(1, core.nlist)
    if isinstance(core, faiss.IndexHNSW):
        return _powers(LEAST_EF, max(LEAST_EF, min(MOST_EF, index.ntotal)))
    if library.refined(index) is not None:
        return _powers(1, MOST_CANDIDATES)
    return (0,)


def _powers(first: int, last: int) -> tuple[int, ...]:
    steps = []
    while first < last:
        steps.append(first)
        first *= 2
    return (*steps, last)


def higher_efforts(index: Any, effort: int) -> tuple[int, ...]:
    """List what to try after `effort`: every second step of the ladder, and the last one."""
    above = [step for step in effort_ladder(index) if step > effort]
    return tuple(sorted({*above[1::2], *above[-1:]}))


def sufficient_effort(index: Any, effort: int, k: int, density: float) -> int:
    """Raise `effort` where so few rows are looked at that k of those allowed cannot be among them."""
    faiss = library.load_faiss()
    core = library.core(index)
    wide = int(2 * k / max(density, 1e-9))
    if isinstance(core, faiss.IndexIVF):
        return int(min(core.nlist, max(1, effort, wide * core.nlist // max(1, core.ntotal))))
    if isinstance(core, faiss.IndexHNSW):
        return max(effort, LEAST_EF, min(MOST_EF, wide), k)
    return effort


def rows_compared(index: Any, effort: int) -> int:
    """Estimate how many rows a search compares with."""
    faiss = library.load_faiss()
    core = library.core(index)
    if isinstance(core, faiss.IndexIVF):
        return int(core.ntotal * max(1, effort) // core.nlist)
    if isinstance(core, faiss.IndexHNSW | faiss.IndexNSG):
        return GRAPH_ROWS * max(effort, LEAST_EF)
    return int(core.ntotal // 8)


def search_parameters(index: Any, effort: int, k: int, selector: Any | None) -> Any:
    """Make the SearchParameters of `index` and all that it wraps; None where there is nothing to say (some kinds refuse any)."""
    faiss = library.load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        inner = search_parameters(index.index, effort, k, selector)
        return None if inner is None else faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexRefine):
        inner = search_parameters(index.base_index, effort, k, selector)
        return faiss.IndexRefineSearchParameters(k_factor=_candidates(index, effort, k) / k, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        return _of_lists(index, effort, selector)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=max(effort, LEAST_EF), sel=selector)
    return None if selector is None else faiss.SearchParameters(sel=selector)


def _candidates(index: Any, effort: int, k: int) -> int:
    """Choose how many candidates a refinement orders again. 16 a hit of 10: on 50,000 x 384 without clusters PQ48 with SQ8 has
    recall .983, with 8 a hit .958, with 4 .882; of many hits 4 each are enough."""
    faiss = library.load_faiss()
    tunable = isinstance(library.core(index), faiss.IndexIVF | faiss.IndexHNSW)
    return int(min(max(k, index.ntotal), 4 * k + 120 if tunable else max(1, effort) * k))


def _of_lists(index: Any, effort: int, selector: Any | None) -> Any:
    faiss = library.load_faiss()
    nprobe = min(max(1, effort), index.nlist)
    found = faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)
    if isinstance(faiss.downcast_index(index.quantizer), faiss.IndexHNSW):
        found.quantizer_params = faiss.SearchParametersHNSW(efSearch=max(64, 2 * nprobe))
    return found


def worst_score(metric: Metric) -> float:
    """Return the score of a place where nothing was found."""
    return float("inf") if metric is Metric.L2 else float("-inf")


def scores_from_distances(distances: Array, positions: Array, metric: Metric, by_l2: bool) -> Array:
    """Turn distances into scores (q, k) float32. `by_l2`: they are squared L2, which is 2 - 2 cosine for unit vectors."""
    if by_l2:
        distances = np.maximum(distances, 0)
        scores = np.sqrt(distances) if metric is Metric.L2 else 1 - distances / 2
    else:
        scores = distances
    return np.where(positions >= 0, scores, np.float32(worst_score(metric))).astype(np.float32, copy=False)


def recompute_small_distances(rows: Any, queries: Array, distances: Array, positions: Array) -> None:
    """Compute the small ones of squared L2 `distances` (q, k) again from `rows`, in place, and order them: |x|^2 + |y|^2 - 2xy
    gives 3e-4 for a unit vector and itself."""
    norms = np.einsum("qd,qd->q", queries, queries)[:, None]
    near = (distances < NEAR * 2 * norms) & (positions >= 0)
    if not near.any():
        return
    which, where = np.nonzero(near)
    apart = queries[which] - rows[positions[which, where]]
    distances[which, where] = np.einsum("nd,nd->n", apart, apart)
    touched = np.unique(which)
    order = np.argsort(distances[touched], axis=1, kind="stable")
    distances[touched] = np.take_along_axis(distances[touched], order, axis=1)
    positions[touched] = np.take_along_axis(positions[touched], order, axis=1)
