"""Intervals: they hold the truth about as often as they say, and stay within what a figure can be."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_server.heads.evaluation import bootstrap, task_metrics
from topwork_server.heads.evaluation.evaluation_data import EvaluationData
from topwork_server.heads.head_types import Task
from topwork_server.types import Array

SHARE = (0.0, 1.0)


def right_or_wrong(right: Array, groups: Array) -> EvaluationData:
    scores = np.stack([~right, right], axis=1).astype(np.float32)
    rows = np.arange(len(right))
    return EvaluationData(
        Task.CLASSIFICATION, ("a", "b"), np.ones(len(right), int), scores, rows, groups, rows * 0, np.ones(len(right))
    )


def covered(truth: float, draws: list[EvaluationData]) -> float:
    found = [task_metrics.main_metric(draw, seed) for seed, draw in enumerate(draws)]
    return float(np.mean([figure.low <= truth <= figure.high for figure in found]))


def test_intervals_hold_the_truth_in_about_95_percent() -> None:
    random = np.random.default_rng(0)
    draws = [right_or_wrong(random.random(60) < 0.8, np.arange(60)) for _ in range(200)]
    assert 0.9 <= covered(0.8, draws) <= 0.99


def test_items_of_a_group_count_as_one() -> None:
    """Groups of 10 that are right or wrong together: as many items of their own would make the interval far too short."""
    random = np.random.default_rng(0)
    together = [np.repeat(random.random(40) < 0.7, 10) for _ in range(100)]
    grouped = covered(0.7, [right_or_wrong(right, np.repeat(np.arange(40), 10)) for right in together])
    single = covered(0.7, [right_or_wrong(right, np.arange(400)) for right in together])
    assert grouped >= 0.88
    assert single < 0.6


def test_all_right_is_not_certain() -> None:
    """Wilson's interval of 20 of 20: 20 / (20 + 1.96 ** 2)."""
    figure = task_metrics.main_metric(right_or_wrong(np.ones(20, bool), np.arange(20)), 0)
    assert (figure.value, figure.high) == (1.0, 1.0)
    assert figure.low == pytest.approx(20 / (20 + 1.96**2), abs=1e-4)


def test_alike_items_have_an_interval_by_one_rule_however_the_resamples_round() -> None:
    """A cost that all items share may move by what was not seen in any of them: 1.96 ** 2 / (8 + 1.96 ** 2) of the way."""
    unseen = 1.96**2 / (8 + 1.96**2)
    for cost in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 1 / 3):
        same, rounded = np.full(1000, cost), np.where(np.arange(1000) % 3, cost, np.nextafter(cost, 1))
        found = bootstrap.interval(cost, rounded, 8, SHARE)
        assert found == bootstrap.interval(cost, same, 8, SHARE)
        assert (found.low, found.high) == pytest.approx((cost * (1 - unseen), cost + (1 - cost) * unseen), abs=1e-4)
    loss = bootstrap.interval(0.7, np.full(1000, 0.7), 8, (0.0, np.inf))
    assert (loss.low, loss.high) == pytest.approx((0.7, 0.7))  # without a bound, nothing says how far it may move


def test_one_item_says_nothing() -> None:
    figure = task_metrics.main_metric(right_or_wrong(np.ones(3, bool), np.zeros(3, int)), 0)
    assert (figure.low, figure.high) == SHARE


def test_mostly_undefined_says_nothing() -> None:
    draws = np.array([0.5] * 4 + [np.nan] * 6)
    assert bootstrap.interval(0.5, draws, 30, SHARE) == bootstrap.ConfidenceInterval(0.5, 0.0, 1.0)
    assert bootstrap.interval(0.5, draws, 30, (-np.inf, np.inf)) == bootstrap.ConfidenceInterval(0.5, 0.5, 0.5)


def test_undefined_resamples_are_left_out() -> None:
    draws = np.random.default_rng(0).normal(0.5, 0.05, 1000)
    with_some = np.where(np.arange(1000) % 4, draws, np.nan)
    whole, part = (bootstrap.interval(0.5, drawn, 1000, SHARE) for drawn in (draws, with_some))
    assert part.low == pytest.approx(whole.low, abs=0.01)
    assert part.high == pytest.approx(whole.high, abs=0.01)


def test_few_resamples_give_the_interval_of_their_spread() -> None:
    draws = np.random.default_rng(0).normal(0.5, 0.05, 50)
    found = bootstrap.interval(0.5, draws, 10_000, SHARE)
    assert found.high - found.low == pytest.approx(2 * 2.01 * draws.std(ddof=1), rel=1e-3)


def test_draws_are_of_all_units_and_the_seed_decides() -> None:
    first, again, other = (np.concatenate(list(bootstrap.resamples(7, 50, seed))) for seed in (1, 1, 2))
    assert first.shape == (50, 7)
    assert (first.sum(axis=1) == 7).all()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("freedom", "quantile"), [(3, 3.182), (10, 2.228), (30, 2.042), (10_000, 1.960)])
def test_students_t(freedom: int, quantile: float) -> None:
    assert bootstrap.t_quantile(0.975, freedom) == pytest.approx(quantile, rel=2e-3)
