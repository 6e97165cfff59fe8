"""Boxes of a detector: as `Examples.values` holds them, decoded from its cells, and how they overlap. Evaluation and serving
share it.

Boxes are x0, y0, x1, y1 in cells of the grid: (0, 0) is its upper left corner, (columns, rows) its lower right one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.types import Array

#: Numbers of a cell after those of its classes: the distances from its center to the left, upper, right and lower edge.
EDGES = 4
#: Boxes of a picture that compete with one another, as FCOS has it (Tian et al. 2019, section 4).
CANDIDATES = 1000
MOST_BOXES = 100
MAX_OVERLAP = 0.6


@dataclass(frozen=True)
class BoxFilter:
    """The boxes that are returned: those of at least `min_score`, of two of one class that overlap by more than `max_overlap`
    (intersection over union) the surer one, and the surest `most` of what is left."""

    min_score: float = 0.0
    max_overlap: float = MAX_OVERLAP
    most: int = MOST_BOXES


@dataclass(frozen=True)
class TrueBoxes:
    """The true boxes (k, 4) of one picture and their classes (k,)."""

    boxes: Array
    labels: Array


@dataclass(frozen=True)
class Detections:
    """The boxes (k, 4) of one picture, their scores (k,) and classes (k,), the surest first."""

    boxes: Array
    scores: Array
    labels: Array


def box_values(truth: TrueBoxes, cells: int) -> Array:
    """Make the values of one picture, (cells, 5) float32: a box in each of its first rows, class and corners; class -1 in the
    others."""
    values = np.zeros((cells, 1 + EDGES), np.float32)
    values[:, 0] = -1
    values[: len(truth.labels), 0] = truth.labels
    values[: len(truth.labels), 1:] = truth.boxes
    return values


def true_boxes(values: Array) -> TrueBoxes:
    """Read what `box_values` made."""
    there = values[values[:, 0] >= 0]
    return TrueBoxes(there[:, 1:], there[:, 0].astype(np.int64))


def box_probabilities(scores: Array) -> Array:
    """Turn the logits of a detector's classes (n, classes + 4) into probabilities; the distances stay."""
    sure = 1 / (1 + np.exp(-np.clip(scores[:, :-EDGES], -80, 80)))
    return np.concatenate([sure, scores[:, -EDGES:]], axis=1).astype(np.float32)


def cell_centers(grid: tuple[int, int]) -> Array:
    """Return (rows * columns, 2) float32 centers x, y, row-major."""
    rows, columns = grid
    y, x = np.mgrid[:rows, :columns]
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32) + np.float32(0.5)


def decode_boxes(probabilities: Array, grid: tuple[int, int], keep: BoxFilter) -> Detections:
    """Decode the cells (rows * columns, classes + 4) of one picture: a probability for each class, then the distances to the
    edges in cells."""
    sure, centers = probabilities[:, :-EDGES], cell_centers(grid)
    boxes = np.concatenate([centers - probabilities[:, -EDGES:-2], centers + probabilities[:, -2:]], axis=1)
    cells, labels = np.nonzero(sure >= max(keep.min_score, np.finfo(np.float32).tiny))
    scores = sure[cells, labels]
    order = np.argsort(-scores, kind="stable")[:CANDIDATES]
    cells, labels, scores = cells[order], labels[order], scores[order]
    chosen = suppress(boxes[cells], labels, keep.max_overlap, keep.most)
    return Detections(boxes[cells[chosen]], scores[chosen], labels[chosen])


def suppress(boxes: Array, labels: Array, max_overlap: float, most: int) -> Array:
    """Choose up to `most` of the boxes, which are sorted by their scores: none overlaps a chosen one of its class by more."""
    left = np.arange(len(boxes))
    chosen: list[int] = []
    while len(left) and len(chosen) < most:
        first, left = int(left[0]), left[1:]
        chosen.append(first)
        alike = (overlaps(boxes[first : first + 1], boxes[left])[0] > max_overlap) & (labels[left] == labels[first])
        left = left[~alike]
    return np.array(chosen, np.int64)


def overlaps(a: Array, b: Array) -> Array:
    """Compute the intersection over union of each of (n, 4) with each of (m, 4) boxes, (n, m) float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    either = _areas(a)[:, None] + _areas(b) - shared
    return np.asarray(shared / np.where(either > 0, either, 1))


def _areas(boxes: Array) -> Array:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1))
