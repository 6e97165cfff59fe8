"""The detector: the contract of trainers, which cells learn a box, and what happens with few pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from topwork_plugins.fcos.cell_targets import cell_targets
from topwork_plugins.fcos.plugin import FcosTrainer
from topwork_server import InvalidInput, Target
from topwork_server.plugin_api.boxes import TrueBoxes, box_values
from topwork_server.testing import TrainerContract
from topwork_server.testing.problems import problem


class TestFcos(TrainerContract):
    trainer = FcosTrainer
    options: ClassVar = {"width": 16, "layers": 1, "learning_rate": 0.03, "dropout": 0, "epochs": 40}
    floor = 0.5


def targets(grid: tuple[int, int], *boxes: tuple[float, ...], labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    truth = TrueBoxes(np.array(boxes, float).reshape(-1, 4), np.array(labels, int))
    classes, distances = cell_targets(box_values(truth, grid[0] * grid[1])[None], grid)
    return classes[0].reshape(grid), distances[0].reshape(*grid, 4)


def test_cells_near_the_center_of_a_box_learn_it() -> None:
    """6 x 6 cells, of which the box holds 5 x 5: those within one and a half of its center, at (2.5, 2.5), learn it."""
    classes, distances = targets((6, 6), (0, 0, 5, 5), labels=[1])
    expected = np.full((6, 6), -1)
    expected[1:4, 1:4] = 1
    np.testing.assert_array_equal(classes, expected)
    np.testing.assert_allclose(distances[1, 2], [2.5, 1.5, 2.5, 3.5])


def test_of_two_boxes_a_cell_learns_the_smaller() -> None:
    classes, _ = targets((3, 3), (0, 0, 3, 3), (1, 1, 2, 2), labels=[0, 1])
    np.testing.assert_array_equal(classes, [[0, 0, 0], [0, 1, 0], [0, 0, 0]])


def test_a_box_without_a_cell_center_is_learned_by_the_nearest() -> None:
    classes, distances = targets((3, 3), (1.1, 1.1, 1.3, 1.3), labels=[0])
    assert np.argwhere(classes >= 0).tolist() == [[1, 1]]
    np.testing.assert_allclose(distances[1, 1], [0.4, 0.4, 0.05, 0.05], atol=1e-6)


def test_a_picture_without_boxes_teaches_that_there_are_none() -> None:
    assert (targets((3, 3), labels=[])[0] == -1).all()
    examples = problem(Target.BOXES, 60)
    empty = examples.values.copy()
    empty[:, 0] = -1
    [head] = TestFcos.fit(replace(examples, values=empty), [np.arange(60)])
    scores = head.scores(examples.views[0].rows)
    assert scores[:, :2].max() < 0
    assert np.isfinite(scores).all()


def test_a_target_that_a_trainer_does_not_name_is_refused() -> None:
    with pytest.raises(InvalidInput, match="FcosTrainer does not learn classes"):
        TestFcos.fit(problem(Target.CLASSES), [np.arange(120)])
