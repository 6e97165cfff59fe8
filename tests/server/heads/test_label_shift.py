"""Early warnings: what recent predictions tell of the classes of recent items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import sample_heads
from topwork.report import ConfusionMatrix
from topwork_server.heads.evaluation.label_shift import label_shift
from topwork_server.heads.serving import prediction_counts
from topwork_server.heads.serving.head_output import HeadOutput
from topwork_server.heads.serving.prediction_counts import PredictionCounts
from topwork_server.types import Array

NAMES = ("owl", "wren", "emu")
#: P(predicted | truth) of a head that confuses owls with wrens.
ERRS = np.array([[0.7, 0.3, 0.0], [0.1, 0.85, 0.05], [0.0, 0.1, 0.9]])


def confusion(shares: Array, count: int = 600, seed: int = 0) -> ConfusionMatrix:
    random = np.random.default_rng(seed)
    rows = [random.multinomial(round(share * count), errs) for share, errs in zip(shares, ERRS, strict=True)]
    return ConfusionMatrix(NAMES, tuple(tuple(map(int, row)) for row in rows))


def predicted(shares: Array, count: int, seed: int) -> Array:
    return np.random.default_rng(seed).multinomial(count, np.asarray(shares) @ ERRS)


def test_the_shares_of_shifted_items_are_found_through_the_errors() -> None:
    shifted = np.array([0.6, 0.3, 0.1])
    found = [label_shift(NAMES, predicted(shifted, 1500, seed), confusion(np.array([0.2, 0.5, 0.3]))) for seed in range(20)]
    inside = [[one.low <= truth <= one.high for one, truth in zip(each.shares, shifted, strict=True)] for each in found if each]
    assert np.mean(inside) > 0.85
    first = found[0]
    assert first is not None
    assert abs(first.shares[0].estimated - 0.6) < 0.08 < abs(first.shares[0].predicted - 0.6)
    assert first.warning.startswith("recent items are of other classes than the evaluated ones: owl is about ")
    assert first.p_value < 1e-6


def test_warnings_without_a_shift_are_rare() -> None:
    before = np.array([0.2, 0.5, 0.3])
    found = [label_shift(NAMES, predicted(before, 300, seed), confusion(before, seed=seed + 1000)) for seed in range(200)]
    p_values = np.array([one.p_value for one in found if one])
    assert abs((p_values < 0.1).mean() - 0.1) < 0.06
    assert sum(bool(one and one.warning) for one in found) <= 2


def test_few_predictions_say_nothing_and_joined_classes_are_one() -> None:
    assert label_shift(NAMES, np.array([20, 20, 9]), confusion(np.array([0.2, 0.5, 0.3]))) is None
    joined = ConfusionMatrix(("owl", "others"), ((40, 10), (10, 140)))
    found = label_shift(NAMES, np.array([20, 30, 50]), joined)
    assert found is not None
    assert [(one.name, one.predicted) for one in found.shares] == [("owl", 0.2), ("others", 0.8)]


def test_the_latest_predictions_count_and_those_of_another_training_do_not() -> None:
    counts, head = PredictionCounts(), sample_heads.head()
    assert counts.recent(head) is None
    rows = np.eye(2, dtype=np.float32)[[0] * 4 + [1]]
    rows[3] = np.nan
    counts.add(HeadOutput(head, probabilities=rows))
    assert counts.recent(head).tolist() == [3, 1]
    window = prediction_counts.WINDOW
    for _ in range(2):
        counts.add(HeadOutput(head, probabilities=np.tile(np.array([[0.1, 0.9]], np.float32), (window, 1))))
    assert counts.recent(head).tolist() == [0, window]
    assert counts.recent(replace(head, created=head.created + 1)) is None


def test_the_counts_of_many_heads_are_bounded() -> None:
    counts, rows = PredictionCounts(), np.eye(2, dtype=np.float32)
    for at in range(prediction_counts.MOST_HEADS + 3):
        counts.add(HeadOutput(sample_heads.head(f"head-{at}"), probabilities=rows))
    assert counts.recent(sample_heads.head("head-2")) is None
    assert counts.recent(sample_heads.head("head-3")) is not None
