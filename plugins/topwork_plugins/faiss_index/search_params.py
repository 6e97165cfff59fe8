"""How hard a search looks, and the parameters that say so to faiss: objects of one call, never a setting of the shared index."""

from __future__ import annotations

from typing import Any

from topwork_plugins.faiss_index import introspection, library

LEAST_EF, MOST_EF = 16, 2048
#: Rows that a graph compares with for one of efSearch.
GRAPH_ROWS = 20
MOST_CANDIDATES = 64


def effort_ladder(index: Any) -> tuple[int, ...]:
    """nprobe of IVF to all lists; efSearch of a graph to 2,048; candidates a hit of a refinement over neither; else 0."""
    faiss = library.load()
    core = introspection.core(index)
    if isinstance(core, faiss.IndexIVF):
        return _powers(1, core.nlist)
    if isinstance(core, faiss.IndexHNSW):
        return _powers(LEAST_EF, max(LEAST_EF, min(MOST_EF, index.ntotal)))
    if introspection.refined(index) is not None:
        return _powers(1, MOST_CANDIDATES)
    return (0,)


def _powers(first: int, last: int) -> tuple[int, ...]:
    steps = []
    while first < last:
        steps.append(first)
        first *= 2
    return (*steps, last)


def higher_efforts(index: Any, effort: int) -> tuple[int, ...]:
    """What to try after `effort`: every second step of the ladder, and the last one."""
    above = [step for step in effort_ladder(index) if step > effort]
    return tuple(sorted({*above[1::2], *above[-1:]}))


def sufficient_effort(index: Any, effort: int, k: int, density: float) -> int:
    """`effort`, raised where so few rows are looked at that k of those allowed cannot be among them."""
    faiss = library.load()
    core = introspection.core(index)
    wide = int(2 * k / max(density, 1e-9))
    if isinstance(core, faiss.IndexIVF):
        return int(min(core.nlist, max(1, effort, wide * core.nlist // max(1, core.ntotal))))
    if isinstance(core, faiss.IndexHNSW):
        return max(effort, LEAST_EF, min(MOST_EF, wide), k)
    return effort


def rows_compared(index: Any, effort: int) -> int:
    """About how many rows a search compares with."""
    faiss = library.load()
    core = introspection.core(index)
    if isinstance(core, faiss.IndexIVF):
        return int(core.ntotal * max(1, effort) // core.nlist)
    if isinstance(core, faiss.IndexHNSW | faiss.IndexNSG):
        return GRAPH_ROWS * max(effort, LEAST_EF)
    return int(core.ntotal // 8)


def search_parameters(index: Any, effort: int, k: int, selector: Any | None) -> Any:
    """SearchParameters for `index` and all that it wraps; None where there is nothing to say (some kinds refuse any)."""
    faiss = library.load()
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
    """How many a refinement orders again. 16 a hit of 10: on 50,000 x 384 without clusters PQ48 with SQ8 has recall .983, with
    8 a hit .958, with 4 .882; of many hits 4 each are enough."""
    faiss = library.load()
    dialled = isinstance(introspection.core(index), faiss.IndexIVF | faiss.IndexHNSW)
    return int(min(max(k, index.ntotal), 4 * k + 120 if dialled else max(1, effort) * k))


def _of_lists(index: Any, effort: int, selector: Any | None) -> Any:
    faiss = library.load()
    nprobe = min(max(1, effort), index.nlist)
    found = faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)
    if isinstance(faiss.downcast_index(index.quantizer), faiss.IndexHNSW):
        found.quantizer_params = faiss.SearchParametersHNSW(efSearch=max(64, 2 * nprobe))
    return found
