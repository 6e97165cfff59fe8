"""Features: rows of numbers, several to an item where a row is a token, a window or a cell, and what each row covers.

The rows of items stand one after another, and `counts` says how many each item has. The exporter and the engine read graph
outputs by `rows_of` and `spans_of` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from topwork_server.errors import TopworkError
from topwork_server.types import Array, FingerprintedTap, Granularity, Numerics, Sample, Tap, Timings, TokenChunks


@dataclass(frozen=True, slots=True)
class Spans:
    """The ranges that the rows cover. kind "chars": (n, 2) and `parts` (n,); "seconds": (n, 2); "box": (n, 4) pixels. float32."""

    kind: str
    values: Array
    parts: Array | None = None

    def select(self, rows: Array | slice) -> Spans:
        return Spans(self.kind, self.values[rows], None if self.parts is None else self.parts[rows])


@dataclass(frozen=True, slots=True)
class ItemFeatures:
    """The features of one item from one tap: rows (n, dim) float32, and what they cover."""

    rows: Array
    spans: Spans | None = None


@dataclass(frozen=True, slots=True)
class TapRows:
    """Features of one tap for many items: rows (n, dim) float32, and how many rows each item has."""

    tap: FingerprintedTap
    rows: Array
    counts: Array
    spans: Spans | None = None

    def take(self, items: Array | Sequence[int]) -> TapRows:
        """The rows of those items, by position, in that order; one may be there several times."""
        items = np.asarray(items, np.int64)
        counts = np.asarray(self.counts, np.int64)
        return self.select(aranges(starts_of(counts)[items], counts[items]), counts[items])

    def select(self, rows: Array, counts: Array) -> TapRows:
        """Return some of the rows, and how many of them each item has."""
        return TapRows(self.tap, np.asarray(self.rows)[rows], counts, self.spans and self.spans.select(rows))

    def split(self) -> list[ItemFeatures]:
        """A piece an item; views, nothing is copied."""
        ends = np.cumsum(self.counts).tolist()
        return [
            ItemFeatures(self.rows[start:end], self.spans and self.spans.select(slice(start, end)))
            for start, end in zip([0, *ends], ends, strict=False)
        ]

    @classmethod
    def join(cls, tap: FingerprintedTap, items: Sequence[ItemFeatures]) -> TapRows:
        """The inverse of `split`."""
        rows = [item.rows for item in items]
        return cls(
            tap,
            np.concatenate(rows) if rows else np.zeros((0, tap.tap.dim), np.float32),
            np.array([len(one) for one in rows], np.int64),
            _joined_spans([item.spans for item in items if len(item.rows) and item.spans is not None]),
        )


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """The answer to one request: rows by tap in the order asked, notes and failures by item position, and what made them. `cost`
    is what its samples took, as the encoder counts it: of texts their tokens, without padding."""

    taps: tuple[TapRows, ...]
    notes: Mapping[int, Mapping[str, int]]
    failures: Mapping[int, TopworkError]
    numerics: Numerics
    timings: Timings
    cost: int = 0

    def among(self, positions: Sequence[int], failures: Mapping[int, TopworkError]) -> EmbedResult:
        """The same, of items that have those positions among all; the others have `failures`, by position."""

        def counts(of_good: Array) -> Array:
            of_all = np.zeros(len(positions) + len(failures), of_good.dtype)
            of_all[list(positions)] = of_good
            return of_all

        return replace(
            self,
            taps=tuple(replace(tap, counts=counts(np.asarray(tap.counts))) for tap in self.taps),
            notes={positions[i]: note for i, note in self.notes.items()},
            failures={**{positions[i]: error for i, error in self.failures.items()}, **failures},
        )


def starts_of(counts: Array) -> Array:
    """Return where each item's rows begin."""
    return np.asarray(np.cumsum(counts) - counts)


def sums_of(values: Array, counts: Array) -> Array:
    """The sum of each item's rows, 0 of none; `values` (rows,) of integers or bool."""
    before = np.concatenate([[0], np.cumsum(values)])
    ends = np.cumsum(counts)
    return np.asarray(before[ends] - before[ends - counts])


def aranges(starts: Array | int, counts: Array) -> Array:
    """start .. start + count - 1 of each item, one after another."""
    return np.asarray(np.repeat(starts - starts_of(counts), counts) + np.arange(int(counts.sum())))


def rows_of(tap: Tap, output: Array, sample: Sample) -> Array:
    """Return (rows, dim) of one sample from its part of the graph's output: (dim,), (tokens, dim) or (cells, dim); of a CHUNK tap
    the sum of each chunk's tokens that are in this sample."""
    if tap.granularity is Granularity.CHUNK:
        assert sample.tokens is not None, "an encoder with TOKEN taps gives its samples TokenSpans"
        assert sample.chunks is not None, "samples of chunks have their token ranges"
        return _sums_of_ranges(output[sample.tokens.positions], sample.chunks)
    if tap.granularity is Granularity.TOKEN:
        assert sample.tokens is not None, "an encoder with TOKEN taps gives its samples TokenSpans"
        return np.asarray(output[sample.tokens.positions])
    return output if output.ndim == 2 else output[np.newaxis]


def spans_of(tap: Tap, samples: Sequence[Sample]) -> Spans | None:
    """Return what the rows of these samples cover, in the order of their rows; None where a row is the whole item."""
    if tap.granularity is Granularity.TOKEN:
        tokens = [s.tokens for s in samples if s.tokens is not None]
        chars = _float_rows([t.chars for t in tokens], 2)
        return Spans("chars", chars, np.concatenate([t.parts for t in tokens]) if tokens else np.zeros(0, np.int32))
    if tap.granularity is Granularity.WINDOW:
        return Spans("seconds", np.array([s.window or (0, 0) for s in samples], np.float32).reshape(-1, 2))
    if tap.granularity is Granularity.CELL:
        assert tap.grid is not None, "a CELL tap has a grid"
        return Spans("box", _float_rows([cell_boxes(tap.grid, s.box or (0, 0, 0, 0)) for s in samples], 4))
    return None


def chunk_features(samples: Sequence[Sample], sums: Sequence[Array], dim: int) -> ItemFeatures:
    """Return the mean of each chunk's tokens and the characters that it covers, of one text by its samples and their `rows_of`;
    the chunks are in the order of their numbers."""
    parts = [sample.chunks for sample in samples if sample.chunks is not None]
    if not parts:
        return ItemFeatures(np.zeros((0, dim), np.float32))
    numbers, at = np.unique(np.concatenate([part.numbers for part in parts]), return_inverse=True)
    rows, counts = np.zeros((len(numbers), dim), np.float32), np.zeros((len(numbers), 1), np.float32)
    chars = np.stack([np.full(len(numbers), np.inf), np.zeros(len(numbers))], axis=1).astype(np.float32)
    covered = np.concatenate([part.chars for part in parts])
    np.add.at(rows, at, np.concatenate(sums))
    np.add.at(counts, at, np.concatenate([part.ends - part.starts for part in parts])[:, np.newaxis])
    np.minimum.at(chars[:, 0], at, covered[:, 0])
    np.maximum.at(chars[:, 1], at, covered[:, 1])
    return ItemFeatures(rows / counts, Spans("chars", chars))


def _sums_of_ranges(rows: Array, chunks: TokenChunks) -> Array:
    ranges = zip(chunks.starts.tolist(), chunks.ends.tolist(), strict=True)
    return np.array([rows[start:end].sum(axis=0) for start, end in ranges], np.float32).reshape(-1, rows.shape[1])


def cell_boxes(grid: tuple[int, int], box: tuple[float, float, float, float]) -> Array:
    """Return (rows * columns, 4) float32 boxes x0, y0, x1, y1 that divide `box` evenly, row-major."""
    rows, columns = grid
    x0, y0, x1, y1 = box
    xs, ys = np.linspace(x0, x1, columns + 1), np.linspace(y0, y1, rows + 1)
    left, top = np.meshgrid(xs[:-1], ys[:-1])
    right, bottom = np.meshgrid(xs[1:], ys[1:])
    return np.stack([left, top, right, bottom], axis=-1).reshape(-1, 4).astype(np.float32)


def _float_rows(parts: list[Array], width: int) -> Array:
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, width), np.float32)


def _joined_spans(spans: Sequence[Spans]) -> Spans | None:
    if not spans:
        return None
    parts = [one.parts for one in spans if one.parts is not None]
    return Spans(spans[0].kind, np.concatenate([one.values for one in spans]), np.concatenate(parts) if parts else None)
