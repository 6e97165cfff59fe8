"""Rows of an encoder for one column of a batch, which is a dict of columns: what HF datasets and Ray Data pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from topwork.errors import InvalidInput
from topwork.features import Array
from topwork.integrations._encoder import RemoteEncoder, Role, Server


class ColumnEmbedder:
    """Settings of an encoder, and of the columns that it reads and writes. Pickles without a connection."""

    def __init__(
        self,
        encoder: str,
        column: str,
        *,
        output: str = "embedding",
        tap: str | None = None,
        options: Mapping[str, Any] | None = None,
        role: Role | None = "document",
        normalize: bool = False,
        dimensions: int = 0,
        fingerprint: str | None = None,
        skip_bad_items: bool = False,
        server: Server = None,
    ) -> None:
        self.column, self.output, self.role, self.skip_bad_items = column, output, role, skip_bad_items
        self._remote = RemoteEncoder(
            encoder, server, tap, options, normalize=normalize, dimensions=dimensions, fingerprint=fingerprint
        )

    def _rows(self, batch: Mapping[str, Iterable[Any]]) -> tuple[Array, Array]:
        """Rows (n, dim) float32 of the column's values, NaN for those that were skipped; and which were not (n,)."""
        if self.column not in batch:
            raise InvalidInput(f"there is no column {self.column!r}", remedy=f"the columns are {', '.join(map(repr, batch))}")
        items = [item_of(value) for value in batch[self.column]]
        if not items:
            return np.empty((0, 0), np.float32), np.empty(0, bool)
        found = self._remote.features(items, self.role, skip_bad_items=self.skip_bad_items)
        is_good = found.counts > 0
        rows = np.full((len(items), found.dim), np.nan, np.float32)
        rows[is_good] = found.rows
        return rows, is_good


def item_of(value: Any) -> Any:
    """An item of a column's value: what the SDK takes, or what HF datasets makes of pictures and recordings: a dict of `bytes`
    and `path`, or of `array` and `sampling_rate`, or a decoder of torchcodec."""
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return value["bytes"]
        if value.get("array") is not None:
            return _mono(np.asarray(value["array"])), value["sampling_rate"]
        return Path(value["path"]) if value.get("path") else value
    if hasattr(value, "get_all_samples"):
        samples = value.get_all_samples()
        return _mono(np.asarray(samples.data)), samples.sample_rate
    return value


def _mono(samples: Array) -> Array:
    """(n,) float32 of samples (n,) or (channels, n)."""
    return (samples if samples.ndim == 1 else samples.mean(axis=0)).astype(np.float32)
