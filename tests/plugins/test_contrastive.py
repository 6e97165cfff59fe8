"""Contrastive tuning on tiny random trunks: it tells classes apart from few labels, by any tap and of one label a class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fine_tuning_tasks
import numpy as np
import pytest
from fine_tuning_tasks import TunableEncoder, check_served, refusal
from topwork_plugins.fine_tune.contrastive import PairObjective
from topwork_server import FineTuneDataset
from topwork_server.heads.head_types import Task


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
    one = replace(dataset, values=np.zeros_like(dataset.values))
    assert "of one class" in refusal(lambda: bert.contrast(one, tmp_path))
