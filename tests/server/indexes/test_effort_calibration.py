"""Recall is what it says: counted against exact search, on rows that the index never saw."""

from __future__ import annotations

import numpy as np
import pytest
import toys_index
from lance_rows import clustered
from topwork_server import Metric
from topwork_server.indexes.effort_calibration import calibrate, prepare_calibration
from topwork_server.inference.output_format import normalize


def exact(queries, rows, metric, k):
    if metric is Metric.L2:
        far = ((queries[:, None].astype(float) - rows) ** 2).sum(2)
        return np.argsort(far, axis=1, kind="stable")[:, :k]
    return np.argsort(-(queries.astype(float) @ rows.T.astype(float)), axis=1, kind="stable")[:, :k]


class Careless(toys_index.Rows):
    """Finds only among the first `effort` rows: what a small effort misses is known."""

    def efforts(self):
        return (50, 100, 200, 400)

    def search(self, queries, k, *, effort, threads, mask=None):
        few = toys_index.Rows(self._rows[:effort], self._metric)
        return few.search(queries, k, effort=0, threads=threads, mask=None if mask is None else mask[: -(-effort // 8)])


@pytest.mark.parametrize("metric", list(Metric))
def test_recall_is_the_share_of_the_ten_nearest_that_an_effort_finds(metric):
    rows, queries = clustered(400), clustered(60, seed=1)
    if metric is Metric.COSINE:
        rows, queries = normalize(rows), normalize(queries)
    best = exact(queries, rows, metric, 10)
    asked = prepare_calibration(queries, rows[best], metric)
    measured = calibrate(Careless(rows, metric), asked, lambda p: rows[p], metric, 1.0, 1, lambda f, m: None)
    assert [one.effort for one in measured] == [50, 100, 200, 400]
    for one in measured:
        assert one.recall == pytest.approx((best < one.effort).mean())
        assert one.qps > 0


def test_efforts_beyond_the_target_are_not_tried():
    rows, queries = clustered(400), clustered(60, seed=1)
    asked = prepare_calibration(queries, rows[exact(queries, rows, Metric.L2, 10)], Metric.L2)
    measured = calibrate(Careless(rows, Metric.L2), asked, lambda p: rows[p], Metric.L2, 0.4, 1, lambda f, m: None)
    assert measured[-1].recall >= 0.4
    assert all(one.recall < 0.4 for one in measured[:-1])
    assert measured[-1].effort == 200


def test_equal_rows_do_not_lower_the_recall():
    """Forty copies of each row: which ten of them are found says nothing of the index."""
    rows = np.repeat(clustered(10), 40, axis=0)[np.random.default_rng(0).permutation(400)]
    queries = clustered(10)
    asked = prepare_calibration(queries, rows[exact(queries, rows, Metric.L2, 10)], Metric.L2)
    backwards = toys_index.Rows(rows[::-1], Metric.L2)
    measured = calibrate(backwards, asked, lambda p: rows[::-1][p], Metric.L2, 0.95, 1, lambda f, m: None)
    assert measured[-1].recall == 1.0
