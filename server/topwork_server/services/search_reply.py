"""Makes the reply of a search: ids, and what else was asked of the items, fetched once for all queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from topwork.v1 import indexes_pb2

from topwork_server.feature_sets.set_types import Column, ItemBatch
from topwork_server.features import TapRows, aranges, starts_of
from topwork_server.indexes.index import OpenedIndex
from topwork_server.indexes.index_types import SearchHits
from topwork_server.types import Array, Granularity

Request = indexes_pb2.SearchRequest


@dataclass(frozen=True, slots=True)
class SearchReply:
    """Hits with their ids, and the columns that were asked for, a value a hit. `rows` has a row a hit, where vectors were asked
    or rows have spans."""

    hits: SearchHits
    ids: Sequence[str]
    metadata: tuple[Column, ...] = ()
    rows: TapRows | None = None


def needs_fetch(request: Request, opened: OpenedIndex) -> bool:
    return bool(request.columns) or request.all_columns or _needs_rows(request, opened)


def make_reply(request: Request, hits: SearchHits, opened: OpenedIndex) -> SearchReply:
    """Make the reply; this blocks, but for ids alone. A hit whose item was deleted or replaced meanwhile is left out."""
    if needs_fetch(request, opened):
        return _fetched(request, hits, opened)
    ids = opened.feature_set.ids_of(hits.keys)
    hits = _kept(hits, np.array([id is not None for id in ids], bool))
    return SearchReply(hits, [id for id in ids if id is not None])


def skip_best(hits: SearchHits, offset: int) -> SearchHits:
    """Leave out so many of the best hits of each query."""
    if not offset:
        return hits
    return _kept(hits, aranges(0, hits.counts) >= offset)


def _needs_rows(request: Request, opened: OpenedIndex) -> bool:
    return request.with_vectors or opened.definition.tap.tap.granularity is not Granularity.ITEM


def _fetched(request: Request, hits: SearchHits, opened: OpenedIndex) -> SearchReply:
    """Fetch each item once, however many queries found it."""
    taps = (opened.definition.tap.tap.name,) if _needs_rows(request, opened) else ()
    columns = None if request.all_columns else tuple(dict.fromkeys(request.columns))
    block = opened.feature_set.fetch(np.unique(hits.keys), taps=taps, columns=columns)
    assert block.keys is not None
    hits, places = _present(hits, block.keys)
    metadata = tuple(replace(c, values=[c.values[i] for i in places]) for c in block.metadata)
    return SearchReply(hits, [block.ids[i] for i in places], metadata, _rows(block, places, hits) if taps else None)


def _present(hits: SearchHits, keys: Array) -> tuple[SearchHits, Array]:
    """The hits that are among `keys` (ascending), and where."""
    if not len(keys):
        return _kept(hits, np.zeros(len(hits.keys), bool)), np.empty(0, np.int64)
    at = np.minimum(np.searchsorted(keys, hits.keys), len(keys) - 1)
    there = keys[at] == hits.keys
    return _kept(hits, there), at[there]


def _kept(hits: SearchHits, keep: Array) -> SearchHits:
    if keep.all():
        return hits
    query = np.repeat(np.arange(len(hits.counts)), hits.counts)
    counts = np.bincount(query[keep], minlength=len(hits.counts))
    return replace(hits, counts=counts, keys=hits.keys[keep], rows=hits.rows[keep], scores=hits.scores[keep])


def _rows(block: ItemBatch, places: Array, hits: SearchHits) -> TapRows:
    """The row of each hit, with its span."""
    tap = block.taps[0]
    at = starts_of(np.asarray(tap.counts, np.int64))[places] + hits.rows
    return tap.select(at, np.ones(len(at), np.int64))
