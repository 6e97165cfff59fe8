"""Multi-layer perceptrons: the contract, and what is particular to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from topwork_plugins.mlp.nets import MlpOptions, UnitLosses
from topwork_plugins.mlp.plugin import MlpTrainer
from topwork_server import Examples, FeatureView, InvalidInput, Target, TrainingPlan
from topwork_server.plugin_api.options import parse
from topwork_server.runtime.session import Session
from topwork_server.testing import TrainerContract
from topwork_server.testing.problems import problem, quality


class TestMlp(TrainerContract):
    trainer = MlpTrainer
    reads_weights = True
    options = {"width": 32, "patience": 4, "members": 2}  # noqa: RUF012


def fit(examples: Examples, **options: object) -> tuple:
    """A head of all rows, and its scores of them."""
    [head] = MlpTrainer.fit(examples, [np.arange(examples.count)], MlpTrainer.options(**options), 0, 1, lambda *words: None)
    return head, head.scores(examples.views[head.view].rows)


@pytest.mark.parametrize("target", sorted(MlpTrainer.targets))
def test_no_option_needs_to_be_set(target: Target) -> None:
    head, _ = fit(problem(target))
    held = problem(target, seed=1)
    assert quality(held, head.scores(held.views[0].rows)) > 0.9
    assert head.chosen["members"] == 5


def crossed(seed: int) -> Examples:
    """Two columns, of equal signs or not: no linear head does better than chance."""
    rows = np.random.default_rng(seed).uniform(-1, 1, (400, 2)).astype(np.float32)
    every = np.arange(400)
    return Examples(
        (FeatureView("p", "row", rows),), Target.CLASSES, ("a", "b"), (rows.prod(axis=1) > 0).astype(np.int64), every, every
    )


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_learns_what_no_linear_head_can(layers: int, tmp_path: Path) -> None:
    head, _ = fit(crossed(0), layers=layers, dropout=0.1)
    held = crossed(1)
    scores = head.scores(held.views[0].rows)
    assert quality(held, scores) > 0.9
    (tmp_path / "head.onnx").write_bytes(head.graph().SerializeToString())
    [found] = Session(tmp_path / "head.onnx", threads=1).run(["scores"], {"rows": held.views[0].rows})
    np.testing.assert_allclose(found, scores, atol=1e-4)


def test_balanced_classes_find_the_rare_one() -> None:
    """A class of 5% that overlaps the other."""
    random = np.random.default_rng(0)
    values = (np.arange(600) % 20 == 0).astype(np.int64)
    rows = (values[:, None] + random.standard_normal((600, 4))).astype(np.float32)
    examples = Examples((FeatureView("p", "row", rows),), Target.CLASSES, ("a", "b"), values, np.arange(600), np.arange(600))
    found = {
        weights: fit(examples, class_weight=weights)[1].argmax(axis=1)[values == 1].mean() for weights in ("none", "balanced")
    }
    assert found["balanced"] > 0.7 > found["none"]


def test_balanced_labels_find_the_rare_one() -> None:
    random = np.random.default_rng(0)
    rare = np.arange(600) % 20 == 0
    values = np.stack([rare, random.random(600) < 0.5], axis=1).astype(np.float32)
    rows = (values + random.standard_normal((600, 2))).astype(np.float32)
    examples = Examples((FeatureView("p", "row", rows),), Target.LABELS, ("a", "b"), values, np.arange(600), np.arange(600))
    found = {
        weights: (fit(examples, class_weight=weights, members=1, epochs=15)[1][rare, 0] > 0).mean()
        for weights in ("none", "balanced")
    }
    assert found["balanced"] > 0.7 > found["none"]


@pytest.mark.parametrize("target", [Target.NUMBERS, Target.SPAN])
def test_what_has_no_classes_is_not_balanced(target: Target) -> None:
    with pytest.raises(InvalidInput, match=f"class_weight 'balanced' means nothing for {target.value}"):
        MlpTrainer.check(TrainingPlan(None, None, (), target), MlpOptions(class_weight="balanced"))


def test_the_loss_of_a_span_is_the_cross_entropy_over_the_rows_of_its_item() -> None:
    examples = problem(Target.SPAN, 40)
    task = UnitLosses(examples, balanced=False)
    scores = torch.randn(3, examples.count, 2, generator=torch.Generator().manual_seed(0)) * 50
    units = np.array([3, 0, 4])
    found = task.losses(scores[:, task.rows(units)], units)
    values = torch.from_numpy(np.array(examples.values))
    for at, unit in enumerate(units):
        rows = slice(8 * unit, 8 * unit + 8)
        expected = -(values[rows] * scores[:, rows].log_softmax(dim=1)).sum(dim=(1, 2))
        torch.testing.assert_close(found[:, at], expected)


@pytest.mark.parametrize("target", sorted(MlpTrainer.targets))
def test_items_of_one_group_stop_it_early_where_there_are_no_others(target: Target) -> None:
    """A fold of a set with two groups has its validation rows in the other group."""
    given = problem(target)
    head, _ = fit(replace(given, groups=np.zeros_like(given.groups)), epochs=2)
    assert head.chosen["members"] == 5


def test_a_column_that_never_changed_says_nothing_later() -> None:
    examples = problem(Target.CLASSES)
    rows = examples.views[0].rows.copy()
    rows[:, 0] = 0.1
    head, scores = fit(replace(examples, views=(FeatureView("p", "row", rows),)))
    rows[:, 0] = 1e6
    np.testing.assert_array_equal(head.scores(rows), scores)


def test_nets_that_run_away_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnitLosses, "losses", lambda self, scores, units: scores.sum(dim=2) * float("nan"))
    with pytest.raises(InvalidInput, match="learning_rate"):
        fit(problem(Target.NUMBERS), epochs=2)


@pytest.mark.parametrize("name", ["layers", "dropout", "batch"])
def test_an_option_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        parse(MlpTrainer.options, {name: 2.0 if name == "dropout" else 0})
