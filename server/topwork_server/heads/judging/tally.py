"""Sums over units, of which most figures are made: counts of classes, hits, squared errors. Sparse, so that 1,000 classes cost
no more than 10."""

from __future__ import annotations

import numpy as np

from topwork_server.types import Array


class Tally:
    """Named rows of sums. A unit (an item, or a group of items) adds amounts to columns of them."""

    def __init__(self, units: int) -> None:
        self.units = units
        self._places: dict[str, slice] = {}
        self._entries: list[tuple[Array, Array, Array]] = []
        self._width = 0

    def add(self, name: str, width: int, unit: Array, column: Array | int = 0, amount: Array | float = 1.0) -> None:
        """`amount` of `unit` to `column` (0 .. width - 1) of `name`; arrays of one length, or one value for all."""
        columns = np.broadcast_to(np.asarray(column, np.int64), unit.shape)
        amounts = np.broadcast_to(np.asarray(amount, np.float64), unit.shape)
        self._places[name] = slice(self._width, self._width + width)
        self._entries.append(_joined(unit, columns, amounts, width, self.units, self._width))
        self._width += width

    @property
    def entries(self) -> int:
        return sum(len(unit) for unit, _, _ in self._entries)

    def totals(self, weights: Array) -> dict[str, Array]:
        """(b, units) weights to (b, width) sums of each name."""
        unit, column, amount = (np.concatenate(parts) for parts in zip(*self._entries, strict=True))
        sums = np.stack([np.bincount(column, amount * row[unit], minlength=self._width) for row in weights])
        return {name: sums[:, place] for name, place in self._places.items()}


def _joined(unit: Array, column: Array, amount: Array, width: int, units: int, offset: int) -> tuple[Array, Array, Array]:
    """What a unit adds to a column in one entry, where units have several rows."""
    if len(unit) > units:
        cells, place = np.unique(unit * width + column, return_inverse=True)
        amount = np.bincount(place, amount, minlength=len(cells))
        unit, column = cells // width, cells % width
    return unit, column + offset, np.asarray(amount)
