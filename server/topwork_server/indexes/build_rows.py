"""Rows of one tap of a set, as a build needs them: read once from the dataset, kept in a scratch file, in order of keys.

The order in which the dataset holds items is not that of their keys (an update writes rows in any order), so the scratch file
is as the dataset was read, and `places` says where in it each row is.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from topwork_server.blocking_calls import Report
from topwork_server.feature_sets import lance_io
from topwork_server.feature_sets.open_set import open_checked_dataset
from topwork_server.features import aranges, starts_of
from topwork_server.inference.output_format import normalize
from topwork_server.plugin_api.vector_index import Metric
from topwork_server.types import Array, FingerprintedTap, Granularity

#: Rows of one batch, in bytes of float32: few enough to bound memory, enough for BLAS.
BATCH_BYTES = 16 << 20
SEED = 20261


@dataclass(frozen=True, slots=True)
class DatasetColumn:
    """The place of the rows: a set's folder at a version, and the column of the tap."""

    path: str
    version: int
    column: str


@dataclass(frozen=True, slots=True)
class CollectedRows:
    """The rows by key: keys (n,) int64 ascending; rows (n,) int32 as BuiltIndex has them; `places` (n,) int64, where in `file`
    (n, dim) float32 each is, or None where it stands in that order."""

    keys: Array
    rows: Array | None
    file: Array
    places: Array | None

    def gather(self, positions: Array) -> Array:
        """Return the rows at those positions, (n, dim) float32."""
        return np.asarray(self.file[positions if self.places is None else self.places[positions]])


class RowSubset:
    """A part of the rows, as a plugin sees them (VectorSource)."""

    def __init__(self, collected: CollectedRows, positions: Array) -> None:
        self.positions = positions
        self.count = len(positions)
        self.dim = int(collected.file.shape[1])
        self._collected = collected

    def batches(self) -> Iterator[Array]:
        step = max(1, BATCH_BYTES // (4 * self.dim))
        for start in range(0, self.count, step):
            yield self._collected.gather(self.positions[start : start + step])

    def sample(self, most: int) -> Array:
        if most >= self.count:
            return self._collected.gather(self.positions)
        chosen = np.random.default_rng(SEED).choice(self.count, most, replace=False)
        return self._collected.gather(self.positions[np.sort(chosen)])


def collect_rows(dataset: DatasetColumn, tap: FingerprintedTap, metric: Metric, scratch: Path, report: Report) -> CollectedRows:
    """Read the tap's rows into a file of `scratch`, which must outlive the answer. DiskFull where it does not fit."""
    with lance_io.map_errors("reading the set"):
        return _collected(dataset, tap, metric, scratch, report)


def _collected(dataset: DatasetColumn, tap: FingerprintedTap, metric: Metric, scratch: Path, report: Report) -> CollectedRows:
    table = open_checked_dataset(Path(dataset.path), dataset.version)
    total = max(1, table.count_rows())
    keys, counts, done = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    with (scratch / "rows.f32").open("wb") as file:
        for batch in table.scanner(columns=["key", dataset.column]).to_batches():
            vectors, lengths = _vectors(batch.column(dataset.column), tap)
            _write(file, vectors, metric)
            keys.append(batch.column("key").to_numpy())
            counts.append(lengths)
            done += len(lengths)
            report(done / total, f"read {done:,} of {total:,} items")
    several = tap.tap.granularity is not Granularity.ITEM
    return _ordered(np.concatenate(keys), np.concatenate(counts), _mapped(scratch / "rows.f32", tap.tap.dim), several)


def _vectors(column: Any, tap: FingerprintedTap) -> tuple[Array, Array]:
    """Return the vectors (rows, dim) as they are stored, and how many of them each item has."""
    import pyarrow.compute as pc

    if tap.tap.granularity is Granularity.ITEM:
        lengths = np.asarray(pc.is_valid(column).to_numpy(zero_copy_only=False), np.int64)
    else:
        lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0).to_numpy(), np.int64)
        column = column.flatten()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, tap.tap.dim), lengths


def _write(file: BinaryIO, vectors: Array, metric: Metric) -> None:
    rows = np.ascontiguousarray(vectors, np.float32)
    file.write((normalize(rows) if metric is Metric.COSINE else rows).data)


def _mapped(path: Path, dim: int) -> Array:
    """Map the file, whose pages the system may drop: the rows need not fit in memory."""
    if not path.stat().st_size:
        return np.empty((0, dim), np.float32)
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(view, np.float32).reshape(-1, dim)


def _ordered(keys: Array, counts: Array, file: Array, several: bool) -> CollectedRows:
    starts = starts_of(counts)
    order = np.argsort(keys, kind="stable")
    in_order = bool((np.diff(keys) > 0).all())
    row_of = aranges(np.zeros_like(starts), counts[order])
    places = None if in_order else np.repeat(starts[order], counts[order]) + row_of
    return CollectedRows(np.repeat(keys[order], counts[order]), row_of.astype(np.int32) if several else None, file, places)
