"""The rows of some items: out of the rows of many, and out of a feature set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from topwork_server.errors import NotFound
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.ragged_arrays import aranges, starts_of
from topwork_server.types import Array, Spans, TapRows


def take_rows(rows: TapRows, items: Array) -> TapRows:
    """Those items, by position, in that order; one may be there several times."""
    counts = rows.counts[items]
    at = aranges(starts_of(rows.counts)[items], counts)
    spans = rows.spans
    if spans is not None:
        spans = Spans(spans.kind, spans.values[at], None if spans.parts is None else spans.parts[at])
    return TapRows(rows.tap, rows.rows[at], counts, spans)


def stored_rows(feature_set: FeatureSet, ids: Sequence[str], taps: Sequence[str]) -> tuple[tuple[TapRows, ...], Array]:
    """Rows of each tap for those ids, in their order, and the keys of the items. NotFound names an id that the set has not."""
    _, stored = feature_set.keys(ids=ids)
    key_of = dict(zip(feature_set.ids_of(stored), stored.tolist(), strict=True))
    keys = np.array([key_of.get(id, -1) for id in ids], np.int64)
    block = feature_set.fetch(np.unique(keys[keys >= 0]), taps=taps)
    assert block.keys is not None
    at = np.searchsorted(block.keys, keys)
    here = block.keys[np.minimum(at, len(block.keys) - 1)] == keys if len(block.keys) else np.zeros(len(ids), bool)
    if not here.all():
        missing = int(np.argmin(here))
        raise NotFound(
            f"the set {feature_set.definition.name} has no item {ids[missing]!r}", remedy="send ids that it has", item=missing
        )
    return tuple(take_rows(rows, at) for rows in block.taps), keys
