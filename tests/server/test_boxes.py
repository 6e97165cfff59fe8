"""Boxes of detectors: average precision against pycocotools and against values worked out by hand, decoding, overlaps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from topwork_server.plugin_api.average_precision import (
    THRESHOLDS,
    average_precisions,
    best_score,
    match_boxes,
    mean_average_precision,
)
from topwork_server.plugin_api.boxes import (
    BoxFilter,
    Detections,
    TrueBoxes,
    box_probabilities,
    box_values,
    decode_boxes,
    overlaps,
    true_boxes,
)
from topwork_server.types import Array

CLASSES = 3


def pictures(seed: int, count: int = 30) -> tuple[list[TrueBoxes], list[Detections]]:
    """True boxes, and found ones: near the truth, elsewhere, twice, of other classes, with scores that are equal at times."""
    random, truths, found = np.random.default_rng(seed), [], []
    for _ in range(count):
        many = int(random.integers(0, 6))
        corners = random.uniform(0, 80, (many, 2))
        boxes = np.concatenate([corners, corners + random.uniform(5, 60, (many, 2))], axis=1)
        labels = random.integers(0, CLASSES - 1 + (seed % 2), many)
        of = random.integers(0, max(1, many), 2 * many)
        near = boxes[of] + random.normal(0, 2, (2 * many, 4))
        far = np.concatenate([(at := random.uniform(0, 80, (2, 2))), at + 20], axis=1)
        mine = np.concatenate([near, far])
        classes = np.concatenate([labels[of], random.integers(0, CLASSES, 2)])
        mine[:, 2:] = np.maximum(mine[:, 2:], mine[:, :2] + 1)
        scores = np.round(random.uniform(0.05, 1, len(mine)), 2)
        order = np.argsort(-scores, kind="stable")
        truths.append(TrueBoxes(boxes, labels))
        found.append(Detections(mine[order], scores[order], classes[order]))
    return truths, found


def precisions(truths: Sequence[TrueBoxes], found: Sequence[Detections], weights: Array | None = None) -> Array:
    """Average precision of each class at each threshold, (classes, thresholds)."""
    matches = match_boxes(truths, found, np.arange(len(truths)), len(truths), CLASSES)
    drawn = np.ones(len(truths)) if weights is None else weights
    return np.stack([average_precisions(of_class, drawn[None])[0] for of_class in matches])


def coco(truths: Sequence[TrueBoxes], found: Sequence[Detections], capsys: pytest.CaptureFixture[str]) -> Array:
    """The same by pycocotools; -1 where a class has no true box."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    boxes = [(at, box, int(label)) for at, one in enumerate(truths) for box, label in zip(one.boxes, one.labels, strict=True)]
    given = COCO()
    given.dataset = {
        "images": [{"id": at + 1} for at in range(len(truths))],
        "categories": [{"id": label} for label in range(CLASSES)],
        "annotations": [
            {"id": number, "image_id": at + 1, "category_id": label, "bbox": sides(box), "area": 1.0, "iscrowd": 0}
            for number, (at, box, label) in enumerate(boxes, 1)
        ],
    }
    given.createIndex()
    results = given.loadRes(
        [
            {"image_id": at + 1, "category_id": int(label), "bbox": sides(box), "score": float(score)}
            for at, one in enumerate(found)
            for box, score, label in zip(one.boxes, one.scores, one.labels, strict=True)
        ]
    )
    judged = COCOeval(given, results, "bbox")
    judged.params.areaRng, judged.params.areaRngLbl = [[0, 1e10]], ["all"]
    judged.evaluate()
    judged.accumulate()
    capsys.readouterr()
    return judged.eval["precision"][:, :, :, 0, -1].mean(axis=1).T


def sides(box: Array) -> list[float]:
    x0, y0, x1, y1 = box.tolist()
    return [x0, y0, x1 - x0, y1 - y0]


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_coco(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    truths, found = pictures(seed)
    expected = coco(truths, found, capsys)
    got = np.nan_to_num(precisions(truths, found), nan=-1)
    np.testing.assert_allclose(got, expected, atol=1e-9)
    assert got.max() > 0.2


def test_a_weight_is_a_picture_that_was_drawn_so_often(capsys: pytest.CaptureFixture[str]) -> None:
    truths, found = pictures(1, 12)
    weights = np.array([2, 0, 1, 3, 0, 1, 1, 1, 0, 2, 1, 0])
    several = np.repeat(np.arange(12), weights)
    expected = coco([truths[i] for i in several], [found[i] for i in several], capsys)
    got = np.nan_to_num(precisions(truths, found, weights.astype(float)), nan=-1)
    # Copies of a box follow each other: within them the precision of a single copy may be higher, by less than a recall's step.
    np.testing.assert_allclose(got, expected, atol=0.02)


TWO = TrueBoxes(np.array([[0, 0, 10, 10], [20, 0, 30, 10]], float), np.array([0, 0]))


def detections(*boxes: tuple[float, float, float, float], scores: Sequence[float], labels: Sequence[int] = ()) -> Detections:
    return Detections(np.array(boxes, float), np.array(scores), np.array(labels or [0] * len(boxes)))


@pytest.mark.parametrize(
    ("found", "at_half"),
    [
        (detections((0, 0, 10, 10), (20, 0, 30, 10), scores=[0.9, 0.8]), 1.0),
        (detections((0, 0, 10, 10), scores=[0.9]), 51 / 101),  # recall one half: 51 of 101 points at precision 1
        (detections((0, 0, 10, 10), (0, 0, 10, 10), (20, 0, 30, 10), scores=[0.9, 0.8, 0.7]), (51 + 50 * 2 / 3) / 101),
        (detections((50, 50, 60, 60), (0, 0, 10, 10), scores=[0.9, 0.8]), 51 * 0.5 / 101),
        (detections((0, 0, 10, 4), scores=[0.9]), 0.0),  # an overlap of .4
        (detections((0, 0, 10, 10), scores=[0.9], labels=[1]), 0.0),
    ],
)
def test_average_precision_by_hand(found: Detections, at_half: float) -> None:
    assert precisions([TWO], [found])[0, 0] == pytest.approx(at_half)


def test_a_box_counts_from_an_overlap_on() -> None:
    """Overlaps of .7 and 1: found at .5 to .7 and at all thresholds."""
    found = detections((0, 0, 10, 7), (20, 0, 30, 10), scores=[0.9, 0.8])
    expected = np.where(THRESHOLDS < 0.701, 1.0, 51 * 0.5 / 101)
    np.testing.assert_allclose(precisions([TWO], [found])[0], expected)
    assert np.isnan(precisions([TWO], [found])[1:]).all(), "no true box of the others"


def test_the_served_score_is_that_of_the_best_f1() -> None:
    found = detections((0, 0, 10, 10), (50, 50, 60, 60), (20, 0, 30, 10), (70, 0, 80, 9), scores=[0.9, 0.8, 0.7, 0.2])
    assert best_score(match_boxes([TWO], [found], np.zeros(1, int), 1, 1)) == 0.7
    nothing = detections((50, 50, 60, 60), scores=[0.9])
    assert best_score(match_boxes([TWO], [nothing], np.zeros(1, int), 1, 1)) == 0.3


def test_values_hold_boxes_and_cells_give_them_back() -> None:
    truth = TrueBoxes(np.array([[0.5, 0.25, 2, 1.5], [1, 1, 4, 2]]), np.array([1, 0]))
    values = box_values(truth, 8)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(true_boxes(values).boxes, truth.boxes)
    np.testing.assert_array_equal(true_boxes(values).labels, truth.labels)
    grid, scores = (2, 4), np.full((8, 2 + 4), -9.0, np.float32)
    for label, box, cell in zip(truth.labels, truth.boxes, (0, 6), strict=True):
        x, y = cell % 4 + 0.5, cell // 4 + 0.5
        scores[cell, label], scores[cell, 2:] = 3.0 + label, (x - box[0], y - box[1], box[2] - x, box[3] - y)
    found = decode_boxes(box_probabilities(scores), grid, BoxFilter(0.5))
    np.testing.assert_allclose(found.boxes, truth.boxes, atol=1e-6)
    assert found.labels.tolist() == [1, 0]
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-4)), 1 / (1 + np.exp(-3))], rtol=1e-6)
    assert mean_average_precision(values, scores, grid) == pytest.approx(1)
    assert mean_average_precision(box_values(TrueBoxes(np.zeros((0, 4)), np.zeros(0, int)), 8), scores, grid) == 0


def test_the_surer_of_two_boxes_of_a_class_stays() -> None:
    """Cells 0 and 1 have the same box, cell 2 has it in another class, and cell 3 one beside it."""
    probabilities = np.zeros((4, 2 + 4), np.float32)
    box = np.array([0, 0, 3, 1], np.float32)
    for cell, (label, sure) in enumerate([(0, 0.6), (0, 0.9), (1, 0.5), (0, 0.7)]):
        mine = box if cell < 3 else np.array([3, 0, 4, 1], np.float32)
        probabilities[cell, label] = sure
        probabilities[cell, 2:] = (cell + 0.5 - mine[0], 0.5, mine[2] - cell - 0.5, 0.5)
    found = decode_boxes(probabilities, (1, 4), BoxFilter(0.4))
    assert (found.labels.tolist(), found.scores.tolist()) == ([0, 0, 1], pytest.approx([0.9, 0.7, 0.5]))
    assert decode_boxes(probabilities, (1, 4), BoxFilter(0.4, most=1)).scores.tolist() == pytest.approx([0.9])
    assert len(decode_boxes(probabilities, (1, 4), BoxFilter(0.4, max_overlap=1.0)).scores) == 4
    assert len(decode_boxes(probabilities, (1, 4), BoxFilter(0.95)).scores) == 0


def test_overlaps() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 4, 2], [0, 0, 0, 0]])
    np.testing.assert_allclose(overlaps(boxes[:1], boxes), [[1, 1 / 7, 0, 0]])
