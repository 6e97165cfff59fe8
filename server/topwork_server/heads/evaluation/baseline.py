"""Baseline predictions that ignore the features: the majority class or the mean of the items that the heads were trained on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from topwork_server.heads.evaluation.evaluation_data import HeldOutPredictions
from topwork_server.heads.evaluation.span_metrics import right_answers
from topwork_server.plugin_api import splits
from topwork_server.plugin_api.trainer import Examples, Target
from topwork_server.types import Array


def baseline(examples: Examples, answers: HeldOutPredictions, learnt: Examples | None) -> HeldOutPredictions:
    """Predict the frequencies of classes or labels, the mean of numbers, and for SPAN the first rows, as many as answers have.

    They are computed from `learnt`, or for each fold from the rows outside it.
    """
    scores = np.zeros(answers.scores.shape, answers.scores.dtype)
    for fold in np.unique(answers.folds):
        here = answers.folds == fold
        known = learnt or examples.take(splits.rest(examples.count, answers.rows[here]))
        if known.count:
            scores[here] = SCORES[examples.target](known, examples.items[answers.rows[here]])
    return HeldOutPredictions(answers.rows, scores, answers.folds)


def _frequencies(learnt: Examples, items: Array) -> Array:
    counts = np.bincount(learnt.values, minlength=len(learnt.names)) + 0.5
    return np.asarray(np.log(counts / counts.sum()))


def _shares(learnt: Examples, items: Array) -> Array:
    positive = (learnt.values > 0).sum(axis=0)
    return np.asarray(np.log((positive + 0.5) / (learnt.count - positive + 0.5)))


def _mean(learnt: Examples, items: Array) -> Array:
    return np.asarray(learnt.values.mean(axis=0, dtype=np.float64))


def _first_rows(learnt: Examples, items: Array) -> Array:
    """Give (rows, 2) logits that point at the first row of each item and at the end of an answer of average length."""
    edges = _edges(learnt.items)
    answers = [right_answers(learnt.values[start:end]) for start, end in pairwise(edges)]
    lengths = [end - start for spans in answers for start, end in spans]
    usual = max(1, round(float(np.mean(lengths)))) if lengths else 1
    starts = _edges(items)[:-1]
    rows = np.diff(_edges(items))
    scores = np.full((len(items), 2), -20.0)
    scores[starts, 0] = 20.0
    scores[starts + np.minimum(usual, rows) - 1, 1] = 20.0
    return scores


def _edges(items: Array) -> Array:
    edges: Array = np.concatenate([[0], np.flatnonzero(np.diff(items)) + 1, [len(items)]])
    return edges


SCORES: dict[Target, Callable[[Examples, Array], Array]] = {
    Target.CLASSES: _frequencies,
    Target.LABELS: _shares,
    Target.NUMBERS: _mean,
    Target.SPAN: _first_rows,
}
