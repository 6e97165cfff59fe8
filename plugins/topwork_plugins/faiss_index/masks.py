"""Which positions may be found, and how faiss is told."""

from __future__ import annotations

from typing import Any

import numpy as np
from topwork_server import Array

from topwork_plugins.faiss_index import introspection, library

#: A matrix is asked for a list of positions where at most one row in so many is allowed; else it tests a bit a row.
SPARSE = 64


class PositionMask:
    """`bits` as VectorIndex.search has them, or None where all of `total` positions are allowed."""

    def __init__(self, bits: Array | None, total: int) -> None:
        if bits is not None and (bits.dtype != np.uint8 or bits.shape != ((total + 7) // 8,)):
            raise ValueError(f"a mask of {total} positions is ({(total + 7) // 8},) uint8, not {bits.shape} {bits.dtype}")
        self.bits = None if bits is None else _cleared(np.ascontiguousarray(bits), total)
        self.total = total
        self.allowed = total if self.bits is None else int(np.bitwise_count(self.bits).sum())

    @property
    def density(self) -> float:
        return self.allowed / max(1, self.total)

    def allows(self, positions: Array) -> Array:
        """Which of the positions (any shape, int64) are allowed; -1 is not."""
        if self.bits is None:
            return positions >= 0
        found: Array = (positions >= 0) & ((self.bits[positions >> 3] >> (positions & 7).astype(np.uint8)) & 1).astype(bool)
        return found

    def positions(self) -> Array:
        """(allowed,) int64, ascending."""
        if self.bits is None:
            return np.arange(self.total)
        return np.flatnonzero(np.unpackbits(self.bits, count=self.total, bitorder="little"))

    def selector(self, index: Any) -> Any | None:
        """faiss's IDSelector for a search of `index`. It keeps the arrays that it points to."""
        if self.bits is None:
            return None
        faiss = library.load()
        if introspection.is_flat(index) and self.allowed * SPARSE <= self.total:
            return faiss.IDSelectorArray(self.positions())
        selector = faiss.IDSelectorBitmap(len(self.bits), faiss.swig_ptr(self.bits))
        selector.kept = self.bits
        return selector


def _cleared(bits: Array, total: int) -> Array:
    """Without the bits after the last position."""
    spare = -total % 8
    if spare and bits[-1] >> (8 - spare):
        bits = bits.copy()
        bits[-1] &= 0xFF >> spare
    return bits
