"""Features of one tap by item: the form in which rows from the encoder, the cache and the set are combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from topwork_server.feature_sets.set_types import Column, ItemBatch
from topwork_server.types import Array, Spans, TapInfo, TapRows


@dataclass(frozen=True, slots=True)
class ItemFeatures:
    """What one item has of one tap: rows (n, dim) float32, and what they cover."""

    rows: Array
    spans: Spans | None = None


def split_features(features: TapRows) -> list[ItemFeatures]:
    """A piece an item; views, nothing is copied."""
    ends = np.cumsum(features.counts).tolist()
    return [_slice_item(features, start, end) for start, end in zip([0, *ends], ends, strict=False)]


def join_features(info: TapInfo, pieces: Sequence[ItemFeatures]) -> TapRows:
    """The inverse of `split`."""
    rows = [piece.rows for piece in pieces]
    return TapRows(
        info,
        np.concatenate(rows) if rows else np.zeros((0, info.tap.dim), np.float32),
        np.array([len(one) for one in rows], np.int64),
        _joined([piece.spans for piece in pieces if len(piece.rows) and piece.spans is not None]),
    )


def take_items(batch: ItemBatch, positions: Sequence[int]) -> ItemBatch:
    """The items of a block at those positions, in their order."""
    if list(positions) == list(range(len(batch.ids))):
        return batch
    return replace(
        batch,
        ids=[batch.ids[i] for i in positions],
        taps=tuple(_taken(tap, positions) for tap in batch.taps),
        metadata=tuple(Column(c.name, c.type, [c.values[i] for i in positions]) for c in batch.metadata),
        content_hashes=[batch.content_hashes[i] for i in positions] if batch.content_hashes else (),
        inputs=[batch.inputs[i] for i in positions] if batch.inputs else (),
        keys=None if batch.keys is None else batch.keys[list(positions)],
    )


def _taken(features: TapRows, positions: Sequence[int]) -> TapRows:
    pieces = split_features(features)
    return join_features(features.tap, [pieces[i] for i in positions])


def _slice_item(features: TapRows, start: int, end: int) -> ItemFeatures:
    spans = features.spans
    return ItemFeatures(
        features.rows[start:end],
        spans and Spans(spans.kind, spans.values[start:end], None if spans.parts is None else spans.parts[start:end]),
    )


def _joined(spans: Sequence[Spans]) -> Spans | None:
    if not spans:
        return None
    parts = [one.parts for one in spans if one.parts is not None]
    return Spans(
        spans[0].kind,
        np.concatenate([one.values for one in spans]),
        np.concatenate(parts) if parts else None,
    )
