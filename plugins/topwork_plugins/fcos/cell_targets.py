"""The box that each cell of a picture learns, as FCOS assigns it with center sampling (Tian et al. 2019, section 3)."""

from __future__ import annotations

import numpy as np
from topwork_server import Array, cell_centers, true_boxes

#: A cell in a box, and so near to its center, in cells, learns it: half of the side of the square around the center.
RADIUS = 1.5
#: The least distance from a cell to an edge; the nearest cell to the center of a tiny box may lie outside of it.
LEAST = 0.05


def cell_targets(values: Array, grid: tuple[int, int]) -> tuple[Array, Array]:
    """Assign the boxes of pictures (pictures, cells, 5) to their cells: (pictures, cells) int64 classes, -1 for none, and
    (pictures, cells, 4) float32 distances to the left, upper, right and lower edge, in cells."""
    classes = np.full(values.shape[:2], -1, np.int64)
    distances = np.ones((*values.shape[:2], 4), np.float32)
    centers = cell_centers(grid)
    for at, of_picture in enumerate(values):
        truth = true_boxes(of_picture)
        if len(truth.labels):
            chosen, reach = _chosen(truth.boxes, centers)
            taken = np.flatnonzero(chosen >= 0)
            classes[at, taken] = truth.labels[chosen[taken]]
            distances[at, taken] = reach[taken, chosen[taken]]
    return classes, distances


def _chosen(boxes: Array, centers: Array) -> tuple[Array, Array]:
    """Choose the box of each cell, (cells,), -1 for none: of several the smallest. Gives also all distances (cells, boxes, 4)."""
    reach = np.concatenate([centers[:, None] - boxes[:, :2], boxes[:, 2:] - centers[:, None]], axis=2)
    off = np.abs(centers[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2)
    near = (reach.min(axis=2) > 0) & (off.max(axis=2) < RADIUS)
    near[(off**2).sum(axis=2).argmin(axis=0), np.arange(len(boxes))] = True
    areas = np.where(near, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), np.inf)
    return np.where(near.any(axis=1), areas.argmin(axis=1), -1), np.maximum(reach, LEAST).astype(np.float32)
