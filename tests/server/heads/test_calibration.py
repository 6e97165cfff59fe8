"""Temperatures: the ones that scores were multiplied by are found; those of a fold never come from it."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_server.heads.evaluation import calibration
from topwork_server.plugin_api.trainer import Target
from topwork_server.types import Array


def calibrated(rows: int, seed: int = 0) -> tuple[Array, Array]:
    """Logits of which classes are drawn: their temperature is 1."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 2, (rows, 4)).astype(np.float32)
    noise = random.gumbel(size=scores.shape)
    return scores, (scores + noise).argmax(axis=1)


@pytest.mark.parametrize("factor", [0.25, 1.0, 5.0])
def test_the_temperature_of_too_sure_logits_is_found(factor: float) -> None:
    scores, values = calibrated(5000)
    _, served = calibration.temperatures(scores * factor, values, Target.CLASSES, np.zeros(5000, int), np.ones(5000))
    assert served == pytest.approx(factor, rel=0.08)


def test_few_rows_do_little_harm_to_what_is_calibrated() -> None:
    """Of 10 rows at a time: new rows lose a fortieth of log loss at most. A prior of twice the deviation costs more than that."""
    scores, values = calibrated(4000, seed=1)

    def mean_loss(temperature: float) -> float:
        return float(calibration.log_losses(scores, values, Target.CLASSES, temperature).mean())

    found = []
    for seed in range(60):
        few, truth = calibrated(10, seed=100 + seed)
        found.append(calibration.temperatures(few, truth, Target.CLASSES, np.zeros(10, int), np.ones(10))[1])
    assert np.mean([mean_loss(temperature) for temperature in found]) - mean_loss(1.0) < 0.025


def test_forty_rows_that_are_too_sure_are_cooled() -> None:
    for seed in range(10):
        few, truth = calibrated(40, seed=200 + seed)
        _, served = calibration.temperatures(few * 3, truth, Target.CLASSES, np.zeros(40, int), np.ones(40))
        assert 1.6 < served < 4.5


def test_the_temperature_of_labels_is_found() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(0, 2, (3000, 3)).astype(np.float32)
    values = (random.random(scores.shape) < 1 / (1 + np.exp(-scores))).astype(np.float32)
    _, served = calibration.temperatures(scores * 3, values, Target.LABELS, np.zeros(3000, int), np.ones(3000))
    assert served == pytest.approx(3, rel=0.1)


def test_of_many_rows_a_part_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, values = calibrated(20_000)
    monkeypatch.setattr(calibration, "MOST_SCORES", 20_000)
    _, served = calibration.temperatures(scores * 3, values, Target.CLASSES, np.zeros(20_000, int), np.ones(20_000))
    assert served == pytest.approx(3, rel=0.1)


def test_a_fold_is_scaled_by_the_others() -> None:
    """The first fold's scores are four times too sure: that moves the temperature of the second, not its own."""
    scores, values = calibrated(4000)
    parts = np.repeat([0, 1], 2000)
    scores[:2000] *= 4
    of_rows, served = calibration.temperatures(scores, values, Target.CLASSES, parts, np.ones(len(parts)))
    assert of_rows[0, 0] == pytest.approx(1, rel=0.1)
    assert of_rows[-1, 0] == pytest.approx(4, rel=0.1)
    assert 1 < served < 4


def test_answers_without_an_error_do_not_ask_for_boundless_confidence() -> None:
    scores = np.tile([1.0, 0], (20, 1)).astype(np.float32)
    _, served = calibration.temperatures(scores, np.zeros(20, int), Target.CLASSES, np.zeros(20, int), np.ones(20))
    assert 0.15 < served < 0.8


def test_probabilities_of_great_scores_are_finite() -> None:
    great = np.array([[1e4, -1e4], [0, 0]], np.float32)
    assert calibration.probabilities(great, Target.CLASSES).tolist() == [[1, 0], [0.5, 0.5]]
    assert calibration.probabilities(great, Target.LABELS) == pytest.approx(np.array([[1, 0], [0.5, 0.5]]))
    values = np.array([[0, 1], [0, 1]], np.float32)
    assert calibration.log_losses(great, values, Target.LABELS) == pytest.approx([1e4, np.log(2)], rel=1e-5)


def test_a_reliability_curve_counts_every_row_once() -> None:
    found = calibration.reliability_curve(np.array([0.52, 0.53, 0.99, 1.0]), np.array([True, False, True, True]), np.ones(4))
    assert [(one.count, one.accuracy) for one in found] == [(2, 0.5), (2, 1.0)]
    assert found[0].confidence == pytest.approx(0.525)
