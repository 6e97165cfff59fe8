"""Exact search over a feature set itself: where no build is in memory, or one that keeps no vectors is to be exact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from topwork_server.blocking_calls import Check
from topwork_server.errors import TopworkError
from topwork_server.feature_sets.set_types import ItemBatch, ReadResult, Selection
from topwork_server.indexes.candidates import TopK
from topwork_server.indexes.nearest_rows import NearestRows, RowBlock
from topwork_server.indexes.prepared_query import PreparedQuery
from topwork_server.indexes.sorted_keys import contained, spread
from topwork_server.inference.output_format import normalize
from topwork_server.plugin_api.vector_index import Metric
from topwork_server.types import Array, Granularity, TapInfo

#: So few items are fetched by key; of more, the whole set goes by.
FETCHED = 20_000
#: Items of one fetch.
FETCH = 2000


class SearchableSet(Protocol):
    """What a search needs of a FeatureSet."""

    @property
    def version(self) -> int: ...

    def read(self, selection: Selection) -> ReadResult: ...

    def keys(self, where: str = ..., ids: None = ...) -> tuple[int, Array]: ...

    def fetch(self, keys: Array, *, taps: tuple[str, ...] = ...) -> ItemBatch: ...


def search_set(
    source: SearchableSet, tap: TapInfo, query: PreparedQuery, allowed: Array | None, check: Check
) -> tuple[TopK, int, str, int]:
    """The nearest of all rows of the tap, or of the items with the sorted keys `allowed`; the set's version; how it was done; how
    many rows were compared.

    Memory: one block of rows. `check` is called between blocks.
    """
    nearest = NearestRows(query)
    few = allowed is not None and len(allowed) <= FETCHED
    version, blocks = source.version, fetch_items(source, tap, allowed) if few and allowed is not None else None
    if blocks is None:
        reading = source.read(Selection(taps=[tap.tap.name], columns=[]))
        version, blocks = reading.version, reading.batches
    compared = 0
    for block in blocks:
        check()
        rows = to_row_block(block, tap, query.metric)
        compared += len(rows.keys)
        nearest.offer(rows, None if allowed is None else contained(rows.keys, allowed))
    return nearest.top_k(), version, "exact" if allowed is None else f"exact over {len(allowed)} matches", compared


def fetch_items(source: SearchableSet, tap: TapInfo, keys: Array) -> Iterator[ItemBatch]:
    """The items with these keys that are still there."""
    for at in range(0, len(keys), FETCH):
        yield source.fetch(keys[at : at + FETCH], taps=(tap.tap.name,))


def to_row_block(block: ItemBatch, tap: TapInfo, metric: Metric) -> RowBlock:
    """The tap's rows of a block as they are searched: of unit length for cosine, ascending by key."""
    found = next((t for t in block.taps if t.tap.tap.name == tap.tap.name), None)
    if found is None or block.keys is None:
        raise TopworkError(f"a block of the set came without its keys or without tap {tap.tap.name!r}")
    counts = np.asarray(found.counts, np.int64)
    keys, numbers = np.repeat(block.keys, counts), spread(np.zeros(len(counts), np.int64), counts).astype(np.int32)
    vectors = np.ascontiguousarray(found.rows, np.float32)
    if len(keys) and (np.diff(block.keys) < 0).any():
        order = np.argsort(keys, kind="stable")
        vectors, keys, numbers = vectors[order], keys[order], numbers[order]
    vectors = normalize(vectors) if metric is Metric.COSINE else vectors
    return RowBlock(vectors, keys, numbers if has_several_rows(tap) else None)


def has_several_rows(tap: TapInfo) -> bool:
    """Whether an item can have several rows."""
    return tap.tap.granularity is not Granularity.ITEM
