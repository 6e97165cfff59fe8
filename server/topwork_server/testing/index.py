"""The contract that every kind of index keeps, as a pytest class. A plugin author subclasses it:

    from topwork_server.testing import IndexContract

    class TestMine(IndexContract):
        index = MyIndex

Rows are clustered, as features are: 2,000 x 32 around 40 centres. Of COSINE they are unit vectors, as the server hands them over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from topwork_server.errors import InvalidInput
from topwork_server.types import Array
from topwork_server.vector_index import Metric, VectorIndex

K = 10
QUERIES = 40


class ArrayVectors:
    """Vectors of an array, a few at a time."""

    def __init__(self, rows: Array, batch: int = 700) -> None:
        self.rows = np.ascontiguousarray(rows, np.float32)
        self.count, self.dim = self.rows.shape
        self.batch = batch

    def batches(self) -> Iterator[Array]:
        for start in range(0, self.count, self.batch):
            yield self.rows[start : start + self.batch]

    def sample(self, most: int) -> Array:
        chosen = np.random.default_rng(0).permutation(self.count)[:most]
        return np.ascontiguousarray(self.rows[chosen])


def clustered(rows: int, dim: int, metric: Metric, seed: int = 0) -> Array:
    """(rows, dim) float32 around 40 centres that every seed shares; unit vectors of COSINE."""
    centres = np.random.default_rng(99).standard_normal((40, dim))
    random = np.random.default_rng(seed)
    found = centres[random.integers(40, size=rows)] + 0.5 * random.standard_normal((rows, dim))
    if metric is Metric.COSINE:
        found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found.astype(np.float32)


def true_scores(queries: Array, rows: Array, metric: Metric) -> Array:
    """(q, n) float64 scores as Metric has them."""
    queries, rows = queries.astype(np.float64), rows.astype(np.float64)
    if metric is not Metric.L2:
        return np.asarray(queries @ rows.T)
    return np.asarray(np.sqrt(((queries[:, None] - rows) ** 2).sum(axis=2)))


def nearest(queries: Array, rows: Array, metric: Metric, allowed: Array | None = None) -> Array:
    """(q, K) positions by comparing with every row, allowed ones only."""
    scores = true_scores(queries, rows, metric) * (1 if metric is Metric.L2 else -1)
    if allowed is not None:
        scores[:, ~allowed] = np.inf
    return np.argsort(scores, axis=1, kind="stable")[:, :K]


def recall(found: Array, expected: Array) -> float:
    """The share of `expected` that was found; both (q, k), -1 for nothing."""
    hits = [len(set(f[f >= 0]) & set(e)) / max(1, len(e)) for f, e in zip(found, expected, strict=True)]
    return float(np.mean(hits))


@dataclass
class Subject:
    """An index that was built, and what it was built from."""

    index: VectorIndex
    metric: Metric
    rows: Array
    queries: Array
    progress: list[tuple[float, str]]

    def search(self, k: int = K, **more: Any) -> tuple[Array, Array]:
        more.setdefault("effort", self.index.efforts()[-1])
        more.setdefault("threads", 1)
        return self.index.search(more.pop("queries", self.queries), k, **more)


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
        """What leaves no row out, and has the rows as they were, misses none."""
        return 1.0 if index.thorough and index.vectors(np.array([0])) is not None else cls.floor

    @classmethod
    def build(cls, rows: Array, metric: Metric, progress: list[tuple[float, str]] | None = None) -> VectorIndex:
        said = [] if progress is None else progress
        options = cls.index.options(**cls.options)
        return cls.index.build(ArrayVectors(rows), metric, options, 0.95, 1, lambda done, words: said.append((done, words)))

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Each test of a subject runs once a metric."""
        if "subject" in metafunc.fixturenames:
            metafunc.parametrize("subject", self.metrics, indirect=True, scope="class", ids=str)

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, request: pytest.FixtureRequest) -> Subject:
        metric: Metric = request.param
        rows = clustered(cls.rows, cls.dim, metric)
        progress: list[tuple[float, str]] = []
        return Subject(cls.build(rows, metric, progress), metric, rows, clustered(QUERIES, cls.dim, metric, seed=1), progress)

    def test_it_says_what_it_is(self, subject: Subject) -> None:
        index = subject.index
        efforts = index.efforts()
        assert efforts == tuple(sorted(set(efforts)))
        assert index.count == len(subject.rows)
        assert index.name
        assert index.thorough or not index.exact
        assert 0 <= index.trained_on <= index.count
        assert index.memory >= index.count
        done = [fraction for fraction, _ in subject.progress]
        assert done == sorted(done)
        assert 0 <= done[0] <= done[-1] <= 1
        assert all(words for _, words in subject.progress)

    def test_the_last_effort_finds_the_nearest(self, subject: Subject) -> None:
        _, positions = subject.search()
        assert recall(positions, nearest(subject.queries, subject.rows, subject.metric)) >= self._floor(subject.index)

    def test_scores_are_the_metrics_own_and_best_first(self, subject: Subject) -> None:
        scores, positions = subject.search()
        assert scores.dtype == np.float32
        assert positions.dtype == np.int64
        assert scores.shape == positions.shape == (QUERIES, K)
        assert (positions >= 0).all()
        assert all(len(set(row)) == K for row in positions)
        assert (np.diff(scores) * (1 if subject.metric is Metric.L2 else -1) >= 0).all()
        true = np.take_along_axis(true_scores(subject.queries, subject.rows, subject.metric), positions, axis=1)
        assert np.abs(scores - true).max() <= self.score_error * np.abs(true).max()

    @pytest.mark.parametrize("share", [0.5, 0.05, 0.001])
    def test_a_mask_is_honoured_and_filled(self, subject: Subject, share: float) -> None:
        allowed = np.zeros(len(subject.rows), bool)
        allowed[np.random.default_rng(2).permutation(len(allowed))[: max(3, int(share * len(allowed)))]] = True
        mask = np.packbits(allowed, bitorder="little")
        expected = nearest(subject.queries, subject.rows, subject.metric, allowed)[:, : min(K, allowed.sum())]
        for effort in (subject.index.efforts()[0], subject.index.efforts()[-1]):
            scores, positions = subject.search(mask=mask, effort=effort)
            found = positions >= 0
            assert (found.sum(axis=1) == min(K, allowed.sum())).all(), "fewer were found than are allowed"
            assert allowed[positions[found]].all()
            assert not np.isnan(scores).any()
        assert recall(positions, expected) >= self._floor(subject.index)

    def test_a_metric_that_it_does_not_know_is_refused(self) -> None:
        for metric in set(Metric) - set(self.metrics):
            with pytest.raises(InvalidInput):
                self.build(clustered(self.rows, self.dim, metric), metric)

    def test_a_mask_of_nothing_finds_nothing(self, subject: Subject) -> None:
        scores, positions = subject.search(mask=np.zeros((len(subject.rows) + 7) // 8, np.uint8))
        assert (positions == -1).all()
        assert not np.isnan(scores).any()

    @pytest.mark.parametrize("which", [0, -1])
    def test_more_may_be_asked_for_than_there_are(self, subject: Subject, which: int) -> None:
        few = subject.queries[:3]
        _, positions = subject.search(len(subject.rows) + 5, queries=few, effort=subject.index.efforts()[which])
        assert all(sorted(row[:-5]) == list(range(len(subject.rows))) for row in positions)
        assert (positions[:, -5:] == -1).all()

    def test_threads_change_nothing(self, subject: Subject) -> None:
        _, alone = subject.search(threads=1)
        _, together = subject.search(threads=2)
        np.testing.assert_array_equal(alone, together)

    def test_concurrent_searches_get_their_own_answers(self, subject: Subject) -> None:
        efforts = subject.index.efforts()
        asks = [{"effort": efforts[i % len(efforts)], "k": 1 + i % 20} for i in range(32)]
        expected = [subject.search(**ask)[1] for ask in asks]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda ask: subject.search(**ask)[1], asks))
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_vectors_are_those_that_were_added_or_none(self, subject: Subject) -> None:
        positions = np.array([5, 0, len(subject.rows) - 1, 5])
        found = subject.index.vectors(positions)
        if found is not None:
            np.testing.assert_array_equal(found, subject.rows[positions])

    def test_a_saved_index_answers_alike(self, subject: Subject, tmp_path: Path) -> None:
        subject.index.save(tmp_path / "index")
        assert [path.name for path in tmp_path.iterdir()] == ["index"]
        loaded = self.index.load(tmp_path / "index", subject.metric)
        for name in ("count", "name", "trained_on", "exact"):
            assert getattr(loaded, name) == getattr(subject.index, name)
        assert loaded.efforts() == subject.index.efforts()
        before, after = subject.search(), Subject(loaded, subject.metric, subject.rows, subject.queries, []).search()
        np.testing.assert_array_equal(before[1], after[1])
        np.testing.assert_array_equal(before[0], after[0])

    def test_a_damaged_file_is_not_loaded(self, subject: Subject, tmp_path: Path) -> None:
        path = tmp_path / "index"
        subject.index.save(path)
        whole = path.read_bytes()
        half = len(whole) // 2
        for wrong in (b"", b"garbage" * 100, whole[:half], whole[:-1]):  # the server itself checks its sum for bits that turned
            path.write_bytes(wrong)
            with pytest.raises(Exception):  # noqa: B017, PT011 - any will do: the server builds anew
                self.index.load(path, subject.metric)
        with pytest.raises(Exception):  # noqa: B017, PT011
            self.index.load(tmp_path / "no-such-file", subject.metric)

    def test_a_loaded_index_takes_more_rows(self, subject: Subject, tmp_path: Path) -> None:
        subject.index.save(tmp_path / "index")
        index = self.index.load(tmp_path / "index", subject.metric)
        more = clustered(150, self.dim, subject.metric, seed=3)
        index.add(more, threads=1)
        rows = np.concatenate([subject.rows, more])
        assert index.count == len(rows)
        _, positions = index.search(more, K, effort=index.efforts()[-1], threads=1)
        assert (positions >= len(subject.rows)).any(), "what was added is found"
        assert recall(positions, nearest(more, rows, subject.metric)) >= self._floor(index)
        found = index.vectors(np.array([len(rows) - 1]))
        assert found is None or np.array_equal(found[0], more[-1])

    @pytest.mark.parametrize("count", [0, 1, 10, 300])
    def test_few_rows_will_do(self, count: int) -> None:
        metric = self.metrics[0]
        rows = clustered(count, self.dim, metric)
        index = self.build(rows, metric)
        index.add(clustered(5, self.dim, metric, seed=4), threads=1)
        scores, positions = index.search(clustered(3, self.dim, metric, seed=1), K, effort=index.efforts()[-1], threads=1)
        assert index.count == count + 5
        assert ((positions >= 0).sum(axis=1) == min(K, count + 5)).all()
        assert not np.isnan(scores).any()
