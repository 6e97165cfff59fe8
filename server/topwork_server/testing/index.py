"""The contract that every kind of index keeps, as a pytest class. A plugin author subclasses it:

    from topwork_server.testing import IndexContract

    class TestMine(IndexContract):
        index = MyIndex

Rows are clustered, as features are: 2,000 x 32 around 40 centers. Of COSINE they are unit vectors, as the server hands them over.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from topwork_server.errors import InvalidInput
from topwork_server.plugin_api.result_checks import search_index
from topwork_server.plugin_api.vector_index import Metric, VectorIndex
from topwork_server.testing.vectors import ArrayVectors, K, clustered, nearest, recall, true_scores
from topwork_server.types import Array

QUERIES = 40
#: Of searches at once: a search that keeps its state on the object was caught in the first of them, each time of a hundred.
ROUNDS = 4


@dataclass
class BuiltSubject:
    """An index that was built, and what it was built from."""

    index: VectorIndex
    metric: Metric
    rows: Array
    queries: Array
    progress: list[tuple[float, str]]

    def search(self, k: int = K, **more: Any) -> tuple[Array, Array]:
        more.setdefault("effort", self.index.efforts()[-1])
        more.setdefault("threads", 1)
        return search_index(self.index, more.pop("queries", self.queries), k, **more)


class IndexContract:
    """Set `index`; lower `floor` (recall at 10 with the last effort) and `score_error` (of the rows' scale) for lossy codes.

    `metrics` are those that it knows; a build by any other must be refused with InvalidInput.
    """

    index: ClassVar[type[VectorIndex]]
    options: ClassVar[Mapping[str, Any]] = {}
    metrics: ClassVar[tuple[Metric, ...]] = tuple(Metric)
    rows: ClassVar[int] = 2000
    dim: ClassVar[int] = 32
    floor: ClassVar[float] = 0.95
    score_error: ClassVar[float] = 1e-4

    @classmethod
    def _floor(cls, index: VectorIndex) -> float:
        """Return the least recall: what leaves no row out, and has the rows as they were, misses none."""
        return 1.0 if index.thorough and index.vectors(np.array([0])) is not None else cls.floor

    @classmethod
    def build(cls, rows: Array, metric: Metric, progress: list[tuple[float, str]] | None = None) -> VectorIndex:
        calls = [] if progress is None else progress
        options = cls.index.options(**cls.options)
        return cls.index.build(ArrayVectors(rows), metric, options, 0.95, 1, lambda done, words: calls.append((done, words)))

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test of a subject once a metric."""
        if "subject" in metafunc.fixturenames:
            metafunc.parametrize("subject", self.metrics, indirect=True, scope="class", ids=str)

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, request: pytest.FixtureRequest) -> BuiltSubject:
        metric: Metric = request.param
        rows = clustered(cls.rows, cls.dim, metric)
        progress: list[tuple[float, str]] = []
        return BuiltSubject(
            cls.build(rows, metric, progress), metric, rows, clustered(QUERIES, cls.dim, metric, seed=1), progress
        )

    def test_it_says_what_it_is(self, subject: BuiltSubject) -> None:
        index = subject.index
        efforts = index.efforts()
        assert efforts, "efforts() is empty; (0,) says that there is nothing to choose"
        assert efforts == tuple(sorted(set(efforts))), f"efforts() is {efforts}, and must be a tuple that ascends"
        assert index.count == len(subject.rows), f"count is {index.count} after a build of {len(subject.rows)} rows"
        assert isinstance(index.name, str), f"name is {index.name!r}, and must be a text"
        assert index.name, "name is empty; say what was built, such as IVF1024,Flat"
        assert index.thorough or not index.exact, "an index that is exact is thorough, too"
        assert 0 <= index.trained_on <= index.count, f"trained_on is {index.trained_on}, of {index.count} rows"
        assert index.memory >= index.count, f"memory is {index.memory} bytes for {index.count} rows; it is in bytes"

    def test_progress_is_told_from_0_to_1(self, subject: BuiltSubject) -> None:
        done = [fraction for fraction, _ in subject.progress]
        assert done, "build called report never: the caller sees nothing of a long build"
        assert done == sorted(done), f"the progress went back: {done}"
        assert 0 <= done[0] <= done[-1] <= 1, f"progress is a fraction from 0 to 1, and was {done[0]} to {done[-1]}"
        silent = [fraction for fraction, words in subject.progress if not words]
        assert not silent, f"the report at {silent[:1]} says nothing of what is done"

    def test_the_last_effort_finds_the_nearest(self, subject: BuiltSubject) -> None:
        _, positions = subject.search()
        self._check_recall(subject.index, positions, nearest(subject.queries, subject.rows, subject.metric))

    def test_scores_are_the_metrics_own_and_best_first(self, subject: BuiltSubject) -> None:
        scores, positions = subject.search()
        assert (positions >= 0).all(), f"query {_first(positions < 0)} got fewer than {K} rows of {len(subject.rows)}"
        for query, row in enumerate(positions):
            assert len(set(row)) == K, f"query {query} got a row twice: {row.tolist()}"
        falls = np.diff(scores) * (1 if subject.metric is Metric.L2 else -1) < 0
        assert not falls.any(), (
            f"query {_first(falls)} got its rows in another order than best first: {scores[_first(falls)].tolist()}"
        )
        true = np.take_along_axis(true_scores(subject.queries, subject.rows, subject.metric), positions, axis=1)
        far = np.abs(scores - true) > self.score_error * np.abs(true).max()
        at = _first(far)
        assert not far.any(), (
            f"query {at} got the scores {scores[at].tolist()} of {subject.metric}, and they are {true[at].tolist()}: cosine and"
            " inner product are larger where nearer, l2 is the distance itself and not its square"
        )

    @classmethod
    def _check_recall(cls, index: VectorIndex, found: Array, expected: Array) -> None:
        """Check that the recall is at least what the kind promises; the message shows the query that is furthest from it."""
        each = np.array([recall(f[None], e[None]) for f, e in zip(found, expected, strict=True)])
        worst, floor = int(each.argmin()), cls._floor(index)
        assert each.mean() >= floor, (
            f"recall at {expected.shape[1]} is {each.mean():.3f}, and must be {floor} at the last effort; query {worst} got"
            f" the rows {found[worst].tolist()}, and its nearest are {expected[worst].tolist()}"
        )

    @pytest.mark.parametrize("share", [0.5, 0.05, 0.001])
    def test_a_mask_is_honored_and_filled(self, subject: BuiltSubject, share: float) -> None:
        allowed = np.zeros(len(subject.rows), bool)
        allowed[np.random.default_rng(2).permutation(len(allowed))[: max(3, int(share * len(allowed)))]] = True
        mask = np.packbits(allowed, bitorder="little")
        expected = nearest(subject.queries, subject.rows, subject.metric, allowed)[:, : min(K, allowed.sum())]
        for effort in (subject.index.efforts()[0], subject.index.efforts()[-1]):
            scores, positions = subject.search(mask=mask, effort=effort)
            found, most = positions >= 0, min(K, int(allowed.sum()))
            few = found.sum(axis=1) != most
            assert not few.any(), (
                f"query {_first(few)} got {found[_first(few)].sum()} rows at effort {effort}, and the mask leaves {most} or more"
            )
            wrong = positions[found][~allowed[positions[found]]]
            assert not len(wrong), (
                f"row {wrong[:1].tolist()} was found, and the mask leaves it out (bit i is 1 << i % 8 of byte i // 8)"
            )
            assert not np.isnan(scores).any(), "a score is NaN where nothing was found; any other number will do"
        self._check_recall(subject.index, positions, expected)

    def test_a_metric_that_it_does_not_know_is_refused(self) -> None:
        for metric in set(Metric) - set(self.metrics):
            with pytest.raises(InvalidInput):
                self.build(clustered(self.rows, self.dim, metric), metric)

    def test_a_mask_of_nothing_finds_nothing(self, subject: BuiltSubject) -> None:
        scores, positions = subject.search(mask=np.zeros((len(subject.rows) + 7) // 8, np.uint8))
        assert (positions == -1).all(), f"row {positions.max()} was found, and the mask leaves none"
        assert not np.isnan(scores).any(), "a score is NaN where nothing was found; any other number will do"

    @pytest.mark.parametrize("which", [0, -1])
    def test_more_may_be_asked_for_than_there_are(self, subject: BuiltSubject, which: int) -> None:
        few = subject.queries[:3]
        _, positions = subject.search(len(subject.rows) + 5, queries=few, effort=subject.index.efforts()[which])
        for query, row in enumerate(positions):
            assert sorted(row[:-5]) == list(range(len(subject.rows))), f"query {query}, asked for all rows, did not get each once"
        assert (positions[:, -5:] == -1).all(), "where more is asked for than there is, the rest of the positions is -1"

    def test_threads_change_nothing(self, subject: BuiltSubject) -> None:
        _, alone = subject.search(threads=1)
        _, together = subject.search(threads=2)
        np.testing.assert_array_equal(alone, together, "with 2 threads other rows are found than with 1")

    def test_a_search_leaves_its_arguments_and_earlier_answers_as_they_were(self, subject: BuiltSubject) -> None:
        queries, mask = subject.queries.copy(), np.full((len(subject.rows) + 7) // 8, 255, np.uint8)
        first = subject.search(queries=queries, mask=mask)
        kept = [array.copy() for array in first]
        subject.search(queries=queries[::-1].copy())
        np.testing.assert_array_equal(queries, subject.queries, "search changed the queries that it was given")
        assert (mask == 255).all(), "search changed the mask that it was given"
        for name, before, now in zip(("scores", "positions"), kept, first, strict=True):
            np.testing.assert_array_equal(before, now, f"the {name} of an earlier search were changed: give each its own array")

    def test_concurrent_searches_get_their_own_answers(self, subject: BuiltSubject) -> None:
        """Searches of other queries, sizes and efforts at once, with threads that Python switches as often as it can."""
        efforts, random = subject.index.efforts(), np.random.default_rng(5)
        asks: list[dict[str, Any]] = [
            {
                "queries": subject.queries[random.permutation(QUERIES)[: 1 + i % 3]],
                "effort": efforts[i % len(efforts)],
                "k": 1 + i % 20,
            }
            for i in range(48)
        ]
        expected = [subject.search(**ask) for ask in asks]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(8) as pool:
                for _ in range(ROUNDS):
                    for i, found in enumerate(pool.map(lambda ask: subject.search(**ask), asks)):
                        self._check_own(i, found, expected, subject)
        finally:
            sys.setswitchinterval(interval)

    def _check_own(self, i: int, found: tuple[Array, Array], expected: list[tuple[Array, Array]], subject: BuiltSubject) -> None:
        if np.array_equal(found[1], expected[i][1]) and np.allclose(found[0], expected[i][0], rtol=1e-4, atol=1e-4):
            return
        others = [j for j, (_, positions) in enumerate(expected) if j != i and np.array_equal(positions, found[1])]
        whose = f"which is the answer to search {others[0]}, beside it" if others else "which is nobody's answer"
        pytest.fail(
            f"search {i} of several at once got the rows {found[1].tolist()}, {whose}; alone it gets {expected[i][1].tolist()}."
            f" Likely {type(subject.index).__name__}.search keeps its queries, its settings or its results on the object (self)"
        )

    def test_vectors_are_those_that_were_added_or_none(self, subject: BuiltSubject) -> None:
        positions = np.array([5, 0, len(subject.rows) - 1, 5])
        found = subject.index.vectors(positions)
        if found is not None:
            np.testing.assert_array_equal(
                found, subject.rows[positions], "vectors() gives other rows than were added: return None"
            )

    def test_a_saved_index_answers_alike(self, subject: BuiltSubject, tmp_path: Path) -> None:
        subject.index.save(tmp_path / "index")
        written = sorted(path.name for path in tmp_path.iterdir())
        assert written == ["index"], f"save wrote {written}, and must write the one file that it was given"
        assert (tmp_path / "index").is_file(), "save made a folder, and must write one file"
        loaded = self.index.load(tmp_path / "index", subject.metric)
        for name in ("count", "name", "trained_on", "exact"):
            was, now = getattr(subject.index, name), getattr(loaded, name)
            assert now == was, f"{name} is {now!r} after save and load, and was {was!r}"
        assert loaded.efforts() == subject.index.efforts(), "efforts() differ after save and load"
        before, after = subject.search(), BuiltSubject(loaded, subject.metric, subject.rows, subject.queries, []).search()
        np.testing.assert_array_equal(before[1], after[1], "other rows are found after save and load")
        np.testing.assert_array_equal(before[0], after[0], "other scores are given after save and load")

    def test_a_damaged_file_is_not_loaded(self, subject: BuiltSubject, tmp_path: Path) -> None:
        path = tmp_path / "index"
        subject.index.save(path)
        whole = path.read_bytes()
        half = len(whole) // 2
        for wrong in (b"", b"garbage" * 100, whole[:half], whole[:-1]):  # the server itself checks its sum for bits that turned
            path.write_bytes(wrong)
            _check_refused(self.index, path, subject.metric, f"a file of {len(whole)} bytes that is damaged ({len(wrong)} bytes)")
        _check_refused(self.index, tmp_path / "no-such-file", subject.metric, "a file that is not there")

    def test_a_loaded_index_takes_more_rows(self, subject: BuiltSubject, tmp_path: Path) -> None:
        subject.index.save(tmp_path / "index")
        index = self.index.load(tmp_path / "index", subject.metric)
        more = clustered(150, self.dim, subject.metric, seed=3)
        given = more.copy()
        index.add(given, threads=1)
        given[:] = np.nan  # the server's buffer is used again
        rows = np.concatenate([subject.rows, more])
        assert index.count == len(rows), f"count is {index.count} after {len(more)} rows were added to {len(subject.rows)}"
        _, positions = search_index(index, more, K, effort=index.efforts()[-1], threads=1)
        assert (positions >= len(subject.rows)).any(), "none of the rows that were added is found, not even by itself"
        self._check_recall(index, positions, nearest(more, rows, subject.metric))
        found = index.vectors(np.array([len(rows) - 1]))
        assert found is None or np.array_equal(found[0], more[-1]), (
            "vectors() gives another row at the place of one that was added"
        )

    @pytest.mark.parametrize("count", [0, 1, 10, 300])
    def test_few_rows_will_do(self, count: int) -> None:
        metric = self.metrics[0]
        rows = clustered(count, self.dim, metric)
        index = self.build(rows, metric)
        index.add(clustered(5, self.dim, metric, seed=4), threads=1)
        scores, positions = search_index(index, clustered(3, self.dim, metric, seed=1), K, effort=index.efforts()[-1], threads=1)
        assert index.count == count + 5, f"count is {index.count} after a build of {count} rows and 5 more"
        found = (positions >= 0).sum(axis=1)
        assert (found == min(K, count + 5)).all(), f"of {count + 5} rows {found.tolist()} were found, and {K} were asked for"
        assert not np.isnan(scores).any(), "a score is NaN where nothing was found; any other number will do"


def _first(flags: Array) -> int:
    """Return the first line with a flag that is set; 0 where none is."""
    return int(np.argmax(flags.reshape(len(flags), -1).any(axis=1)))


def _check_refused(index: type[VectorIndex], path: Path, metric: Metric, what: str) -> None:
    try:
        index.load(path, metric)
    except Exception:  # any will do: the server then builds the index from its set
        return
    pytest.fail(f"load took {what}; it must raise, and the server then builds the index from its set")
