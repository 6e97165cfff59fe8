"""Boxes as labels write them, in pixels of the picture, become values of the cells of a tap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.heads.cell_scale import CellScale
from topwork_server.plugin_api.boxes import TrueBoxes, box_values
from topwork_server.types import Array

#: By so much of a picture its size, which follows from the cells, may be off: preprocessing rounds where it crops.
ROUNDING = 0.01


@dataclass(frozen=True)
class PlacedBoxes:
    """The values of one picture (cells, 5), as `Examples` has them, how many of its boxes were cut at its edge, and how many lie
    outside of all cells."""

    values: Array
    clipped: int
    hidden: int


def place_boxes(id: str, truth: TrueBoxes, cells: Array) -> PlacedBoxes:
    """Place the boxes of an item in its cells (cells, 4). InvalidInput for a box that lies outside of the picture, and for more
    boxes than there are cells."""
    scale, boxes = CellScale.of(cells), truth.boxes
    if len(boxes) > len(cells):
        raise InvalidInput(
            f"item {id!r}: it has {len(boxes)} boxes, and the tap {len(cells)} cells",
            remedy="choose a tap with more cells, or leave boxes out",
        )
    width, height = scale.picture
    inside = np.clip(boxes.reshape(-1, 2, 2), 0, scale.picture).reshape(-1, 4)
    for box in boxes[(inside[:, :2] >= inside[:, 2:]).any(axis=1)]:
        raise InvalidInput(
            f"item {id!r}: the box {','.join(f'{edge:g}' for edge in box)} lies outside of its picture of {width:.0f} x"
            f" {height:.0f} pixels",
            remedy="write boxes in pixels of the picture that was sent, x0,y0,x1,y1, or leave it out",
        )
    beyond = np.abs(inside - boxes).reshape(-1, 2, 2) > 1 + ROUNDING * scale.picture
    hidden = (np.minimum(inside[:, 2:], scale.end) <= np.maximum(inside[:, :2], scale.start)).any(axis=1)
    values = box_values(TrueBoxes(scale.to_cells(inside), truth.labels), len(cells))
    return PlacedBoxes(values, int(beyond.any(axis=(1, 2)).sum()), int(hidden.sum()))
