"""Each promise of a trainer, broken on purpose: the contract says which, with what was expected. A right one passes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from broken_contracts import failures
from topwork_server import FittedHead, InvalidInput, Target, Trial, linear_graph
from topwork_server.testing import TrainerContract
from topwork_server.testing.trainer import TrainedSubject
from topwork_server.types import Array
from toys_trainers import NearestMean


class TestNearestMean(TrainerContract):
    trainer = NearestMean
    min_per_class = 1
    chooses_view = False


class Wrapped(FittedHead):
    """A right head, of which a subclass changes something."""

    def __init__(self, head: Any) -> None:
        self.head, self.chosen, self.trials, self.measure = head, head.chosen, head.trials, head.measure

    def scores(self, rows: Array) -> Any:
        return np.asarray(self.head.scores(rows), np.float32)

    def graph(self) -> Any:
        return self.head.graph()


class OfTheBatch(Wrapped):
    def scores(self, rows: Array) -> Any:
        return super().scores(rows - rows.mean(axis=0))


class OtherGraph(Wrapped):
    def graph(self) -> Any:
        return linear_graph(self.head.weight, self.head.bias + np.arange(4))


class Renamed(Wrapped):
    def graph(self) -> Any:
        model = super().graph()
        for node in model.graph.node:
            node.input[:] = ["features" if name == "rows" else name for name in node.input]
        model.graph.input[0].name = "features"
        return model


class OldOpset(Wrapped):
    def graph(self) -> Any:
        model = super().graph()
        model.opset_import[0].version = 17
        return model


class Cosines(Wrapped):
    def scores(self, rows: Array) -> Any:
        return super().scores(rows) * np.float32(-0.01)


class Doubles(Wrapped):
    def scores(self, rows: Array) -> Any:
        return super().scores(rows).astype(np.float64)


class OneColumn(Wrapped):
    def scores(self, rows: Array) -> Any:
        return super().scores(rows)[:, 0]


class NotFinite(Wrapped):
    def scores(self, rows: Array) -> Any:
        return np.where(np.arange(len(rows))[:, None] == 3, np.nan, super().scores(rows)).astype(np.float32)


class NoSuchView(Wrapped):
    view = 7


class ChosenArray(Wrapped):
    def __init__(self, head: Any) -> None:
        super().__init__(head)
        self.chosen = {"l2": np.float32(0.1)}


class ChosenTuple(Wrapped):
    def __init__(self, head: Any) -> None:
        super().__init__(head)
        self.chosen = {"layers": (1, 2)}


class StrangeTrials(Wrapped):
    def __init__(self, head: Any) -> None:
        super().__init__(head)
        self.trials = [Trial("elsewhere", "row", {}, 0.5)]


class NoMeasure(Wrapped):
    def __init__(self, head: Any) -> None:
        super().__init__(head)
        self.measure = ""


def of(kind: type[Wrapped]) -> type[NearestMean]:
    """A trainer whose heads are of that kind."""
    return fitting(lambda fit, *arguments: [kind(head) for head in fit(*arguments)])


def fitting(change: Callable[..., Any]) -> type[NearestMean]:
    """A trainer whose `fit` is `change(right fit, its arguments)`."""

    class Changed(NearestMean):
        @classmethod
        def fit(cls, *arguments: Any) -> Any:
            return change(NearestMean.fit, *arguments)

    return Changed


def peek(fit: Any, examples: Any, subsets: Any, *others: Any) -> Any:
    return fit(examples, [np.arange(examples.count) for _ in subsets], *others)


def share(fit: Any, examples: Any, subsets: Any, *others: Any) -> Any:
    everything = np.unique(np.concatenate(subsets))
    return fit(examples, [everything for _ in subsets], *others)


def draw(fit: Any, examples: Any, subsets: Any, *others: Any) -> Any:
    noise = np.random.default_rng().standard_normal(examples.views[0].rows.shape).astype(np.float32)
    view = replace(examples.views[0], rows=examples.views[0].rows + 0.1 * noise)
    return fit(replace(examples, views=(view,)), subsets, *others)


def change_rows(fit: Any, examples: Any, subsets: Any, *others: Any) -> Any:
    examples.views[0].rows[:] -= 1
    return fit(examples, subsets, *others)


def guess(fit: Any, examples: Any, subsets: Any, *others: Any) -> Any:
    return fit(replace(examples, values=np.zeros_like(examples.values)), subsets, *others)


def learn_nothing(fit: Any, examples: Any, subsets: Any, *others: Any) -> Any:
    return fit(examples, [subset if len(subset) else np.arange(9) for subset in subsets], *others)


def crash_on_nothing(fit: Any, examples: Any, subsets: Any, *others: Any) -> Any:
    try:
        return fit(examples, subsets, *others)
    except InvalidInput:
        raise ZeroDivisionError("mean of nothing") from None


def percents(fit: Any, examples: Any, subsets: Any, options: Any, seed: int, threads: int, report: Any) -> Any:
    return fit(examples, subsets, options, seed, threads, lambda done, words: report(100 * done, words))


def silent(fit: Any, examples: Any, subsets: Any, options: Any, seed: int, threads: int, report: Any) -> Any:
    return fit(examples, subsets, options, seed, threads, lambda done, words: None)


def backwards(fit: Any, examples: Any, subsets: Any, options: Any, seed: int, threads: int, report: Any) -> Any:
    return fit(examples, subsets, options, seed, threads, lambda done, words: report(1 - done, words))


BREAKS: dict[str, tuple[type[NearestMean], str, str]] = {
    "statistics of what is scored": (of(OfTheBatch), "batch_mates", "rows beside it"),
    "another graph": (of(OtherGraph), "graph_gives", "other scores"),
    "a renamed input": (of(Renamed), "graph_gives", "name them rows and scores"),
    "an old opset": (of(OldOpset), "graph_gives", "opset 20"),
    "no logits": (of(Cosines), "better_than_chance", "not cosines"),
    "the wrong sign": (of(Cosines), "what_is_easy", "quality on rows .* is 0"),
    "float64": (of(Doubles), "head_for_each", "float64"),
    "one column": (of(OneColumn), "head_for_each", r"float32 \[2, 4\]"),
    "not finite": (of(NotFinite), "head_for_each", r"row \[3\]"),
    "no such view": (of(NoSuchView), "head_for_each", "0 to 0"),
    "numpy in chosen": (of(ChosenArray), "is_json", "chosen is no JSON"),
    "a tuple in chosen": (of(ChosenTuple), "is_json", "comes back from JSON"),
    "trials of other views": (of(StrangeTrials), "is_json", "elsewhere"),
    "no measure": (of(NoMeasure), "is_json", "measure is empty"),
    "too few heads": (fitting(lambda fit, *rest: fit(*rest)[1:]), "head_for_each", "1 heads; .* 2 heads, one for each subset"),
    "no list": (fitting(lambda fit, *rest: iter(fit(*rest))), "head_for_each", "fit returned list_iterator"),
    "no heads": (fitting(lambda fit, *rest: [head.weight for head in fit(*rest)]), "head_for_each", "a ndarray in it"),
    "peeks": (fitting(peek), "outside_of_the_subset", "it learns from them"),
    "shares": (fitting(share), "other_subsets", "other subsets were asked for"),
    "draws": (fitting(draw), "same_arguments", "draw from the seed"),
    "changes what it is given": (fitting(change_rows), "head_for_each", "read-only"),
    "guesses": (fitting(guess), "what_is_easy", "must be 0.9"),
    "learns from nothing": (fitting(learn_nothing), "nothing_to_learn", "raise InvalidInput"),
    "crashes on nothing": (fitting(crash_on_nothing), "nothing_to_learn", "ZeroDivisionError"),
    "percents": (fitting(percents), "progress", "fraction from 0 to 1"),
    "silent": (fitting(silent), "progress", "report never"),
    "backwards": (fitting(backwards), "progress", "went back"),
}


def broken(trainer: type[NearestMean], only: str = "") -> dict[str, str]:
    contract = type("Contract", (TrainerContract,), {"trainer": trainer, "min_per_class": 1, "chooses_view": False})
    examples, held = contract.problem(Target.CLASSES), contract.problem(Target.CLASSES, seed=1)
    subsets, progress = [np.arange(80), np.arange(120)], []
    try:
        heads = contract.fit(examples, subsets, progress)
    except Exception as error:  # as pytest tells it of each test of the subject
        return {only: f"{type(error).__name__}: {error}"}
    subject = TrainedSubject(examples, held, subsets, heads, progress)
    return failures(contract, {"subject": subject, "target": Target.CLASSES}, only)


def test_what_breaks_nothing_passes() -> None:
    assert broken(NearestMean) == {}


@pytest.mark.parametrize("promise", BREAKS)
def test_a_broken_promise_is_told_in_words(promise: str) -> None:
    trainer, test, words = BREAKS[promise]
    caught = broken(trainer, test)
    assert caught, f"not caught there, only in {broken(trainer)}"
    assert any(re.search(words, message) for message in caught.values()), caught


def test_weights_that_are_claimed_and_not_read_are_told_in_words() -> None:
    contract = type("Contract", (TrainerContract,), {"trainer": NearestMean, "min_per_class": 1, "reads_weights": True})
    [message] = failures(contract, {"target": Target.CLASSES}, "heavy_rows").values()
    assert "was not believed" in message
