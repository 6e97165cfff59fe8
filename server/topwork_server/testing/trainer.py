"""The contract that every trainer keeps, as a pytest class. A plugin author subclasses it:

    from topwork_server.testing import TrainerContract

    class TestMine(TrainerContract):
        trainer = MyTrainer

It runs once a target that the trainer claims, on problems of `problems`: rows around four centres, which tell the values.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from topwork_server import options
from topwork_server.errors import InvalidInput
from topwork_server.sessions.session import Session
from topwork_server.testing.problems import CENTRES, few, problem, quality, with_rows
from topwork_server.trainer import Examples, Fitted, Target, Trainer, View
from topwork_server.types import Array


@dataclass
class Subject:
    """Heads of two subsets, and what they learnt from."""

    examples: Examples
    held: Examples
    subsets: list[Array]
    heads: list[Fitted]
    progress: list[tuple[float, str]]

    def said(self, head: Fitted) -> Array:
        return head.scores(self.held.views[head.view].rows)


class TrainerContract:
    """Set `trainer`; `options` to those of a Train; `least_per_class` and `needs_descriptions` as its TrainerSpec has them.

    `floor` is the quality (see `quality`) that must be reached on rows that were not learnt from. `tolerance`, of the largest
    score, is for what is computed once for several subsets. `chooses_view` is False where the first view is always taken.
    """

    trainer: ClassVar[type[Trainer]]
    options: ClassVar[Mapping[str, Any]] = {}
    least_per_class: ClassVar[int] = 2
    needs_descriptions: ClassVar[bool] = False
    floor: ClassVar[float] = 0.9
    tolerance: ClassVar[float] = 1e-3
    chooses_view: ClassVar[bool] = True

    @classmethod
    def fit(cls, examples: Examples, subsets: Sequence[Array], progress: list[tuple[float, str]] | None = None) -> list[Fitted]:
        said = [] if progress is None else progress
        chosen = options.parse(cls.trainer.options, cls.options)
        return cls.trainer.fit(examples, subsets, chosen, 7, 1, lambda done, words: said.append((done, words)))

    @classmethod
    def problem(cls, target: Target, count: int = 120, dim: int = 16, seed: int = 0) -> Examples:
        return problem(target, count, dim, seed, described=cls.needs_descriptions)

    @classmethod
    def learnt(cls, examples: Examples, subset: Array | None = None) -> tuple[Fitted, Array]:
        """A head of those rows (all by default), with its scores of all rows, which are finite."""
        [head] = cls.fit(examples, [np.arange(examples.count) if subset is None else subset])
        scores = head.scores(examples.views[head.view].rows)
        assert np.isfinite(scores).all()
        return head, scores

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Each test of a subject or a target runs once for each that the trainer claims."""
        targets = sorted(self.trainer.targets)
        if "subject" in metafunc.fixturenames:
            metafunc.parametrize("subject", targets, indirect=True, scope="class", ids=str)
        elif "target" in metafunc.fixturenames:
            metafunc.parametrize("target", targets, ids=str)

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, request: pytest.FixtureRequest) -> Subject:
        examples = cls.problem(request.param)
        subsets = [np.arange(2 * examples.count // 3), np.arange(examples.count)]
        progress: list[tuple[float, str]] = []
        return Subject(examples, cls.problem(request.param, seed=1), subsets, cls.fit(examples, subsets, progress), progress)

    def test_options_have_help_and_defaults(self) -> None:
        assert dataclasses.is_dataclass(self.trainer.options)
        assert options.parse(self.trainer.options, {}) == self.trainer.options()
        for choice in options.choices(self.trainer.options):
            assert choice.description, choice.name

    def test_there_is_a_head_for_each_subset(self, subject: Subject) -> None:
        assert len(subject.heads) == len(subject.subsets)
        outputs = {Target.NUMBERS: 1, Target.SPAN: 2}.get(subject.examples.target, len(subject.examples.names))
        for head in subject.heads:
            assert 0 <= head.view < len(subject.examples.views)
            scores = subject.said(head)
            assert scores.shape == (subject.held.count, outputs)
            assert scores.dtype == np.float32
            assert np.isfinite(scores).all()

    def test_what_was_chosen_and_tried_is_json(self, subject: Subject) -> None:
        seen = {(view.tap, view.pooling) for view in subject.examples.views}
        for head in subject.heads:
            assert json.loads(json.dumps(dict(head.chosen), allow_nan=False)) == dict(head.chosen)
            json.dumps([dataclasses.asdict(trial) for trial in head.trials], allow_nan=False)
            assert {(trial.tap, trial.pooling) for trial in head.trials} <= seen
            assert head.measure or not head.trials

    def test_progress_goes_from_0_to_1(self, subject: Subject) -> None:
        done = [fraction for fraction, _ in subject.progress]
        assert done, "nothing was reported"
        assert done == sorted(done)
        assert 0 <= done[0] <= done[-1] <= 1
        assert all(words for _, words in subject.progress)

    def test_it_learns_what_is_easy(self, subject: Subject) -> None:
        for head in subject.heads:
            assert quality(subject.held, subject.said(head)) >= self.floor

    def test_probabilities_are_better_than_chance(self, subject: Subject) -> None:
        scores, values = subject.said(subject.heads[-1]).astype(np.float64), subject.held.values
        if subject.held.target is Target.CLASSES:
            likelihood = scores[np.arange(len(values)), values] - np.logaddexp.reduce(scores, axis=1)
            assert likelihood.mean() > 0.9 * -np.log(scores.shape[1])
        elif subject.held.target is Target.LABELS:
            assert -np.logaddexp(0, np.where(values > 0.5, -scores, scores)).mean() > 0.9 * -np.log(2)

    def test_a_row_does_not_depend_on_its_batch_mates(self, subject: Subject) -> None:
        head = subject.heads[-1]
        rows, whole = subject.held.views[head.view].rows, subject.said(head)
        error = 1e-5 * max(1, np.abs(whole).max())
        backwards = head.scores(np.ascontiguousarray(rows[::-1]))[::-1]
        np.testing.assert_allclose(backwards, whole, atol=error)
        for one in (0, 5):
            np.testing.assert_allclose(head.scores(rows[one : one + 1])[0], whole[one], atol=error)
            beside_far = np.concatenate([1000 * rows[:3], rows[one : one + 1]])
            np.testing.assert_allclose(head.scores(beside_far)[-1], whole[one], atol=error)

    def test_the_graph_gives_the_same_scores(self, subject: Subject, tmp_path: Path) -> None:
        for head in subject.heads:
            model = head.graph()
            assert {opset.domain: opset.version for opset in model.opset_import} == {"": 20}
            path = tmp_path / "head.onnx"
            path.write_bytes(model.SerializeToString())
            session = Session(path, threads=1)
            assert (session.inputs, session.outputs) == (("rows",), ("scores",))
            for rows in (subject.held.views[head.view].rows, subject.held.views[head.view].rows[:1]):
                expected = head.scores(rows)
                [found] = session.run(["scores"], {"rows": rows})
                assert found.dtype == np.float32
                np.testing.assert_allclose(found, expected, atol=1e-4 * max(1, np.abs(expected).max()), rtol=0)

    def test_the_same_arguments_give_the_same_heads(self, subject: Subject) -> None:
        for one, other in zip(subject.heads, self.fit(subject.examples, subject.subsets), strict=True):
            assert one.chosen == other.chosen
            np.testing.assert_array_equal(subject.said(one), subject.said(other))

    def test_rows_outside_of_the_subset_do_not_matter(self, subject: Subject) -> None:
        inside = len(subject.subsets[0])
        values = subject.examples.values.copy()
        values[inside:] = np.roll(values[inside:], 1, axis=0)
        other = with_rows(replace(subject.examples, values=values), lambda rows: np.where(_after(rows, inside), 3 - rows, rows))
        other = replace(other, unlabelled=subject.examples.unlabelled)
        self._same(subject, self.fit(other, subject.subsets)[0])

    def test_other_subsets_do_not_matter(self, subject: Subject) -> None:
        self._same(subject, self.fit(subject.examples, subject.subsets[:1])[0])

    def _same(self, subject: Subject, head: Fitted) -> None:
        """As the first head of the subject."""
        assert head.chosen == subject.heads[0].chosen
        expected = subject.said(subject.heads[0])
        np.testing.assert_allclose(subject.said(head), expected, atol=self.tolerance * max(1, np.abs(expected).max()), rtol=0)

    def test_the_view_that_tells_more_is_chosen(self, target: Target) -> None:
        examples = self.problem(target)
        [view] = examples.views
        noise = np.random.default_rng(3).standard_normal(view.rows.shape).astype(np.float32)
        views = (View("early", "row", noise), view, View("late", "row", noise[::-1].copy()))
        blank = tuple(View(v.tap, v.pooling, v.rows[:5]) for v in views)
        described = tuple(examples.described[0] if v is view else v.rows[:CENTRES] for v in views) if examples.described else ()
        both = replace(examples, views=views, unlabelled=blank, described=described)
        assert self.learnt(both)[0].view == (1 if self.chooses_view else 0)

    def test_dull_columns_are_survived(self, target: Target) -> None:
        examples = self.problem(target)

        def dull(rows: Array) -> Array:
            rows = rows.copy()
            rows[:, -3:] = (0, 1, -1000)
            return rows

        self.learnt(with_rows(examples, dull))
        self.learnt(with_rows(examples, np.ones_like))
        self.learnt(with_rows(examples, np.zeros_like))

    @pytest.mark.parametrize("scale", [1e-3, 1e3])
    def test_scales_are_survived(self, target: Target, scale: float) -> None:
        examples = with_rows(self.problem(target), lambda rows: rows * np.float32(scale))
        if target is Target.NUMBERS:
            examples = replace(examples, values=examples.values * 1000 + 5000)
        examples = replace(examples, described=tuple(rows * np.float32(scale) for rows in examples.described))
        assert quality(examples, self.learnt(examples)[1]) >= self.floor

    def test_a_class_that_is_missing_is_not_expected(self) -> None:
        for target in {Target.CLASSES} & self.trainer.targets:
            examples = self.problem(target)
            others = examples.values != 2
            _, scores = self.learnt(examples, np.flatnonzero(others))
            assert self.needs_descriptions or (scores[others].argmax(axis=1) != 2).all()

    def test_few_rows_will_do(self, target: Target) -> None:
        examples = self.problem(target)
        _, scores = self.learnt(examples, few(examples, max(1, self.least_per_class)))
        assert target is not Target.CLASSES or quality(examples, scores) > 0.5

    def test_more_columns_than_rows_will_do(self, target: Target) -> None:
        examples = self.problem(target, 24, 64)
        _, scores = self.learnt(examples)
        assert quality(examples, scores) > 0.5

    def test_nothing_to_learn_from_is_refused(self, target: Target) -> None:
        examples = self.problem(target)
        if self.needs_descriptions:
            with pytest.raises(InvalidInput):
                self.learnt(replace(examples, described=()))
        if self.least_per_class == 0:
            self.learnt(examples, np.arange(0))
            return
        with pytest.raises(InvalidInput):
            self.learnt(examples, np.arange(0))

    def test_a_target_that_it_does_not_claim_is_refused(self) -> None:
        for target in set(Target) - self.trainer.targets:
            with pytest.raises(InvalidInput):
                self.learnt(self.problem(target))


def _after(rows: Array, inside: int) -> Array:
    """(n, 1) bool: whether a row stands after the first `inside`."""
    return (np.arange(len(rows)) >= inside)[:, None]
