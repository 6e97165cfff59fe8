"""Several targets that share a trunk: each is learned from the items that have a value of it, and weighs what was asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import fine_tuning_tasks
import numpy as np
import pytest
from fine_tuning_tasks import COUNT, TunableEncoder, check_served
from topwork_plugins.fine_tune.plugin import FineTune, FineTuneOptions
from topwork_server import FineTuneResult
from topwork_server.heads.head_types import Task
from topwork_server.types import Array


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TunableEncoder:
    tunable = fine_tuning_tasks.bert(tmp_path_factory.mktemp("bert"))
    tunable.trunk()
    return tunable


def jointly(bert: TunableEncoder, datasets: list[Any], weights: list[float], out: Path, **options: Any) -> list[FineTuneResult]:
    chosen = FineTuneOptions(**{"epochs": 8, "learning_rate": 1e-3, "head_learning_rate": 0.02, "batch": 6} | options)
    return FineTune.tune_jointly(bert.trunk(), bert.encoder(), datasets, weights, chosen, 0, 1, out, lambda *_: None)


def spread(values: Array, scores: Array) -> float:
    """R2."""
    return 1 - float(((scores - values) ** 2).sum() / ((values - values.mean()) ** 2).sum())


def test_targets_of_other_kinds_taps_and_items_share_a_trunk(bert: TunableEncoder, tmp_path: Path) -> None:
    """Half of the items have no number; classes of texts and of their tokens are learned beside it."""
    classes, tokens = fine_tuning_tasks.of_texts(bert), fine_tuning_tasks.of_tokens(bert)
    numbers = fine_tuning_tasks.of_numbers(bert)
    numbers = replace(numbers, values=(numbers.values - 1025) / 25, train=numbers.train[: COUNT // 3])
    tasks = (Task.CLASSIFICATION, Task.REGRESSION, Task.TAGGING)
    datasets = [classes, numbers, tokens]
    found = jointly(bert, datasets, [1.0, 1.0, 0.5], tmp_path, epochs=15)
    assert len({one.weights for one in found}) == 1
    for dataset, task, one in zip(datasets, tasks, found, strict=True):
        check_served(bert, dataset, task, one)
    assert (found[0].test_scores.argmax(1) == classes.values[classes.test]).all()
    assert spread(numbers.values[numbers.test], found[1].test_scores) > 0.5
    assert (found[2].test_scores.argmax(1) == tokens.values[-len(found[2].test_scores) :]).mean() > 0.8


def test_a_target_of_a_tiny_weight_hardly_moves_the_trunk(bert: TunableEncoder, tmp_path: Path) -> None:
    """Its loss, and the classes that it teaches wrongly, count for next to nothing."""
    classes = fine_tuning_tasks.of_texts(bert)
    wrong = replace(classes, values=1 - classes.values, validation=np.zeros(0, np.int64))
    loud = jointly(bert, [classes, wrong], [1.0, 100.0], tmp_path, clip=0.0, patience=0)
    quiet = jointly(bert, [classes, wrong], [1.0, 1e-3], tmp_path, clip=0.0, patience=0)
    losses = [one[0].history[-1]["loss"] for one in (loud, quiet)]
    assert losses[1] < losses[0]
    assert (quiet[0].test_scores.argmax(1) == classes.values[classes.test]).all()


def test_the_best_epoch_is_that_of_the_mean_score(bert: TunableEncoder, tmp_path: Path) -> None:
    classes = fine_tuning_tasks.of_texts(bert)
    halves = [replace(classes, train=part) for part in np.split(classes.train, 2)]
    found = jointly(bert, halves, [1.0, 3.0], tmp_path, epochs=3, patience=0)
    assert found[0].history == found[1].history
    assert [entry["step"] for entry in found[0].history] == [2 * COUNT // 3 // 6 * n for n in (1, 2, 3)]
