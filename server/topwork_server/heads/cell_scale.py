"""The scale between pixels of a picture and cells of a tap's grid. Training and serving share it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.types import Array


@dataclass(frozen=True)
class CellScale:
    """The cells of a picture: where they begin and how large one is, x and y in pixels, and where they end."""

    start: Array
    size: Array
    end: Array

    @classmethod
    def of(cls, cells: Array) -> CellScale:
        """Read it from (cells, 4) boxes in pixels."""
        cells = cells.astype(np.float64)
        return cls(cells[:, :2].min(axis=0), cells[0, 2:] - cells[0, :2], cells[:, 2:].max(axis=0))

    @property
    def picture(self) -> Array:
        """The width and height of the picture: what is cropped or added is the same on both sides."""
        return self.start + self.end

    def to_cells(self, boxes: Array) -> Array:
        return np.asarray((boxes.reshape(-1, 2, 2) - self.start) / self.size).reshape(-1, 4)

    def to_pixels(self, boxes: Array) -> Array:
        """Convert boxes, and cut them at the edges of the picture."""
        found = boxes.reshape(-1, 2, 2).astype(np.float64) * self.size + self.start
        return np.asarray(np.clip(found, 0, self.picture)).reshape(-1, 4)
