"""The contract of trainers holds for a right one, and catches wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from topwork_server import Fitted, Target, linear_graph
from topwork_server.testing.trainer import Subject, TrainerContract
from topwork_server.types import Array
from toys_trainers import NearestMean


class TestNearestMean(TrainerContract):
    trainer = NearestMean
    least_per_class = 1
    chooses_view = False


class Wrapped(Fitted):
    def __init__(self, head: Any) -> None:
        self.head, self.chosen, self.trials, self.measure = head, head.chosen, head.trials, head.measure

    def scores(self, rows: Array) -> Array:
        return np.asarray(self.head.scores(rows), np.float32)

    def graph(self) -> Any:
        return self.head.graph()


class OfTheBatch(Wrapped):
    def scores(self, rows: Array) -> Array:
        return super().scores(rows - rows.mean(axis=0))


class OtherGraph(Wrapped):
    def graph(self) -> Any:
        return linear_graph(self.head.weight, self.head.bias + np.arange(4))


class Cosines(Wrapped):
    def scores(self, rows: Array) -> Array:
        return super().scores(rows) * np.float32(-0.01)


def wrong(kind: type[Wrapped]) -> type[TrainerContract]:
    """The contract of a trainer whose heads are of that kind."""

    class Wrong(NearestMean):
        @classmethod
        def fit(cls, *arguments: Any) -> list[Fitted]:
            return [kind(head) for head in NearestMean.fit(*arguments)]

    return type("Contract", (TrainerContract,), {"trainer": Wrong})


class Peeks(NearestMean):
    @classmethod
    def fit(cls, examples: Any, subsets: Any, *others: Any) -> list[Fitted]:
        return NearestMean.fit(examples, [np.arange(examples.count) for _ in subsets], *others)


def subject(contract: type[TrainerContract]) -> Subject:
    examples, held = contract.problem(Target.CLASSES), contract.problem(Target.CLASSES, seed=1)
    subsets = [np.arange(80), np.arange(120)]
    return Subject(examples, held, subsets, contract.fit(examples, subsets), [])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (OfTheBatch, "test_a_row_does_not_depend_on_its_batch_mates"),
        (Cosines, "test_it_learns_what_is_easy"),
        (Cosines, "test_probabilities_are_better_than_chance"),
    ],
)
def test_a_wrong_head_is_caught(kind: type[Wrapped], name: str) -> None:
    contract = wrong(kind)
    with pytest.raises(AssertionError):
        getattr(contract(), name)(subject(contract))


def test_a_graph_that_says_something_else_is_caught(tmp_path: Path) -> None:
    contract = wrong(OtherGraph)
    with pytest.raises(AssertionError):
        contract().test_the_graph_gives_the_same_scores(subject(contract), tmp_path)


def test_a_trainer_that_looks_outside_of_its_subset_is_caught() -> None:
    contract = type("Contract", (TrainerContract,), {"trainer": Peeks})
    with pytest.raises(AssertionError):
        contract().test_rows_outside_of_the_subset_do_not_matter(subject(contract))
