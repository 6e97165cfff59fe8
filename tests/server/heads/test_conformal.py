"""Quantiles of held-out scores, and what they promise of new items."""

from __future__ import annotations

import math

import numpy as np
import pytest
from topwork_server import Target
from topwork_server.errors import InvalidInput
from topwork_server.heads import conformal
from topwork_server.heads.conformal import HeldOutScores


def test_the_quantile_is_the_order_statistic_of_split_conformal_prediction() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 20.0))
    kept = HeldOutScores.of(scores, np.ones(len(scores)))
    for coverage in (0.05, 0.5, 0.9, 0.95):
        assert kept.quantile(coverage) == math.ceil(coverage * 20)
    assert math.isinf(kept.quantile(0.96))


def test_of_many_items_the_quantiles_stay_and_promise_no_less() -> None:
    scores = np.random.default_rng(0).normal(size=7321)
    kept = HeldOutScores.of(scores, np.ones(len(scores)))
    assert len(kept.scores) == conformal.MOST_KEPT
    for coverage in (0.1, 0.5, 0.9, 0.99):
        exact = np.sort(scores)[math.ceil(coverage * 7322) - 1]
        assert exact <= kept.quantile(coverage) <= np.quantile(scores, min(1, coverage + 0.002))


@pytest.mark.parametrize("coverage", [0.6, 0.8, 0.9])
def test_promises_are_kept_on_average(coverage: float) -> None:
    """Over draws of 50 held-out items and one new one."""
    random = np.random.default_rng(0)
    held = [HeldOutScores.of(random.normal(size=50), np.ones(50)).quantile(coverage) >= random.normal() for _ in range(4000)]
    assert coverage - 0.02 < np.mean(held) < coverage + 0.04


def test_a_promise_of_too_few_items_names_how_many_it_needs() -> None:
    kept = HeldOutScores.of(np.arange(10.0), np.ones(10))
    assert kept.promised("birds", 0.9) == 9
    with pytest.raises(InvalidInput, match=r"needs 19 held-out items.*'birds' has 10") as caught:
        kept.promised("birds", 0.95)
    assert "0.909" in caught.value.remedy


def test_sets_hold_all_labels_of_an_item_and_always_the_likeliest_class() -> None:
    probabilities = np.array([[0.9, 0.6, 0.1], [0.2, 0.3, 0.4]], np.float32)
    labels = np.array([[True, True, False], [False, False, False]])
    np.testing.assert_allclose(conformal.nonconformity(Target.LABELS, probabilities, labels), [0.4, 0.0], atol=1e-6)
    assert conformal.candidates(Target.LABELS, probabilities, 0.5).tolist() == [[True, True, False], [False] * 3]
    assert conformal.candidates(Target.CLASSES, probabilities, 0.5).tolist() == [[True, True, False], [False, False, True]]
