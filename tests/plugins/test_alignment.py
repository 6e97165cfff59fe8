"""The trainer `align`, by its contract, and what a map of it must be."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_plugins.linear.alignment import AlignmentTrainer
from topwork_server import Target
from topwork_server.testing import TrainerContract
from topwork_server.testing.problems import problem


class TestAlignment(TrainerContract):
    trainer = AlignmentTrainer


class TestOneStrength(TestAlignment):
    options = {"strengths": 1}  # noqa: RUF012


@pytest.fixture(scope="module")
def head():
    return TestAlignment.learned(problem(Target.VECTORS))[0]


def test_vectors_have_length_1_and_nothing_of_what_all_captions_share(head) -> None:
    examples = problem(Target.VECTORS)
    found = head.scores(problem(Target.VECTORS, seed=1).views[0].rows)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.abs(found @ examples.values.mean(axis=0)).max() < 1e-4


def test_the_best_of_many_strengths_is_taken(head) -> None:
    scores = [trial.score for trial in head.trials]
    best = head.trials[int(np.argmax(scores))]
    assert (len(scores), head.chosen) == (13, best.settings)
