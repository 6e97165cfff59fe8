"""The linear trainer: the contract of trainers, and what is its own."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from topwork_plugins.linear import sweep
from topwork_plugins.linear.gram import principal_basis
from topwork_plugins.linear.losses import Loss, SigmoidLoss, SoftmaxLoss, SpanLoss
from topwork_plugins.linear.models import Discriminant, PenalizedLoss, Problem, Ridge, minimise
from topwork_plugins.linear.plugin import LinearHead, LinearOptions, LinearTrainer
from topwork_plugins.linear.sweep import fit_temperatures
from topwork_server.errors import InvalidInput
from topwork_server.plugin_api.options import parse
from topwork_server.plugin_api.trainer import Examples, Target
from topwork_server.testing import TrainerContract
from topwork_server.testing.problems import problem, quality, with_rows
from topwork_server.types import Array


class TestLinear(TrainerContract):
    trainer = LinearTrainer
    reads_weights = True
    floor = 0.85  # numbers: least squares of 20,000 such rows gets an R2 of 0.891


class TestLogistic(TestLinear):
    trainer = type("ClassesAlone", (LinearTrainer,), {"targets": frozenset({Target.CLASSES})})
    options = {"model": "logistic", "class_weight": "balanced"}  # noqa: RUF012

    def test_a_target_that_it_does_not_claim_is_refused(self) -> None:
        """The base class claims them all."""


def fitted(examples: Examples, subset: Array | None = None, **options: Any) -> LinearHead:
    rows = np.arange(examples.count) if subset is None else subset
    [head] = LinearTrainer.fit(examples, [rows], LinearOptions(**options), 0, 1, lambda done, words: None)
    assert isinstance(head, LinearHead)
    return head


def random_problem(loss: Loss, rows: int, dim: int) -> Problem:
    view = (
        np.random.default_rng(5).standard_normal((rows, dim)).astype(np.float32) * np.linspace(0.1, 3, dim, dtype=np.float32) + 1
    )
    everything = np.arange(rows)
    return Problem(view, everything, principal_basis(view, everything, "never"), loss)


def losses(rows: int) -> dict[str, Loss]:
    random = np.random.default_rng(2)
    marks = np.zeros((rows, 2), np.float32)
    marks[::5] = 1
    labels = (random.random((rows, 3)) < 0.3).astype(np.float32)
    weights, ones = random.uniform(0.5, 2, (rows, 3)).astype(np.float32), np.ones(rows, np.float32)
    return {
        "softmax": SoftmaxLoss(random.integers(4, size=rows), weights[:, 0], 4, ones),
        "sigmoids": SigmoidLoss(labels, weights, ones),
        "spans": SpanLoss(marks, np.arange(rows) // 4, ones),
    }


@pytest.mark.parametrize("name", ["softmax", "sigmoids", "spans"])
def test_gradients_are_right(name: str) -> None:
    made = random_problem(losses(60)[name], 60, 6)
    objective = PenalizedLoss(made, np.array([0.1, 1e-3]))
    at = objective.start() + np.random.default_rng(1).standard_normal(objective.start().shape)
    _, gradient, _ = objective(at)
    for place in [(0, 0, 1), (3, 1, 0), (6, 1, 1)]:
        step = np.zeros_like(at)
        step[place] = 1e-2
        slope = (objective(at + step)[0] - objective(at - step)[0])[place[1]] / 2e-2
        assert slope == pytest.approx(gradient[place], rel=5e-3, abs=2e-2)


@pytest.mark.parametrize("name", ["softmax", "sigmoids", "spans"])
def test_chunks_do_not_change_the_loss(name: str) -> None:
    loss = losses(60)[name]
    scores = np.random.default_rng(1).standard_normal((60, 2, loss.outputs)).astype(np.float32)
    whole, parts = scores.copy(), scores.copy()
    bounds = loss.bounds(7)
    assert len(bounds) > 4
    together = sum(loss(parts[start:end], start)[0] for start, end in itertools.pairwise(bounds))
    np.testing.assert_allclose(loss(whole, 0)[0], together, rtol=1e-5)
    np.testing.assert_allclose(whole, parts, atol=1e-6)


@pytest.mark.parametrize("name", ["softmax", "sigmoids", "spans"])
def test_minima_are_found_in_few_steps_at_all_strengths_at_once(name: str) -> None:
    objective = PenalizedLoss(random_problem(losses(200)[name], 200, 20), np.geomspace(10, 1e-4, 6))
    found = minimise(objective, objective.start(), 40, 1e-7)
    _, gradient, _ = objective(found)
    _, first, _ = objective(objective.start())
    assert (np.abs(gradient).max(axis=(0, 2)) < 2e-3 * np.abs(first).max()).all()


def test_the_discriminant_is_that_of_the_textbook() -> None:
    random = np.random.default_rng(0)
    classes = random.integers(3, size=90)
    made = random_problem(SoftmaxLoss(classes, np.ones(90, np.float32), 3, np.ones(90, np.float32)), 90, 5)
    rows = made.view.astype(np.float64)
    means = np.stack([rows[classes == at].mean(axis=0) for at in range(3)])
    within = (rows - means[classes]).T @ (rows - means[classes])
    unit = ((rows - rows.mean(axis=0)) ** 2).mean()
    inverse = np.linalg.inv((within + 90 * 0.3 * unit * np.eye(5)) / 87)
    priors = made.loss.bias()
    expected = rows @ inverse @ means.T - 0.5 * np.einsum("kd,de,ke->k", means, inverse, means) + priors
    weight, bias = made.frame.to_raw(Discriminant(made).coefficients(np.array([0.3]))[:, 0])
    found = rows @ weight.T + bias
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=1e-4)


@pytest.mark.parametrize("dim", [6, 60])
def test_ridge_is_that_of_the_textbook(dim: int) -> None:
    made = random_problem(losses(40)["sigmoids"], 40, dim)
    ridge = Ridge(made)
    rows = made.view - made.view.mean(axis=0, dtype=np.float64)
    unit = (rows**2).mean()
    targets = made.loss.targets() - made.loss.targets().mean(axis=0)
    expected = np.linalg.solve(rows.T @ rows + 40 * 0.2 * unit * np.eye(dim), rows.T @ targets)
    weight, _ = made.frame.to_raw(ridge.coefficients(np.array([0.2]))[:, 0] / ridge.scale)
    np.testing.assert_allclose(weight.T, expected, atol=1e-4)


@pytest.mark.parametrize(("rows", "dim"), [(50, 8), (8, 50)])
def test_frames_diagonalise_and_fold_back(rows: int, dim: int) -> None:
    view = np.random.default_rng(0).standard_normal((rows, dim)).astype(np.float32) * 1e-12 + 5e-12
    view[:, 3] = 7  # a constant
    seen = principal_basis(view, np.arange(rows), "auto")
    found = seen.project(view, np.arange(rows)).astype(np.float64)
    scale = seen.spectrum.max()
    np.testing.assert_allclose(found.T @ found, np.diag(seen.spectrum), atol=1e-4 * scale)
    coefficients = np.random.default_rng(1).standard_normal((seen.rank + 1, 2))
    weight, bias = seen.to_raw(coefficients)
    np.testing.assert_allclose(view @ weight.T + bias, found @ coefficients, atol=1e-3 * np.abs(found @ coefficients).max())
    np.testing.assert_allclose(seen.from_raw(weight, bias), coefficients, atol=1e-3)


def test_what_is_far_too_certain_is_tempered() -> None:
    random = np.random.default_rng(0)
    scores = random.standard_normal((2000, 1, 3)).astype(np.float32)
    chances = np.exp(scores[:, 0]) / np.exp(scores[:, 0]).sum(axis=1, keepdims=True)
    classes = (chances.cumsum(axis=1) < random.random((2000, 1))).sum(axis=1).clip(max=2)
    loss = SoftmaxLoss(classes, np.ones(2000, np.float32), 3, np.ones(2000, np.float32))
    factors, _ = fit_temperatures(loss, np.concatenate([scores, 8 * scores], axis=1))
    assert factors == pytest.approx([1, 1 / 8], rel=0.15)


def test_every_strength_is_tried_in_each_view_and_model() -> None:
    examples = problem(Target.CLASSES)
    examples = replace(examples, views=(*examples.views, *examples.views))
    trials = fitted(examples, strengths=7, model="discriminant").trials
    assert len(trials) == 14
    assert len({trial.settings["l2"] for trial in trials}) == 7
    assert {trial.settings["model"] for trial in fitted(examples).trials} == {"discriminant", "logistic"}


def test_columns_of_wide_scales_are_brought_to_one() -> None:
    wide = with_rows(problem(Target.CLASSES), lambda rows: rows * np.where(np.arange(rows.shape[1]) == 0, 1e5, 1))
    noisy = with_rows(wide, lambda rows: np.hstack([np.random.default_rng(0).normal(0, 1e6, (len(rows), 1)), rows]))
    assert quality(noisy, fitted(noisy).scores(noisy.views[0].rows)) > 0.95


def test_what_can_be_told_with_certainty_does_not_diverge() -> None:
    rows = np.repeat(np.eye(2, dtype=np.float32), 20, axis=0)
    examples = problem(Target.CLASSES, 40)
    examples = replace(examples, values=np.repeat([0, 1], 20), names=("a", "b"))
    head = fitted(with_rows(examples, lambda _: rows))
    scores = head.scores(rows)
    assert (scores.argmax(axis=1) == examples.values).all()
    assert np.abs(scores).max() < 1e3


def test_rare_classes_count_as_much_when_balanced() -> None:
    examples = problem(Target.CLASSES, 600, 3)
    subset = np.flatnonzero((examples.values != 1) | (np.arange(600) < 40))
    rare = examples.values == 1
    found = {how: fitted(examples, subset, class_weight=how).scores(examples.views[0].rows) for how in ("none", "balanced")}
    recall = {how: (scores[rare].argmax(axis=1) == 1).mean() for how, scores in found.items()}
    assert recall["balanced"] >= recall["none"]
    assert found["balanced"][rare, 1].mean() > found["none"][rare, 1].mean()


def test_groups_are_kept_whole_while_choosing() -> None:
    """Noise in pairs of equal rows: a split of the pairs would believe it, and choose a weak strength."""
    random = np.random.default_rng(0)
    rows = np.repeat(random.standard_normal((60, 200)), 2, axis=0).astype(np.float32)
    values = np.repeat(random.standard_normal((60, 1)), 2, axis=0).astype(np.float32)
    examples = replace(with_rows(problem(Target.NUMBERS), lambda _: rows), values=values)
    paired = fitted(replace(examples, groups=np.arange(120) // 2))
    alone = fitted(examples)
    assert max(trial.score for trial in alone.trials) > 0.3 > 0.1 > max(trial.score for trial in paired.trials)


def test_one_group_is_learned_with_the_usual_strength() -> None:
    examples = replace(problem(Target.CLASSES), groups=np.zeros(120, np.int64))
    head = fitted(examples)
    assert not head.trials
    assert quality(examples, head.scores(examples.views[0].rows)) > 0.9


def test_many_rows_are_swept_on_a_sample_and_learned_from_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "FOLDS", ((100, 3),))
    monkeypatch.setattr(sweep, "SAMPLE", 150)
    monkeypatch.setattr(sweep, "VALIDATION_ROWS", 100)
    monkeypatch.setattr(sweep, "TRAINING_ROWS", 400)
    examples = problem(Target.CLASSES, 700)
    held = problem(Target.CLASSES, 300, seed=1)
    for model in ("auto", "logistic"):
        head = fitted(examples, model=model)
        rows = {trial.settings["rows"] for trial in head.trials if trial.settings["model"] == "logistic"}
        assert rows == {150, 400}
        assert quality(held, head.scores(held.views[0].rows)) > 0.95


def test_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidInput, match="discriminant"):
        fitted(problem(Target.LABELS), model="discriminant")
    with pytest.raises(InvalidInput, match="logistic"):
        fitted(problem(Target.NUMBERS), model="logistic")
    for target in (Target.NUMBERS, Target.SPAN):
        with pytest.raises(InvalidInput, match="class_weight"):
            fitted(problem(target), class_weight="balanced")
    with pytest.raises(InvalidInput, match="class_weight"):
        fitted(problem(Target.CLASSES), model="ridge", class_weight="balanced")
    with pytest.raises(InvalidInput, match="strengths"):
        parse(LinearOptions, {"strengths": 0})
