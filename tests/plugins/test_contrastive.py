"""Contrastive tuning on tiny random trunks: it tells classes apart from few labels, by any tap and of one label a class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fine_tuning_tasks
import numpy as np
import pytest
import torch
from fine_tuning_tasks import WORDS, TunableEncoder, check_served, refusal
from topwork_plugins.fine_tune.contrastive import OrderObjective, PairObjective
from topwork_plugins.fine_tune.network import compared
from topwork_server import FineTuneDataset, Granularity, Tap, Target, TextItem
from topwork_server.heads import pair_features
from topwork_server.heads.head_types import Pooling, Task
from topwork_server.types import FingerprintedTap


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TunableEncoder:
    tunable = fine_tuning_tasks.bert(tmp_path_factory.mktemp("bert"))
    tunable.trunk()
    return tunable


def few(dataset: FineTuneDataset, count: int) -> FineTuneDataset:
    """Of two classes, so many items each, and no validation items."""
    return replace(dataset, train=np.arange(2 * count), validation=np.zeros(0, np.int64), test=np.arange(24, 36))


@pytest.mark.parametrize(
    ("tap", "how", "options"), [("pooled", "row", {}), ("tokens", "mean", {"adapter": "lora", "learning_rate": 1e-2})]
)
def test_eight_labels_a_class_tell_texts_apart(
    bert: TunableEncoder, tmp_path: Path, tap: str, how: str, options: dict[str, object]
) -> None:
    dataset = few(fine_tuning_tasks.of_texts(bert, tap, how), 8)
    tuned = bert.contrast(dataset, tmp_path, **options)
    assert (tuned.test_scores.argmax(1) == dataset.values[dataset.test]).all()
    assert tuned.history[-1]["loss"] < 0.5 * tuned.history[0]["loss"]
    assert tuned.head.chosen["model"]
    check_served(bert, dataset, Task.CLASSIFICATION, tuned)


def test_one_label_a_class_is_enough_to_learn(bert: TunableEncoder, tmp_path: Path) -> None:
    """Where no other item is of its class, an item is paired with itself."""
    tuned = bert.contrast(few(fine_tuning_tasks.of_texts(bert), 1), tmp_path)
    assert tuned.history[-1]["loss"] < tuned.history[0]["loss"]
    assert tuned.test_scores.shape == (12, 2)


def test_batches_hold_each_item_beside_another_of_its_class(bert: TunableEncoder) -> None:
    dataset = fine_tuning_tasks.of_texts(bert)
    objective, random = PairObjective(dataset), np.random.default_rng(0)
    batches = objective.batches(dataset.train, np.ones(36), 6, random)
    assert len(batches) == objective.steps(len(dataset.train), 6)
    pairs = np.concatenate(batches).reshape(-1, 2)
    assert sorted(pairs[:, 0].tolist()) == dataset.train.tolist()
    assert (dataset.values[pairs[:, 0]] == dataset.values[pairs[:, 1]]).all()
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert np.isin(pairs, dataset.train).all()


def test_what_it_cannot_do_is_refused(bert: TunableEncoder, tmp_path: Path) -> None:
    dataset = fine_tuning_tasks.of_texts(bert)
    assert "frozen_blocks" in refusal(lambda: bert.contrast(dataset, tmp_path, frozen_blocks=-1, learning_rate=None))
    assert "each row" in refusal(lambda: bert.contrast(fine_tuning_tasks.of_tokens(bert), tmp_path))
    assert "task regression" in refusal(lambda: bert.contrast(replace(dataset, pooling="cosine"), tmp_path))
    assert "numbers by 'mean'" in refusal(lambda: bert.contrast(replace(of_pairs(bert), pooling="mean"), tmp_path))
    alone = replace(of_pairs(bert), items=[TextItem("alice")] * 36)
    assert "no pair" in refusal(lambda: bert.contrast(alone, tmp_path))
    one = replace(dataset, values=np.zeros_like(dataset.values))
    assert "of one class" in refusal(lambda: bert.contrast(one, tmp_path))


def of_pairs(tunable: TunableEncoder) -> FineTuneDataset:
    """Pairs of texts of one class or of two, with a number that is larger for those of one."""
    random = np.random.default_rng(1)

    def text(which: int) -> str:
        return " ".join(random.choice(WORDS[which], 4))

    sides = [(int(a), int(b)) for a, b in random.integers(0, 2, (36, 2))]
    numbers = np.array([[0.7 if a == b else 0.2] for a, b in sides], np.float32) + random.uniform(0, 0.2, (36, 1))
    items = [TextItem(text(a), text(b)) for a, b in sides]
    made = fine_tuning_tasks.dataset(tunable, items, numbers.astype(np.float32), "tokens", "cosine", Target.NUMBERS, names=("",))
    return replace(made, train=np.arange(24), validation=np.zeros(0, np.int64), test=np.arange(24, 36))


def test_cosines_of_pairs_come_into_the_order_of_their_numbers(bert: TunableEncoder, tmp_path: Path) -> None:
    dataset = of_pairs(bert)
    tuned = bert.contrast(dataset, tmp_path, epochs=20)
    alike = dataset.values[dataset.test, 0] > 0.5
    before, after = tuned.test_order_before, tuned.test_scores
    assert before is not None
    assert before[alike].min() < before[~alike].max()
    assert after[alike].min() > after[~alike].max()
    again = bert.contrast(dataset, tmp_path / "again", epochs=1)
    np.testing.assert_array_equal(again.test_order_before, before)


def test_a_layer_on_both_texts_is_tuned_too(bert: TunableEncoder, tmp_path: Path) -> None:
    dataset = replace(of_pairs(bert), pooling="two-tower", train=np.arange(20), validation=np.arange(20, 24))
    tuned = bert.tune(dataset, tmp_path)
    assert (tuned.test_scores.shape, tuned.test_order_before) == ((12, 1), None)
    assert tuned.history[-1]["loss"] < tuned.history[0]["loss"]


def test_the_loss_of_pairs_is_that_of_cosent(bert: TunableEncoder) -> None:
    dataset = of_pairs(bert)
    cosines, numbers = np.linspace(-1, 1, 5), dataset.values[:5, 0]
    wrong = [20 * (cosines[i] - cosines[j]) for i in range(5) for j in range(5) if numbers[i] < numbers[j]]
    loss = OrderObjective(dataset, "none").loss(torch.from_numpy(cosines)[:, None], np.arange(5))
    np.testing.assert_allclose(float(loss) / 5, np.log(1 + np.exp(wrong).sum()), rtol=1e-6)


@pytest.mark.parametrize("how", ["cosine", "two-tower"])
def test_both_texts_are_compared_as_they_are_when_served(how: str) -> None:
    u, v = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    tap = FingerprintedTap(Tap("pooled", 4, Granularity.ITEM), "")
    served = pair_features.pool_sides(Pooling(how), tap, u, v)
    np.testing.assert_allclose(compared(how, torch.from_numpy(u), torch.from_numpy(v)).numpy(), served, atol=1e-6)
