"""Sums over units, of which most figures are made: counts of classes, hits, squared errors. Narrow ones are matrix products; wide
ones are sparse, so that 1,000 classes cost no more than 100."""

from __future__ import annotations

import numpy as np

from topwork_server.types import Array

NARROW = 64
DENSE_SPEED = 16  # so many numbers of a matrix product take the time of one sparse entry


class UnitSums:
    """Named rows of sums. A unit (an item, or a group of items) adds amounts to columns of them."""

    def __init__(self, units: int) -> None:
        self.units = units
        self._dense: dict[str, Array] = {}
        self._sparse: dict[str, tuple[int, Array, Array, Array]] = {}

    def add(self, name: str, width: int, unit: Array, column: Array | int = 0, amount: Array | float = 1.0) -> None:
        """`amount` of `unit` to `column` (0 .. width - 1) of `name`; arrays of one length, or one value for all."""
        cell = unit * width + column
        amounts = np.broadcast_to(np.asarray(amount, np.float64), cell.shape)
        if width <= NARROW:
            sums = np.bincount(cell, amounts, minlength=self.units * width)
            self._dense[name] = sums.reshape(self.units, width)
            return
        cells, place = np.unique(cell, return_inverse=True)
        self._sparse[name] = (width, cells // width, cells % width, np.bincount(place, amounts, minlength=len(cells)))

    @property
    def cost(self) -> int:
        """Of one resample, in sparse entries; drawing it costs one a unit."""
        dense = sum(sums.size for sums in self._dense.values())
        return self.units + dense // DENSE_SPEED + sum(len(unit) for _, unit, _, _ in self._sparse.values())

    def totals(self, weights: Array) -> dict[str, Array]:
        """(b, units) weights to (b, width) sums of each name."""
        totals = {name: np.asarray(weights @ sums) for name, sums in self._dense.items()}
        for name, (width, unit, column, amount) in self._sparse.items():
            totals[name] = np.stack([np.bincount(column, amount * row[unit], minlength=width) for row in weights])
        return totals
