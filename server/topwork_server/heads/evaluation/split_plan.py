"""Splits examples into training and test rows: folds, or one split, and the parts of a learning curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.plugin_api import splits
from topwork_server.plugin_api.trainer import Examples, Target
from topwork_server.types import Array

USUAL_FOLDS = 5
MANY_ITEMS = 20_000  # beyond so many, one split of a fifth is accurate enough
MANY_PICTURES = 300  # the same of a detector
PARTS = 16  # of a fold: the learning curve uses 1, 2, 4 and 8 of them
FEWEST_ITEMS = 8  # of a point of the learning curve
CURVE_ITEMS = 300  # up to so many, every fold has a curve of its own: one fold alone tests few


@dataclass(frozen=True)
class SplitPlan:
    """Row positions, ascending: head i is trained on train[i] and evaluated on test[i].

    curve[s][i] is a part of train[i], of the first folds or of all, that grows with s; train[i] itself is not among them. All are
    empty where nothing can be evaluated: `estimate` says why.
    """

    test: list[Array]
    train: list[Array]
    curve: list[list[Array]]
    estimate: str


def plan_splits(examples: Examples, folds: int, seed: int) -> SplitPlan:
    """Plan the splits. `folds` 0: five, or one split of a fifth where there are many items or pictures; 1: one split of a fifth.

    A class that occurs in a single group is always trained on and never tested.
    """
    items = len(np.unique(examples.items))
    single = folds == 1 or (folds == 0 and items > (MANY_PICTURES if examples.target is Target.BOXES else MANY_ITEMS))
    testable = testable_rows(examples)
    if len(np.unique(examples.groups)) < 2 or not testable.any():
        return SplitPlan([], [], [], "nothing could be evaluated: no class has two examples that share no group")
    parts = splits.folds(examples, USUAL_FOLDS if folds < 2 else folds, seed)
    held = [part[testable[part]] for part in parts if testable[part].any()]
    held = held[:1] if single else held
    train = [splits.rest(examples.count, part) for part in held]
    every = items <= CURVE_ITEMS and examples.target is not Target.BOXES  # a detector learns for minutes
    grown = [_grown(examples, rows, seed) for rows in (train if every else train[:1])]
    sizes = [many for many in grown[0] if all(many in parts for parts in grown)]
    return SplitPlan(held, train, [[parts[many] for parts in grown] for many in sizes], _estimate(examples, held, items))


def testable_rows(examples: Examples) -> Array:
    """Tell which rows can be tested, (n,) bool: those whose class another group has, too; all where items have several rows."""
    groups = examples.groups
    if examples.target is not Target.CLASSES or len(np.unique(examples.items)) < examples.count:
        return np.ones(examples.count, bool)
    first, last = (np.full(int(examples.values.max()) + 1, start, np.int64) for start in (groups.max(), groups.min()))
    np.minimum.at(first, examples.values, groups)
    np.maximum.at(last, examples.values, groups)
    several: Array = (first != last)[examples.values]
    return several


def _grown(examples: Examples, train: Array, seed: int) -> dict[int, Array]:
    """Grow nested parts of the training rows, by how many sixteenths they are."""
    training = examples.take(train)
    if len(np.unique(training.groups)) < 2:
        return {}
    parts = splits.folds(training, PARTS, seed)
    grown = {many: train[np.sort(np.concatenate(parts[:many]))] for many in (1, 2, 4, 8) if many < len(parts)}
    return {many: rows for many, rows in grown.items() if _learnable(examples, rows)}


def _learnable(examples: Examples, rows: Array) -> bool:
    """Tell whether rows suffice for a point of the curve: enough items, and two classes."""
    if len(np.unique(examples.items[rows])) < FEWEST_ITEMS:
        return False
    return examples.target is not Target.CLASSES or len(np.unique(examples.values[rows])) > 1


def _estimate(examples: Examples, held: list[Array], items: int) -> str:
    groups = len(np.unique(examples.groups))
    grouped = f" in {groups:,} groups" if groups < items else ""
    if len(held) > 1:
        return f"{len(held)}-fold cross-validation over {items:,} items{grouped}"
    return f"one split: {len(np.unique(examples.items[held[0]])):,} of {items:,} items held out{grouped}"
