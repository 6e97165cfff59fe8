"""Average precision of boxes, as COCO computes it: greedy matching, precision at 101 recalls, overlaps of .5 to .95.

Boxes are matched once; a resample of the bootstrap only weighs the pictures that they are of. pycocotools has no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from topwork_server.plugin_api.boxes import (
    EDGES,
    BoxFilter,
    Detections,
    TrueBoxes,
    box_probabilities,
    decode_boxes,
    overlaps,
    true_boxes,
)
from topwork_server.types import Array

#: Overlaps from which a box counts as found.
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
#: Boxes of lower scores are left out, as detectron2 and mmdetection leave them out: very many would be matched for little.
EVALUATED = BoxFilter(min_score=0.05)
#: The score from which boxes are served where nothing tells a better one.
UNKNOWN = 0.3


@dataclass(frozen=True)
class ClassMatches:
    """The predicted boxes of one class over all pictures, the surest first.

    scores (d,), unit (d,): the bootstrap unit of its picture, hits (thresholds, d) bool: whether it is matched to a true box.
    truths (units,): how many true boxes each unit has.
    """

    scores: Array
    unit: Array
    hits: Array
    truths: Array


def mean_average_precision(values: Array, scores: Array, grid: tuple[int, int]) -> float:
    """Compute the mean over classes and overlaps, from `Examples.values` (n, 5) and a head's scores (n, classes + 4) of whole
    pictures. 0 where no picture has a box."""
    matches = match_pictures(values, scores, grid, np.arange(len(values) // (grid[0] * grid[1])))
    found = np.stack([average_precisions(of_class, np.ones((1, len(of_class.truths))))[0] for of_class in matches])
    defined = np.isfinite(found)
    return float(found[defined].mean()) if defined.any() else 0.0


def match_pictures(values: Array, scores: Array, grid: tuple[int, int], unit: Array) -> list[ClassMatches]:
    """Decode and match the boxes of all pictures; `unit` (pictures,) is the bootstrap unit of each."""
    cells = grid[0] * grid[1]
    truths = [true_boxes(values[at : at + cells]) for at in range(0, len(values), cells)]
    probable = box_probabilities(scores)
    found = [decode_boxes(probable[at : at + cells], grid, EVALUATED) for at in range(0, len(values), cells)]
    return match_boxes(truths, found, unit, int(unit.max(initial=-1)) + 1, scores.shape[1] - EDGES)


def match_boxes(
    truths: Sequence[TrueBoxes], found: Sequence[Detections], unit: Array, units: int, classes: int
) -> list[ClassMatches]:
    """Match the boxes of all pictures, class by class; `unit` (pictures,) is the bootstrap unit of each."""
    return [_match_class(truths, found, unit, units, label) for label in range(classes)]


def _match_class(truths: Sequence[TrueBoxes], found: Sequence[Detections], unit: Array, units: int, label: int) -> ClassMatches:
    scores, owner, hits, counts = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros((len(THRESHOLDS), 0), bool)], np.zeros(units)
    for at, (truth, mine) in enumerate(zip(truths, found, strict=True)):
        boxes, chosen = truth.boxes[truth.labels == label], mine.labels == label
        counts[unit[at]] += len(boxes)
        if chosen.any():
            scores.append(mine.scores[chosen])
            owner.append(np.full(int(chosen.sum()), unit[at]))
            hits.append(greedy_matches(overlaps(mine.boxes[chosen], boxes)))
    sure = np.concatenate(scores)
    order = np.argsort(-sure, kind="stable")
    return ClassMatches(sure[order], np.concatenate(owner)[order], np.concatenate(hits, axis=1)[:, order], counts)


def greedy_matches(shared: Array) -> Array:
    """Tell for each threshold which predicted boxes are matched, (thresholds, d) bool, given their overlaps (d, truths) in the
    order of their scores: each takes the true box that it overlaps most among those that are left."""
    hits = np.zeros((len(THRESHOLDS), len(shared)), bool)
    if not shared.size:
        return hits
    for row, threshold in enumerate(THRESHOLDS):
        left = np.ones(shared.shape[1], bool)
        for at in np.flatnonzero(shared.max(axis=1) >= threshold):
            free = np.where(left, shared[at], -1.0)
            best = int(free.argmax())
            if free[best] >= threshold:
                left[best], hits[row, at] = False, True
    return hits


def average_precisions(matches: ClassMatches, weights: Array) -> Array:
    """Compute the average precision at each threshold, (b, thresholds), of (b, units) weights; NaN without true boxes."""
    found = np.full((len(weights), len(THRESHOLDS)), np.nan)
    for row, (weight, truths) in enumerate(zip(weights, weights @ matches.truths, strict=True)):
        if truths > 0:
            found[row] = _of_resample(matches, weight[matches.unit], truths)
    return found


def _of_resample(matches: ClassMatches, weight: Array, truths: float) -> Array:
    there = weight > 0
    hits, weight = matches.hits[:, there], weight[there]
    right, every = np.cumsum(hits * weight, axis=1), np.cumsum(weight)
    precision = np.maximum.accumulate((right / every)[:, ::-1], axis=1)[:, ::-1]
    padded = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)
    places = [np.searchsorted(row, RECALLS) for row in right / truths]
    return np.array([row[place].mean() for row, place in zip(padded, places, strict=True)])


def best_score(matches: Sequence[ClassMatches]) -> float:
    """Find the score from which boxes are served: that of the best F1 over all classes, at an overlap of one half. UNKNOWN
    where no box is matched."""
    scores = np.concatenate([np.zeros(0), *(one.scores for one in matches)])
    order = np.argsort(-scores, kind="stable")
    hits = np.concatenate([np.zeros(0), *(one.hits[0] for one in matches)])[order]
    truths = sum(float(one.truths.sum()) for one in matches)
    if not hits.any():
        return UNKNOWN
    f1 = 2 * np.cumsum(hits) / (np.arange(1, len(hits) + 1) + truths)
    return float(scores[order][int(f1.argmax())])
