"""Rows of taps: one sample's rows and what they cover, as the exporter and the engine read outputs, and rows of some items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from topwork_server.ragged_arrays import aranges, starts_of
from topwork_server.types import Array, Granularity, Sample, Spans, Tap, TapRows


def rows_of(tap: Tap, output: Array, sample: Sample) -> Array:
    """(rows, dim) of one sample from its part of the graph's output: (dim,), (tokens, dim) or (cells, dim)."""
    if tap.granularity is Granularity.TOKEN:
        assert sample.tokens is not None, "an encoder with TOKEN taps gives its samples TokenSpans"
        return np.asarray(output[sample.tokens.positions])
    return output if output.ndim == 2 else output[np.newaxis]


def spans_of(tap: Tap, samples: Sequence[Sample]) -> Spans | None:
    """What the rows of these samples cover, in the order of their rows; None where a row is the whole item."""
    if tap.granularity is Granularity.TOKEN:
        tokens = [s.tokens for s in samples if s.tokens is not None]
        chars = _joined([t.chars for t in tokens], 2)
        return Spans("chars", chars, np.concatenate([t.parts for t in tokens]) if tokens else np.zeros(0, np.int32))
    if tap.granularity is Granularity.WINDOW:
        return Spans("seconds", np.array([s.window or (0, 0) for s in samples], np.float32).reshape(-1, 2))
    if tap.granularity is Granularity.CELL:
        assert tap.grid is not None, "a CELL tap has a grid"
        return Spans("box", _joined([cell_boxes(tap.grid, s.box or (0, 0, 0, 0)) for s in samples], 4))
    return None


def cell_boxes(grid: tuple[int, int], box: tuple[float, float, float, float]) -> Array:
    """(rows * columns, 4) float32 boxes x0, y0, x1, y1 that divide `box` evenly, row-major."""
    rows, columns = grid
    x0, y0, x1, y1 = box
    xs, ys = np.linspace(x0, x1, columns + 1), np.linspace(y0, y1, rows + 1)
    left, top = np.meshgrid(xs[:-1], ys[:-1])
    right, bottom = np.meshgrid(xs[1:], ys[1:])
    return np.stack([left, top, right, bottom], axis=-1).reshape(-1, 4).astype(np.float32)


def select_items(rows: TapRows, items: Array) -> TapRows:
    """Select items by position, in that order; one may be there several times."""
    counts = rows.counts[items]
    at = aranges(starts_of(rows.counts)[items], counts)
    spans = rows.spans
    if spans is not None:
        spans = Spans(spans.kind, spans.values[at], None if spans.parts is None else spans.parts[at])
    return TapRows(rows.tap, rows.rows[at], counts, spans)


def _joined(parts: list[Array], width: int) -> Array:
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, width), np.float32)
