"""Small problems that any trainer should learn, for `TrainerContract`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from topwork_server.plugin_api.boxes import BoxFilter, box_probabilities, decode_boxes, overlaps, true_boxes
from topwork_server.plugin_api.trainer import Examples, FeatureView, Target
from topwork_server.types import Array

CENTRES = 4
LENGTH = 8  # rows of an item whose answer is a span
HIDDEN, TEXT_DIM = 10, 64  # numbers behind a row and its caption, and of a caption
GRID = (2, 3)  # cells of a picture with a box


def problem(target: Target, count: int = 120, dim: int = 16, seed: int = 0, *, described: bool = False) -> Examples:
    """About `count` rows of dim `dim` (noise of 0.5) around four centers that every seed shares, all arrays read-only.

    CLASSES: the center; with `described` each class is described by its center. LABELS: three sets of centers. NUMBERS: one a
    center, with noise of 0.1. SPAN: items of 8 rows; an answer starts at a row of the third center, ends at one of the last.
    BOXES: pictures of 6 cells, each with a box around one cell, which is of the third center or the last, as its class says.
    VECTORS: the direction of what six numbers give by one map, where the row is what they give by another.
    """
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(99).standard_normal((CENTRES, dim))
    near = random.permutation(np.arange(count) % CENTRES)
    items = np.arange(count)
    values: Array = near
    if target is Target.LABELS:
        values = np.stack([near < 2, near % 2 == 1, near == 0], axis=1).astype(np.float32)
    elif target is Target.NUMBERS:
        values = (np.array([1, -2, 0.5, 4])[near] + 0.1 * random.standard_normal(count))[:, None].astype(np.float32)
    elif target is Target.SPAN:
        items = np.repeat(np.arange(count // LENGTH), LENGTH)
        near, values = _answers(count // LENGTH, random)
    elif target is Target.BOXES:
        items = np.repeat(np.arange(count // math.prod(GRID)), math.prod(GRID))
        near, values = _boxes(count // math.prod(GRID), random)
    rows = (centers[near] + 0.5 * random.standard_normal((len(near), dim))).astype(np.float32)
    if target is Target.VECTORS:
        rows, values = _vectors(count, dim, random)
    names = {Target.CLASSES: "abcd", Target.LABELS: "xyz", Target.BOXES: "xy"}.get(target, "")
    texts = (centers.astype(np.float32),) if described else ()
    unlabeled = (FeatureView("pooled", "row", rows[: count // 10] + np.float32(0.1)),)
    grid = GRID if target is Target.BOXES else None
    made = Examples(
        (FeatureView("pooled", "row", rows),), target, tuple(names), values, items, items, unlabeled, texts, grid=grid
    )
    for array in (rows, values, items, unlabeled[0].rows, *texts):
        array.flags.writeable = False
    return made


def _answers(items: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Return to which center each row belongs, and (rows, 2) values."""
    near, values = random.integers(2, size=(items, LENGTH)), np.zeros((items, LENGTH, 2), np.float32)
    start = random.integers(LENGTH - 1, size=items)
    end = random.integers(start + 1, LENGTH)
    every = np.arange(items)
    near[every, start], near[every, end] = 2, 3
    values[every, start, 0] = values[every, end, 1] = 1
    return near.ravel(), values.reshape(-1, 2)


def _boxes(pictures: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Return to which center each row belongs, and (rows, 5) values."""
    cells = math.prod(GRID)
    near, values = random.integers(2, size=(pictures, cells)), np.zeros((pictures, cells, 5), np.float32)
    where, label, every = random.integers(cells, size=pictures), random.integers(2, size=pictures), np.arange(pictures)
    near[every, where] = 2 + label
    y, x = np.divmod(where, GRID[1])
    values[:, 1:, 0] = -1
    values[:, 0] = np.stack([label, x, y, x + 1, y + 1], axis=1)
    return near.ravel(), values.reshape(-1, 5)


def _vectors(count: int, dim: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Return rows (count, dim) and values (count, TEXT_DIM), whose maps every seed shares."""
    maps = np.random.default_rng(98)
    known, (to_rows, to_values) = random.standard_normal((count, HIDDEN)), maps.standard_normal((2, HIDDEN, max(dim, TEXT_DIM)))
    rows = known @ to_rows[:, :dim] + 0.1 * random.standard_normal((count, dim))
    values = known @ to_values[:, :TEXT_DIM] + 1.0
    return rows.astype(np.float32), (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def quality(examples: Examples, scores: Array) -> float:
    """Return a quality of at most 1: accuracy of CLASSES, of LABELS over all pairs, and of both ends of a SPAN; R2 of NUMBERS; of
    BOXES the share of pictures whose surest box is that of the truth, by more than half of both; of VECTORS the share of rows to
    which no other value is nearer than their own."""
    values = examples.values
    if examples.target is Target.CLASSES:
        return float((scores.argmax(axis=1) == values).mean())
    if examples.target is Target.LABELS:
        return float(((scores > 0) == (values > 0.5)).mean())
    if examples.target is Target.NUMBERS:
        return float(1 - ((scores - values) ** 2).mean() / values.var())
    if examples.target is Target.BOXES:
        return _surest_boxes(values, scores)
    if examples.target is Target.VECTORS:
        return float(((scores @ values.T).argmax(axis=1) == np.arange(len(values))).mean())
    found, true = (array.reshape(-1, LENGTH, 2).argmax(axis=1) for array in (scores, values))
    return float((found == true).mean())


def _surest_boxes(values: Array, scores: Array) -> float:
    cells, right = math.prod(GRID), []
    for start in range(0, len(values), cells):
        part = slice(start, start + cells)
        truth, found = true_boxes(values[part]), decode_boxes(box_probabilities(scores[part]), GRID, BoxFilter(most=1))
        same = found.labels.tolist() == truth.labels.tolist()
        right.append(same and bool((overlaps(found.boxes, truth.boxes) > 0.5).all()))
    return float(np.mean(right))


def with_rows(examples: Examples, change: Any) -> Examples:
    """The same with `change(rows)` for the rows of every view."""
    views, unlabeled = (
        tuple(FeatureView(view.tap, view.pooling, np.ascontiguousarray(change(view.rows), np.float32)) for view in some)
        for some in (examples.views, examples.unlabeled)
    )
    return replace(examples, views=views, unlabeled=unlabeled)


def few(examples: Examples, each: int) -> Array:
    """Positions of `each` rows of each center; of a SPAN and of BOXES, of two items."""
    if examples.target is Target.SPAN:
        return np.arange(2 * LENGTH)
    if examples.target is Target.BOXES:
        return np.arange(2 * math.prod(GRID))
    if examples.target is Target.VECTORS:
        return np.arange(CENTRES * each)
    keys = examples.values if examples.target is Target.CLASSES else np.round(examples.values)
    _, found = np.unique(keys, axis=0, return_inverse=True)
    return np.sort(np.concatenate([np.flatnonzero(found.ravel() == key)[:each] for key in range(found.max() + 1)]))
