"""The rows of an index that a filter lets through: positions, by their bits, and rows written since the build."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.indexes.base_segment import BaseSegment, pack_bits
from topwork_server.indexes.delta_segment import DeltaView
from topwork_server.types import Array

#: Where more than this share of a build is dead, the dead are a filter too.
MOSTLY = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class RowFilter:
    """Rows of `base` that may be found: `count` of them, by the bits of `mask` (None: all). `delta` marks rows written since
    that may be, None: all. `requested` are the keys as given, `allowed` None where they let all through, `matching` the
    positions else."""

    base: BaseSegment
    requested: Array | None
    allowed: Array | None
    count: int
    mask: Array | None
    matching: Array | None
    delta: Array | None
    delta_count: int

    def positions(self) -> Array:
        """Positions of the rows, in the order of their keys."""
        return self.base.positions(self.allowed) if self.matching is None else self.matching

    @property
    def total_count(self) -> int:
        return self.count + self.delta_count

    @property
    def share(self) -> float:
        return self.count / max(len(self.base.keys), 1)

    @property
    def filtered(self) -> bool:
        return self.allowed is not None or self.share < MOSTLY


def filter_rows(main: BaseSegment, fresh: DeltaView, allowed: Array | None) -> RowFilter:
    """Select the live rows of the items with the sorted keys `allowed` (None: of all)."""
    kept = fresh.select_rows(allowed)
    fresh_count = len(fresh) if kept is None else int(np.count_nonzero(kept))
    matching = None if allowed is None else main.positions(allowed)
    if matching is None or len(matching) == main.alive:
        return RowFilter(main, allowed, None, main.alive, main.mask, None, kept, fresh_count)
    bits = np.zeros(len(main.keys), bool)
    bits[matching] = True
    return RowFilter(main, allowed, allowed, len(matching), pack_bits(bits), matching, kept, fresh_count)
