"""Indexes on FAISS (Douze et al. 2024, "The Faiss library"): five kinds by name, and any factory string."""

from __future__ import annotations

from collections.abc import Iterable

from topwork_server import IndexSpec, hookimpl

from topwork_plugins.faiss_index import factory, kinds


@hookimpl
def register_indexes() -> Iterable[IndexSpec]:
    yield IndexSpec("flat", kinds.FlatIndex, "every row, exactly", suits=(0, 10_000))
    yield IndexSpec("hnsw", kinds.HnswIndex, "a graph of neighbours over exact rows")
    yield IndexSpec("ivf", kinds.IvfIndex, "exact rows in lists", suits=(10_000, 1_000_000))
    yield IndexSpec("ivf-sq8", kinds.IvfSq8Index, "a byte a number, in lists", suits=(1_000_000, None))
    yield IndexSpec("ivf-pq", kinds.IvfPqIndex, "product-quantised codes in lists, refined")


@hookimpl
def adopt_index(kind: str) -> IndexSpec | None:
    """Whatever faiss.index_factory makes of a string that looks like one."""
    if not factory.looks_like_one(kind):
        return None
    factory.check(kind)
    return IndexSpec(kind, kinds.of_factory(kind), "a factory string of faiss")
