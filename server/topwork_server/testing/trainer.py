"""The contract that every trainer keeps, as a pytest class. A plugin author subclasses it:

    from topwork_server.testing import TrainerContract

    class TestMine(TrainerContract):
        trainer = MyTrainer

It runs once a target that the trainer claims, on problems of `problems`: rows around four centers, which tell the values.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from topwork_server.errors import InvalidInput
from topwork_server.plugin_api import options
from topwork_server.plugin_api.result_checks import fit_heads
from topwork_server.plugin_api.trainer import Examples, FeatureView, FittedHead, Target, Trainer
from topwork_server.runtime.session import Session
from topwork_server.testing.declared import check_options
from topwork_server.testing.problems import CENTRES, few, problem, quality, with_rows
from topwork_server.types import Array

BATCH = (
    "the scores of a row must not depend on the rows beside it, nor those of a picture on other pictures (no statistics over"
    " what is scored)"
)


@dataclass
class TrainedSubject:
    """Heads of two subsets, and what they learned from."""

    examples: Examples
    held: Examples
    subsets: list[Array]
    heads: list[FittedHead]
    progress: list[tuple[float, str]]

    def held_scores(self, head: FittedHead) -> Array:
        return head.scores(self.held.views[head.view].rows)


class TrainerContract:
    """Set `trainer`; `options` to those of a Train; `min_per_class`, `needs_descriptions` and `reads_weights` as its TrainerSpec
    has them.

    `floor` is the quality (see `quality`) that must be reached on rows that were not learned from. `tolerance`, of the largest
    score, is for what is computed once for several subsets. `chooses_view` is False where the first view is always taken.
    """

    trainer: ClassVar[type[Trainer]]
    options: ClassVar[Mapping[str, Any]] = {}
    min_per_class: ClassVar[int] = 2
    needs_descriptions: ClassVar[bool] = False
    reads_weights: ClassVar[bool] = False
    floor: ClassVar[float] = 0.9
    tolerance: ClassVar[float] = 1e-3
    chooses_view: ClassVar[bool] = True

    @classmethod
    def fit(
        cls, examples: Examples, subsets: Sequence[Array], progress: list[tuple[float, str]] | None = None
    ) -> list[FittedHead]:
        calls = [] if progress is None else progress
        chosen = options.parse(cls.trainer.options, cls.options)
        return fit_heads(cls.trainer, examples, subsets, chosen, 7, 1, lambda done, words: calls.append((done, words)))

    @classmethod
    def problem(cls, target: Target, count: int = 120, dim: int = 16, seed: int = 0) -> Examples:
        return problem(target, count, dim, seed, described=cls.needs_descriptions)

    @classmethod
    def learned(cls, examples: Examples, subset: Array | None = None) -> tuple[FittedHead, Array]:
        """A head of those rows (all by default), with its scores of all rows, which are finite."""
        [head] = cls.fit(examples, [np.arange(examples.count) if subset is None else subset])
        scores = head.scores(examples.views[head.view].rows)
        bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        assert not len(bad), f"scores of row {bad[:1].tolist()} are not finite: {scores[bad[:1]].tolist()}"
        return head, scores

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test of a subject or a target once for each that the trainer claims."""
        targets = sorted(self.trainer.targets)
        if "subject" in metafunc.fixturenames:
            metafunc.parametrize("subject", targets, indirect=True, scope="class", ids=str)
        elif "target" in metafunc.fixturenames:
            metafunc.parametrize("target", targets, ids=str)

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, request: pytest.FixtureRequest) -> TrainedSubject:
        examples = cls.problem(request.param)
        together = examples.together
        subsets = [np.arange(2 * examples.count // 3 // together * together), np.arange(examples.count)]
        progress: list[tuple[float, str]] = []
        return TrainedSubject(
            examples, cls.problem(request.param, seed=1), subsets, cls.fit(examples, subsets, progress), progress
        )

    def test_options_have_help_and_defaults(self) -> None:
        check_options(self.trainer.options)

    def test_there_is_a_head_for_each_subset(self, subject: TrainedSubject) -> None:
        for number, head in enumerate(subject.heads):
            scores = subject.held_scores(head)
            bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
            assert not len(bad), f"head {number} scores row {bad[:1].tolist()} as {scores[bad[:1]].tolist()}, which is not finite"

    def test_what_was_chosen_and_tried_is_json(self, subject: TrainedSubject) -> None:
        seen = {(view.tap, view.pooling) for view in subject.examples.views}
        for head in subject.heads:
            _check_json("chosen", dict(head.chosen))
            _check_json("trials", [dataclasses.asdict(trial) for trial in head.trials])
            strange = {(trial.tap, trial.pooling) for trial in head.trials} - seen
            assert not strange, f"trials speak of the views {strange}, and there are {seen}"
            assert head.measure or not head.trials, "measure is empty: say what the scores of the trials are"

    def test_progress_goes_from_0_to_1(self, subject: TrainedSubject) -> None:
        done = [fraction for fraction, _ in subject.progress]
        assert done, "fit called report never: the caller sees nothing of a long training"
        assert done == sorted(done), f"the progress went back: {done}"
        assert 0 <= done[0] <= done[-1] <= 1, f"progress is a fraction from 0 to 1, and was {done[0]} to {done[-1]}"
        assert all(words for _, words in subject.progress), "a report says nothing of what is done"

    def test_it_learns_what_is_easy(self, subject: TrainedSubject) -> None:
        for head in subject.heads:
            found = quality(subject.held, subject.held_scores(head))
            assert found >= self.floor, f"quality on rows that were not learned from is {found:.3f}, and must be {self.floor}"

    def test_probabilities_are_better_than_chance(self, subject: TrainedSubject) -> None:
        scores, values = subject.held_scores(subject.heads[-1]).astype(np.float64), subject.held.values
        if subject.held.target is Target.CLASSES:
            likelihood = scores[np.arange(len(values)), values] - np.logaddexp.reduce(scores, axis=1)
            found, chance = likelihood.mean(), -np.log(scores.shape[1])
            assert found > 0.9 * chance, (
                f"the mean log likelihood of the softmax of the scores is {found:.3f}, and chance has {chance:.3f}: scores are"
                " logits, larger where likelier, and not cosines, distances or probabilities"
            )
        elif subject.held.target is Target.LABELS:
            found = -np.logaddexp(0, np.where(values > 0.5, -scores, scores)).mean()
            assert found > 0.9 * -np.log(2), (
                f"the mean log likelihood of each label's sigmoid is {found:.3f}, and chance has -0.693: scores are logits, above"
                " 0 where a label is likelier than not"
            )

    def test_a_row_does_not_depend_on_its_batch_mates(self, subject: TrainedSubject) -> None:
        head = subject.heads[-1]
        rows, whole = subject.held.views[head.view].rows, subject.held_scores(head)
        error = 1e-5 * max(1, np.abs(whole).max())
        together = subject.held.together
        backwards = np.arange(len(rows)).reshape(-1, together)[::-1].ravel()
        np.testing.assert_allclose(head.scores(rows[backwards]), whole[backwards], atol=error, err_msg=BATCH)
        for one in (0, 5):
            mine = slice(one * together, (one + 1) * together)
            alone = head.scores(rows[mine])
            np.testing.assert_allclose(alone, whole[mine], atol=error, err_msg=f"row {one} alone: {BATCH}")
            beside_far = np.concatenate([1000 * rows[: 3 * together], rows[mine]])
            found = head.scores(beside_far)[-together:]
            np.testing.assert_allclose(
                found, whole[mine], atol=error, err_msg=f"row {one} beside rows 1000 times as long: {BATCH}"
            )

    def test_the_graph_gives_the_same_scores(self, subject: TrainedSubject, tmp_path: Path) -> None:
        for head in subject.heads:
            model = head.graph()
            opsets = {opset.domain: opset.version for opset in model.opset_import}
            assert opsets == {"": 20}, f"the graph imports {opsets}, and must import ONNX's own operators of opset 20 alone"
            path = tmp_path / "head.onnx"
            path.write_bytes(model.SerializeToString())
            session = Session(path, threads=1)
            ends = session.inputs, session.outputs
            assert ends == (("rows",), ("scores",)), f"the graph goes from {ends[0]} to {ends[1]}; name them rows and scores"
            held = subject.held.views[head.view].rows
            for rows in (held, held[: subject.held.together]):
                expected = head.scores(rows)
                [found] = session.run(["scores"], {"rows": rows})
                assert found.dtype == np.float32, f"the graph gives {found.dtype}, and must give float32"
                error = 1e-4 * max(1, np.abs(expected).max())
                np.testing.assert_allclose(found, expected, atol=error, rtol=0, err_msg="graph() gives other scores")

    def test_the_same_arguments_give_the_same_heads(self, subject: TrainedSubject) -> None:
        for one, other in zip(subject.heads, self.fit(subject.examples, subject.subsets), strict=True):
            assert one.chosen == other.chosen, f"the same arguments chose {other.chosen}, and before {one.chosen}: use the seed"
            np.testing.assert_array_equal(
                subject.held_scores(one),
                subject.held_scores(other),
                "the same arguments gave another head: draw from the seed that fit is given",
            )

    def test_rows_outside_of_the_subset_do_not_matter(self, subject: TrainedSubject) -> None:
        inside = len(subject.subsets[0])
        values = subject.examples.values.copy()
        values[inside:] = np.roll(values[inside:], 1, axis=0)
        other = with_rows(replace(subject.examples, values=values), lambda rows: np.where(_after(rows, inside), 3 - rows, rows))
        other = replace(other, unlabeled=subject.examples.unlabeled)
        self._same(subject, self.fit(other, subject.subsets)[0], "rows outside of its subset were changed: it learns from them")

    def test_other_subsets_do_not_matter(self, subject: TrainedSubject) -> None:
        self._same(subject, self.fit(subject.examples, subject.subsets[:1])[0], "other subsets were asked for")

    def _same(self, subject: TrainedSubject, head: FittedHead, how: str) -> None:
        """Check that the head is as the first head of the subject."""
        first = subject.heads[0].chosen
        assert head.chosen == first, f"a head chose {head.chosen}, and chose {first} when {how}"
        expected = subject.held_scores(subject.heads[0])
        error = self.tolerance * max(1, np.abs(expected).max())
        np.testing.assert_allclose(subject.held_scores(head), expected, atol=error, rtol=0, err_msg=f"other scores when {how}")

    def test_the_view_that_tells_more_is_chosen(self, target: Target) -> None:
        examples = self.problem(target)
        [view] = examples.views
        noise = np.random.default_rng(3).standard_normal(view.rows.shape).astype(np.float32)
        views = (FeatureView("early", "row", noise), view, FeatureView("late", "row", noise[::-1].copy()))
        blank = tuple(FeatureView(v.tap, v.pooling, v.rows[:5]) for v in views)
        described = tuple(examples.described[0] if v is view else v.rows[:CENTRES] for v in views) if examples.described else ()
        both = replace(examples, views=views, unlabeled=blank, described=described)
        found, wanted = self.learned(both)[0].view, 1 if self.chooses_view else 0
        assert found == wanted, f"view {found} was chosen, and view {wanted} tells the values (see chooses_view)"

    def test_dull_columns_are_survived(self, target: Target) -> None:
        examples = self.problem(target)

        def dull(rows: Array) -> Array:
            rows = rows.copy()
            rows[:, -3:] = (0, 1, -1000)
            return rows

        self.learned(with_rows(examples, dull))
        self.learned(with_rows(examples, np.ones_like))
        self.learned(with_rows(examples, np.zeros_like))

    @pytest.mark.parametrize("scale", [1e-3, 1e3])
    def test_scales_are_survived(self, target: Target, scale: float) -> None:
        examples = with_rows(self.problem(target), lambda rows: rows * np.float32(scale))
        if target is Target.NUMBERS:
            examples = replace(examples, values=examples.values * 1000 + 5000)
        examples = replace(examples, described=tuple(rows * np.float32(scale) for rows in examples.described))
        found = quality(examples, self.learned(examples)[1])
        assert found >= self.floor, f"rows {scale:g} times as long give a quality of {found:.3f}, and must give {self.floor}"

    def test_a_class_that_is_missing_is_not_expected(self) -> None:
        for target in {Target.CLASSES} & self.trainer.targets:
            examples = self.problem(target)
            others = examples.values != 2
            _, scores = self.learned(examples, np.flatnonzero(others))
            taken = np.flatnonzero(scores[others].argmax(axis=1) == 2)
            assert self.needs_descriptions or not len(taken), (
                f"row {taken[:1].tolist()} is taken for a class of which no example was seen: its score must be low"
            )

    def test_few_rows_will_do(self, target: Target) -> None:
        examples = self.problem(target)
        _, scores = self.learned(examples, few(examples, max(1, self.min_per_class)))
        assert target is not Target.CLASSES or quality(examples, scores) > 0.5

    def test_more_columns_than_rows_will_do(self, target: Target) -> None:
        examples = self.problem(target, 24, 64)
        _, scores = self.learned(examples)
        assert quality(examples, scores) > 0.5

    def test_heavy_rows_are_believed(self, target: Target) -> None:
        """Each row twice, with another value: one counts for 20 times the other."""
        once = self.problem(target)
        others = {Target.CLASSES: (once.values + 1) % CENTRES, Target.LABELS: 1 - once.values, Target.NUMBERS: -once.values}
        if not self.reads_weights or target not in others:
            return
        views = tuple(FeatureView(view.tap, view.pooling, np.repeat(view.rows, 2, axis=0)) for view in once.views)
        values = np.stack([once.values, others[target]], axis=1).reshape(-1, *once.values.shape[1:])
        items, groups = np.arange(2 * once.count), np.repeat(once.groups, 2)
        weights = np.tile(np.array([1, 20], np.float32), once.count)
        twice = replace(once, views=views, values=values, items=items, groups=groups, unlabeled=(), weights=weights)
        _, scores = self.learned(twice)
        assert quality(replace(once, values=others[target]), scores[::2]) > 0.8, "what weighs more was not believed"

    def test_nothing_to_learn_from_is_refused(self, target: Target) -> None:
        examples = self.problem(target)
        if self.needs_descriptions:
            with _refused("classes without descriptions"):
                self.learned(replace(examples, described=()))
        if self.min_per_class == 0:
            self.learned(examples, np.arange(0))
            return
        with _refused("a subset without rows"):
            self.learned(examples, np.arange(0))


@contextmanager
def _refused(what: str) -> Iterator[None]:
    try:
        yield
    except InvalidInput:
        return
    except Exception as error:
        pytest.fail(f"{what} ended in {type(error).__name__}: {error}; raise InvalidInput, and say what is needed")
    pytest.fail(f"{what} was learned from; raise InvalidInput, and say what is needed")


def _check_json(name: str, value: Any) -> None:
    try:
        same = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        pytest.fail(f"{name} is no JSON ({error}): {value}")
    assert same == value, f"{name} comes back from JSON as {same}, and was {value}: use plain numbers, texts, lists and dicts"


def _after(rows: Array, inside: int) -> Array:
    """Return (n, 1) bool: whether a row stands after the first `inside`."""
    return (np.arange(len(rows)) >= inside)[:, None]
