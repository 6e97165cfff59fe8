"""Recall of searches between items and captions that were held out from an alignment, in both directions.

The gallery of a search is what was held out together: the items of its fold, or of the test. Equal captions are one, and any item
that has it is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb

import numpy as np
from topwork.heads import MetricValue

from topwork_server.errors import TopworkError
from topwork_server.heads.evaluation import bootstrap
from topwork_server.heads.evaluation.evaluation_data import Evaluation, HeldOutPredictions
from topwork_server.plugin_api.trainer import Examples
from topwork_server.types import Array

#: A search counts as right where one of so many results is.
DEPTHS = (1, 5, 10)
MAIN_DEPTH = 5
DIRECTIONS = ("by text", "by item")


@dataclass(frozen=True)
class Searches:
    """Searches in one direction. All arrays have one entry a search: `ranks` is the number of results before the first right one,
    `right` how many are right of the `gallery`; `units` are the groups that a bootstrap draws."""

    ranks: Array
    right: Array
    gallery: Array
    units: Array

    def hits(self, depth: int) -> Array:
        return np.asarray(self.ranks < depth, np.float64)

    def chance(self, depth: int) -> Array:
        """The probability that one of the first `depth` results of a random order is right."""
        pairs = zip(self.gallery.tolist(), self.right.tolist(), strict=True)
        return np.array([1 - comb(of - right, depth) / comb(of, depth) if depth < of else 1.0 for of, right in pairs])


def evaluate_retrieval(examples: Examples, predictions: HeldOutPredictions, seed: int) -> Evaluation:
    """Evaluate held-out vectors by the recall of searches; the baseline is a random order."""
    by_direction = searches(examples, predictions)
    found = recalls(by_direction, seed)
    chances = tuple(MetricValue(one.name, value, value, value) for one, value in zip(found, _chances(by_direction), strict=True))
    warning = f"{found[0].name} is not clearly better than by chance ({chances[0].value:.3f})"
    return Evaluation(found, chances, warnings=() if found[0].low > chances[0].value else (warning,))


def main_recall(examples: Examples, predictions: HeldOutPredictions, seed: int) -> MetricValue:
    """Compute only the main metric."""
    return recalls(searches(examples, predictions), seed)[0]


def searches(examples: Examples, predictions: HeldOutPredictions) -> tuple[Searches, Searches]:
    """Search by each held-out caption for items, and by each item for captions, within its fold."""
    if not np.isfinite(predictions.scores).all():
        raise TopworkError("the head gave scores that are not finite", remedy="report it to the trainer's author")
    units = np.unique(examples.groups[predictions.rows], return_inverse=True)[1]
    parts = [_of_fold(examples, predictions, predictions.folds == fold, units) for fold in np.unique(predictions.folds)]
    by_text, by_item = (Searches(*map(np.concatenate, zip(*of, strict=True))) for of in zip(*parts, strict=True))
    return by_text, by_item


def _of_fold(examples: Examples, predictions: HeldOutPredictions, here: Array, units: Array) -> tuple[tuple[Array, ...], ...]:
    captions, caption = np.unique(examples.values[predictions.rows[here]], axis=0, return_inverse=True)
    caption = caption.ravel()
    cosines = predictions.scores[here].astype(np.float64) @ captions.T.astype(np.float64)
    own = caption[:, None] == np.arange(len(captions))
    best = np.where(own, cosines, -np.inf)
    by_text = (_before(cosines, own, best.max(axis=0)[None], 0), own.sum(axis=0), np.full(len(captions), len(caption)))
    by_item = (
        _before(cosines, own, best.max(axis=1)[:, None], 1),
        np.ones(len(caption), int),
        np.full(len(caption), len(captions)),
    )
    first = np.unique(caption, return_index=True)[1]
    return (*by_text, units[here][first]), (*by_item, units[here])


def _before(cosines: Array, own: Array, best: Array, axis: int) -> Array:
    """Count the wrong results that come before the first right one; those of equal cosine count, too."""
    return np.asarray(((cosines >= best) & ~own).sum(axis=axis))


def recalls(by_direction: tuple[Searches, Searches], seed: int) -> tuple[MetricValue, ...]:
    """Compute the recalls with intervals over groups: the mean of both directions, the main depth first, then each direction."""
    count = int(max(one.units.max() for one in by_direction)) + 1

    def values(weights: Array) -> dict[str, Array]:
        of_each = [[_weighted(one, one.hits(depth), weights) for depth in DEPTHS] for one in by_direction]
        return dict(_named(of_each))

    found = bootstrap.bootstrap_intervals(values, count, bootstrap.RESAMPLES, seed, lambda name: (0.0, 1.0))
    return tuple(MetricValue(name, one.value, one.low, one.high) for name, one in found.items())


def _weighted(one: Searches, values: Array, weights: Array) -> Array:
    of_searches = weights[:, one.units]
    with np.errstate(invalid="ignore"):
        return np.asarray(of_searches @ values / of_searches.sum(axis=1))


def _chances(by_direction: tuple[Searches, Searches]) -> list[float]:
    of_each = [[np.array(one.chance(depth).mean()) for depth in DEPTHS] for one in by_direction]
    return [float(value) for _, value in _named(of_each)]


def _named(of_each: list[list[Array]]) -> Iterator[tuple[str, Array]]:
    """Name the values of both directions, which have one for each depth."""
    order = (MAIN_DEPTH, *(depth for depth in DEPTHS if depth != MAIN_DEPTH))
    for depth in order:
        yield f"recall at {depth}", (of_each[0][DEPTHS.index(depth)] + of_each[1][DEPTHS.index(depth)]) / 2
    for direction, mine in zip(DIRECTIONS, of_each, strict=True):
        for depth, value in zip(DEPTHS, mine, strict=True):
            yield f"recall at {depth} {direction}", value
