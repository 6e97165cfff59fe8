"""Indexes on FAISS (Douze et al. 2024, "The Faiss library"): five kinds by name, and any factory string."""

from __future__ import annotations

from collections.abc import Iterable

from topwork_server import IndexSpec, hookimpl

from topwork_plugins.faiss_index import factory, kinds


#: Rows from which "auto" leaves exact search (2 ms a question at 384 numbers, and 20 at ten times as many) for lists, and lists
#: of exact rows (3.1 GB at 384 numbers) for a byte a number, which is as fast and misses one or two in a hundred. `hnsw` is never
#: chosen unasked: it may be faster (see kinds.py), but takes six times as long to build, which rebuilds pay again.
LISTS_FROM, BYTES_FROM = 10_000, 2_000_000


@hookimpl
def register_indexes() -> Iterable[IndexSpec]:
    yield IndexSpec("flat", kinds.FlatIndex, "every row, exactly", suits=(0, LISTS_FROM))
    yield IndexSpec("hnsw", kinds.HnswIndex, "a graph of neighbours over exact rows")
    yield IndexSpec("ivf", kinds.IvfIndex, "exact rows in lists", suits=(LISTS_FROM, BYTES_FROM))
    yield IndexSpec("ivf-sq8", kinds.IvfSq8Index, "a byte a number, in lists", suits=(BYTES_FROM, None))
    yield IndexSpec("ivf-pq", kinds.IvfPqIndex, "product-quantised codes in lists, refined")


@hookimpl
def adopt_index(kind: str) -> IndexSpec | None:
    """Whatever faiss.index_factory makes of a string that looks like one."""
    if not factory.looks_like_one(kind):
        return None
    factory.check(kind)
    return IndexSpec(kind, kinds.of_factory(kind), "a factory string of faiss")
