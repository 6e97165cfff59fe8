"""Indexes on FAISS (Douze et al. 2024, "The Faiss library"): five kinds by name, and any factory string."""

from __future__ import annotations

from collections.abc import Iterable

from topwork_server import IndexSpec, hookimpl

from topwork_plugins.faiss_index import factory, kinds

#: Rows from which "auto" leaves exact search for lists (one question then takes 5 ms at 384 numbers on a busy core, and 15 to
#: 50 at 100,000 rows), and lists of exact rows for a byte a number (they pass 3 GB at 384 numbers, where SQ8 was as fast or
#: faster and missed one or two in a hundred). `hnsw` is never chosen unasked: on some rows it is twice as fast as lists (see
#: kinds.py), but took 2 to 8 times as long to build, and a set that grows is built again.
LISTS_FROM, BYTES_FROM = 10_000, 2_000_000


@hookimpl
def register_indexes() -> Iterable[IndexSpec]:
    yield IndexSpec("flat", kinds.FlatIndex, "every row, exactly", suits=(0, LISTS_FROM))
    yield IndexSpec("hnsw", kinds.HnswIndex, "a graph of neighbours over exact rows")
    yield IndexSpec("ivf", kinds.IvfIndex, "exact rows in lists", suits=(LISTS_FROM, BYTES_FROM))
    yield IndexSpec("ivf-sq8", kinds.IvfSq8Index, "a byte a number, in lists", suits=(BYTES_FROM, None))
    yield IndexSpec("ivf-pq", kinds.IvfPqIndex, "product-quantised codes in lists, refined")


@hookimpl
def resolve_index(kind: str) -> IndexSpec | None:
    """Whatever faiss.index_factory makes of a string that looks like one."""
    if not factory.is_factory_string(kind):
        return None
    factory.check_factory(kind)
    return IndexSpec(kind, kinds.factory_index_class(kind), "a factory string of faiss")
