"""What a report shows of the items that a head got wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from topwork_server.heads.examples.data import Data
from topwork_server.heads.examples.labels import Labels
from topwork_server.heads.model import Task
from topwork_server.heads.reporting.shown import Speller
from topwork_server.trainer import Examples
from topwork_server.types import Item, Text

TEXT = "Ada wrote."


class Kept(Data):
    """Of a set that keeps its texts."""

    def inputs(self, ids: Sequence[str]) -> dict[str, Item]:
        return {id: Text(TEXT if id == "a" else "x" * 999, "Who wrote?") for id in ids}


def data(kind: type[Data], task: Task) -> Data:
    values = np.zeros(3, np.int64)
    examples = Examples((), task.target, (), values, values, values)
    chars = {"a": np.array([[0, 3], [4, 9], [9, 10]], np.float32), "long": np.array([[0, 999]], np.float32)}
    return kind(Labels(task, (), [[]], np.ones(1, bool)), examples, ("a", "long"), chars=chars)


@pytest.mark.parametrize(
    ("kind", "task", "said"),
    [(Kept, Task.TAGGING, "'Ada wrote'"), (Kept, Task.QUESTION_ANSWERING, "'Who wrote'"), (Data, Task.TAGGING, "0:9")],
)
def test_a_span_is_named_by_its_words_or_by_its_characters(kind: type[Data], task: Task, said: str) -> None:
    assert Speller(data(kind, task))("a", 0, 2) == said


def test_a_long_span_is_cut() -> None:
    assert Speller(data(Kept, Task.TAGGING))("long", 0, 1) == f"'{'x' * 57}...'"


def test_what_nobody_covers_is_named_by_its_characters() -> None:
    elsewhere = replace(data(Kept, Task.TAGGING), chars={"a": np.array([[40, 50]], np.float32)})
    assert Speller(elsewhere)("a", 0, 1) == "40:50"
