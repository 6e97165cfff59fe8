"""Datasets as the store writes them, made by hand: what a build reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from topwork_server.indexes.build_rows import DatasetColumn
from topwork_server.types import Array, FingerprintedTap, Granularity, Tap

COLUMN = "features_pooled"
FINGERPRINT = "f" * 64


def tap(dim: int = 8, granularity: Granularity = Granularity.ITEM) -> FingerprintedTap:
    return FingerprintedTap(Tap("pooled", dim, granularity), FINGERPRINT)


def clustered(count: int, dim: int = 8, seed: int = 0) -> Array:
    """(count, dim) float32 in 32 clusters, far from unit length."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(7).normal(size=(32, dim))
    rows = centers[random.integers(32, size=count)] + 0.3 * random.normal(size=(count, dim))
    return (rows * random.uniform(0.5, 3, (count, 1))).astype(np.float32)


def write(path: Path, keys: Array, rows: Array, counts: Array | None = None, mode: str = "create") -> DatasetColumn:
    """Items in the order of `keys`, with their rows one after another; `counts` says how many each has, None for one each."""
    import lance
    import pyarrow as pa

    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    if counts is not None:
        column = pa.ListArray.from_arrays(pa.array([0, *np.cumsum(counts)], pa.int32()), column)
    table = pa.table({"id": [f"i{key}" for key in keys], "key": pa.array(keys, pa.int64()), COLUMN: column})
    dataset = lance.write_dataset(table, str(path), mode=mode, data_storage_version="2.1")
    return DatasetColumn(str(path), dataset.version, COLUMN)
