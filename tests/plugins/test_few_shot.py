"""Prototypes, neighbors and descriptions: the contract of each, and what is particular to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from topwork_plugins.few_shot import knn
from topwork_plugins.few_shot.knn import KnnTrainer
from topwork_plugins.few_shot.plugin import ZeroShotTrainer
from topwork_plugins.few_shot.prototype import PrototypeTrainer
from topwork_server import Examples, FeatureView, InvalidInput, Target
from topwork_server.plugin_api.options import parse
from topwork_server.testing import TrainerContract
from topwork_server.testing.problems import problem, quality


class TestPrototype(TrainerContract):
    trainer = PrototypeTrainer
    min_per_class = 1
    reads_weights = True


class TestKnn(TrainerContract):
    trainer = KnnTrainer
    min_per_class = 1


class TestZeroShot(TrainerContract):
    trainer = ZeroShotTrainer
    min_per_class = 0
    needs_descriptions = True


FEW = [PrototypeTrainer, KnnTrainer]


def fit(trainer: type, examples: Examples, subset: np.ndarray | None = None, **options: object) -> tuple:
    """The head of those rows, and its scores of all."""
    rows = np.arange(examples.count) if subset is None else subset
    [head] = trainer.fit(examples, [rows], trainer.options(**options), 0, 1, lambda done, words: None)
    return head, head.scores(examples.views[head.view].rows)


@pytest.mark.parametrize("trainer", FEW)
def test_one_example_a_class_will_do(trainer: type) -> None:
    examples = problem(Target.CLASSES, 200)
    firsts = np.sort([np.flatnonzero(examples.values == c)[0] for c in range(4)])
    head, scores = fit(trainer, examples, firsts)
    assert quality(examples, scores) > 0.85
    assert list(head.trials) == []  # no row could be left out


@pytest.mark.parametrize("trainer", FEW)
def test_rows_of_one_group_do_not_judge_each_other(trainer: type) -> None:
    """Noise, each row three times: an evaluation on copies would be sure of itself."""
    random = np.random.default_rng(0)
    rows, values = (np.repeat(array, 3, axis=0) for array in (random.normal(size=(60, 8)), random.integers(2, size=60)))
    groups = np.repeat(np.arange(60), 3)
    views = (FeatureView("pooled", "row", rows.astype(np.float32)),)
    grouped = Examples(views, Target.CLASSES, ("a", "b"), values, np.arange(180), groups)
    best = max(trial.score for trial in fit(trainer, grouped)[0].trials)
    assert best < -0.6
    alone = replace(grouped, groups=np.arange(180))
    assert max(trial.score for trial in fit(trainer, alone)[0].trials) > best


def test_what_is_set_is_not_chosen() -> None:
    examples = problem(Target.CLASSES)
    assert fit(PrototypeTrainer, examples, temperature=0.3, center=False)[0].chosen == {
        "center": False,
        "temperature": 0.3,
        "class_frequencies": False,
    }
    assert fit(KnnTrainer, examples, k=7, temperature=0.3, center=True)[0].chosen == {"k": 7, "temperature": 0.3, "center": True}
    described = problem(Target.CLASSES, described=True)
    assert fit(ZeroShotTrainer, described, temperature=0.3)[0].chosen == {"temperature": 0.3}


def test_neighbors_are_no_more_than_there_are() -> None:
    examples = problem(Target.NUMBERS, 12)
    head, scores = fit(KnnTrainer, examples, k=500)
    assert head.chosen["k"] == 11
    assert np.isfinite(scores).all()


def test_many_equal_rows_vote_alike() -> None:
    """More copies than there are votes: their mean, not that of all."""
    rows = np.concatenate([np.tile([[1.0, 0.0]], (30, 1)), np.tile([[-1.0, 0.2]], (30, 1))]).astype(np.float32)
    values = np.repeat([[5.0], [-5.0]], 30, axis=0).astype(np.float32)
    examples = Examples((FeatureView("pooled", "row", rows),), Target.NUMBERS, (), values, np.arange(60), np.arange(60))
    _, scores = fit(KnnTrainer, examples, k=10, center=False)
    np.testing.assert_allclose(scores, values, atol=0.01)


def test_a_description_counts_as_an_example() -> None:
    examples = problem(Target.CLASSES, described=True)
    three = np.flatnonzero(examples.values != 2)
    _, told = fit(PrototypeTrainer, examples, three)
    assert quality(examples, told) > 0.9  # the fourth is known by its description alone
    _, untold = fit(PrototypeTrainer, examples, three, prior=0.0)
    assert quality(examples, untold) < 0.8


@pytest.mark.parametrize("trainer", [ZeroShotTrainer, PrototypeTrainer])
def test_descriptions_alone_will_do(trainer: type) -> None:
    """No row has a label: a set of none."""
    examples = problem(Target.CLASSES, described=True)
    none = examples.take(np.arange(0))
    if trainer is PrototypeTrainer:
        with pytest.raises(InvalidInput, match="no examples"):
            fit(trainer, none)
        return
    head, _ = fit(trainer, none)
    assert quality(examples, head.scores(examples.views[0].rows)) > 0.9
    assert list(head.trials) == []


def test_labels_fit_the_temperature_of_descriptions() -> None:
    examples = problem(Target.CLASSES, described=True)
    right, _ = fit(ZeroShotTrainer, examples)
    shuffled, _ = fit(ZeroShotTrainer, replace(examples, values=np.roll(examples.values, 1)))
    assert right.chosen["temperature"] < shuffled.chosen["temperature"]


@pytest.mark.parametrize("name", ["temperature", "k", "prior"])
def test_an_option_out_of_range_is_refused(name: str) -> None:
    trainer = {"temperature": ZeroShotTrainer, "k": KnnTrainer, "prior": PrototypeTrainer}[name]
    with pytest.raises(InvalidInput, match=name):
        parse(trainer.options, {name: -1 if name == "k" else -1.0})


def test_more_rows_than_a_graph_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "MOST_BYTES", 1000)
    with pytest.raises(InvalidInput, match="120 rows of 16 numbers"):
        fit(KnnTrainer, problem(Target.CLASSES))
