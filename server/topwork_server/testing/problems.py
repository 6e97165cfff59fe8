"""Small problems that any trainer should learn, for `TrainerContract`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from topwork_server.plugin_api.trainer import Examples, FeatureView, Target
from topwork_server.types import Array

CENTRES = 4
LENGTH = 8  # rows of an item whose answer is a span


def problem(target: Target, count: int = 120, dim: int = 16, seed: int = 0, *, described: bool = False) -> Examples:
    """About `count` rows of dim `dim` (noise of 0.5) around four centers that every seed shares, all arrays read-only.

    CLASSES: the center; with `described` each class is described by its center. LABELS: three sets of centers. NUMBERS: one a
    center, with noise of 0.1. SPAN: items of 8 rows; an answer starts at a row of the third center, ends at one of the last.
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
    rows = (centers[near] + 0.5 * random.standard_normal((len(near), dim))).astype(np.float32)
    names = {Target.CLASSES: "abcd", Target.LABELS: "xyz", Target.NUMBERS: "", Target.SPAN: ""}[target]
    texts = (centers.astype(np.float32),) if described else ()
    unlabeled = (FeatureView("pooled", "row", rows[: count // 10] + np.float32(0.1)),)
    made = Examples((FeatureView("pooled", "row", rows),), target, tuple(names), values, items, items, unlabeled, texts)
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


def quality(examples: Examples, scores: Array) -> float:
    """Return a quality of at most 1: accuracy of CLASSES, of LABELS over all pairs, and of both ends of a SPAN; R2 of NUMBERS."""
    values = examples.values
    if examples.target is Target.CLASSES:
        return float((scores.argmax(axis=1) == values).mean())
    if examples.target is Target.LABELS:
        return float(((scores > 0) == (values > 0.5)).mean())
    if examples.target is Target.NUMBERS:
        return float(1 - ((scores - values) ** 2).mean() / values.var())
    found, true = (array.reshape(-1, LENGTH, 2).argmax(axis=1) for array in (scores, values))
    return float((found == true).mean())


def with_rows(examples: Examples, change: Any) -> Examples:
    """The same with `change(rows)` for the rows of every view."""
    views, unlabeled = (
        tuple(FeatureView(view.tap, view.pooling, np.ascontiguousarray(change(view.rows), np.float32)) for view in some)
        for some in (examples.views, examples.unlabeled)
    )
    return replace(examples, views=views, unlabeled=unlabeled)


def few(examples: Examples, each: int) -> Array:
    """Positions of `each` rows of each center; of a SPAN, of two items."""
    if examples.target is Target.SPAN:
        return np.arange(2 * LENGTH)
    keys = examples.values if examples.target is Target.CLASSES else np.round(examples.values)
    _, found = np.unique(keys, axis=0, return_inverse=True)
    return np.sort(np.concatenate([np.flatnonzero(found.ravel() == key)[:each] for key in range(found.max() + 1)]))
