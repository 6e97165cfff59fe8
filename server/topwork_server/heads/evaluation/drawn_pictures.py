"""Some of the pictures that a detector was evaluated on, with true and predicted boxes, for its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from topwork.predictions import Detection
from topwork.report import DrawnPicture

from topwork_server.heads.cell_scale import CellScale
from topwork_server.heads.evaluation.evaluation_data import HeldOutPredictions
from topwork_server.plugin_api.boxes import BoxFilter, box_probabilities, decode_boxes, true_boxes
from topwork_server.plugin_api.trainer import Examples
from topwork_server.types import Array

MOST = 20


def drawn_pictures(
    examples: Examples, predictions: HeldOutPredictions, ids: Sequence[str], covers: Mapping[str, Array], min_score: float
) -> tuple[DrawnPicture, ...]:
    """Choose up to 20 held-out pictures, evenly among all. `covers` has the cells of each in pixels, `ids` those of all items."""
    assert examples.grid is not None, "BOXES have a grid"
    cells = examples.together
    starts = np.arange(0, len(predictions.rows), cells)
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, min(len(starts), MOST)).astype(np.int64))]
    found = []
    for start in chosen.tolist():
        id = ids[examples.items[predictions.rows[start]]]
        scale, part = CellScale.of(covers[id]), slice(start, start + cells)
        truth = true_boxes(examples.values[predictions.rows[part]])
        mine = decode_boxes(box_probabilities(predictions.scores[part]), examples.grid, BoxFilter(min_score))
        found.append(
            DrawnPicture(
                id=id,
                width=float(scale.picture[0]),
                height=float(scale.picture[1]),
                truth=_detections(examples.names, scale, truth.boxes, truth.labels, np.ones(len(truth.labels))),
                predicted=_detections(examples.names, scale, mine.boxes, mine.labels, mine.scores),
            )
        )
    return tuple(found)


def _detections(names: Sequence[str], scale: CellScale, boxes: Array, labels: Array, scores: Array) -> tuple[Detection, ...]:
    pixels = np.round(scale.to_pixels(boxes), 1).tolist()
    return tuple(
        Detection(names[label], round(float(score), 4), (box[0], box[1], box[2], box[3]))
        for label, score, box in zip(labels.tolist(), scores, pixels, strict=True)
    )
