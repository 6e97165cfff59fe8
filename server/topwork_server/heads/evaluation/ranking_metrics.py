"""AUROC and average precision of weighted rows: one sort a class, then sums along it for all resamples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.types import Array


@dataclass(frozen=True)
class RankedScores:
    """Rows in ascending order of one class's score. `positives`: where in that order its rows are; `first`, `last`: half-open,
    the rows whose scores are the same as theirs."""

    order: Array
    positives: Array
    first: Array
    last: Array


def ranked(scores: Array, positive: Array) -> RankedScores:
    """(n,) scores and bool."""
    order = np.argsort(scores, kind="stable")
    ascending, positives = scores[order], np.flatnonzero(positive[order])
    edges = np.concatenate([[0], np.flatnonzero(np.diff(ascending)) + 1, [len(order)]])
    tie = np.searchsorted(edges, positives, side="right") - 1
    return RankedScores(order, positives, edges[tie], edges[tie + 1])


def auroc_and_precision(ranked: RankedScores, weights: Array) -> tuple[Array, Array]:
    """(b, n) float32 weights of rows to two (b,): the probability that a positive stands above a negative, ties as a half (Hanley
    and McNeil 1982); and precision averaged over the positives, without interpolation, ties at their worst. NaN without
    positives; AUROC without negatives, too."""
    below = np.zeros((len(weights), len(ranked.order) + 1), np.float32)
    np.cumsum(weights[:, ranked.order], axis=1, out=below[:, 1:])
    of_positives = weights[:, ranked.order[ranked.positives]].astype(np.float64)
    found = np.zeros((len(weights), len(ranked.positives) + 1))
    np.cumsum(of_positives, axis=1, out=found[:, 1:])
    start, end = np.searchsorted(ranked.positives, ranked.first), np.searchsorted(ranked.positives, ranked.last)
    positives, everything = found[:, -1], below[:, -1].astype(np.float64)
    lower = below[:, ranked.first] - found[:, start]
    level = below[:, ranked.last] - below[:, ranked.first] - (found[:, end] - found[:, start])
    above = found[:, -1:] - found[:, start]
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (of_positives * (lower + level / 2)).sum(axis=1) / (positives * (everything - positives))
        share = above / (everything[:, None] - below[:, ranked.first])
        precision = np.where(of_positives > 0, of_positives * share, 0).sum(axis=1) / positives
    return area, precision
