"""The contract that every kind of index keeps, as a pytest class. A plugin author subclasses it:

    from topwork_server.testing_indexes import IndexContract

    class TestMine(IndexContract):
        kind = "mine"

It builds small indexes of clustered vectors, searches them and compares with a search over every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from topwork_server import options
from topwork_server.errors import InvalidInput
from topwork_server.plugins import Plugins
from topwork_server.types import Array
from topwork_server.vector_index import Metric, VectorIndex

K = 10
#: How far a score may be from the exact one, where an index keeps its rows as they are.
CLOSE = 1e-3


class Cloud:
    """Clustered vectors (unit vectors of COSINE) and the truth about them. It is a `Vectors`."""

    def __init__(self, count: int, dim: int, metric: Metric, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        centres = np.random.default_rng(1).normal(size=(20, dim))
        rows = centres[random.integers(20, size=count)] + 0.5 * random.normal(size=(count, dim))
        self.rows = (_unit(rows) if metric is Metric.COSINE else rows).astype(np.float32)
        self.count, self.dim, self.metric = count, dim, metric

    def batches(self) -> Iterator[Array]:
        for start in range(0, self.count, 700):
            yield self.rows[start : start + 700]

    def sample(self, most: int) -> Array:
        chosen = np.random.default_rng(2).choice(self.count, min(most, self.count), replace=False)
        return self.rows[np.sort(chosen)]

    def scores(self, queries: Array) -> Array:
        """(q, count) float32, as Metric says."""
        if self.metric is Metric.L2:
            return np.asarray(np.linalg.norm(queries[:, None].astype(np.float64) - self.rows, axis=2), np.float32)
        return np.asarray(queries @ self.rows.T)

    def nearest(self, queries: Array, k: int, allowed: Array | None = None) -> Array:
        """(q, k) positions."""
        far = self.scores(queries) * (1 if self.metric is Metric.L2 else -1)
        if allowed is not None:
            far[:, ~allowed] = np.inf
        return np.argsort(far, axis=1, kind="stable")[:, :k]


class IndexContract:
    """Set `kind` to one that is registered or adopted; `options` are those of a CreateIndex. `count` vectors of `dim` numbers."""

    kind: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    count: ClassVar[int] = 3000
    dim: ClassVar[int] = 32
    recall: ClassVar[float] = 0.95

    @pytest.fixture(scope="class", params=list(Metric), ids=str)
    @classmethod
    def cloud(cls, request: pytest.FixtureRequest) -> Cloud:
        return Cloud(cls.count, cls.dim, request.param)

    @pytest.fixture(scope="class")
    @classmethod
    def index(cls, cloud: Cloud) -> VectorIndex:
        """Built once; no test changes it."""
        return cls.build(cloud)

    @pytest.fixture(scope="class")
    @classmethod
    def queries(cls, cloud: Cloud) -> Array:
        return Cloud(40, cls.dim, cloud.metric, seed=3).rows

    @classmethod
    def build(cls, cloud: Cloud) -> VectorIndex:
        maker = Plugins.load().index(cls.kind).index
        chosen = options.parse(maker.options, cls.options)
        return maker.build(cloud, cloud.metric, chosen, cls.recall, 1, _reported)

    def test_it_holds_what_it_was_given(self, index: VectorIndex, cloud: Cloud) -> None:
        assert index.count == cloud.count
        assert 0 <= index.trained_on <= cloud.count
        assert index.memory > 0
        assert index.name
        assert list(index.efforts()) == sorted(set(index.efforts())), "efforts ascend"

    def test_it_finds_the_nearest(self, index: VectorIndex, cloud: Cloud, queries: Array) -> None:
        scores, positions = search(index, queries)
        assert scores.shape == positions.shape == (len(queries), K)
        found = _recall(positions, cloud.nearest(queries, K))
        assert found >= (0.999 if index.exact else self.recall), found

    def test_scores_are_what_the_metric_says_best_first(self, index: VectorIndex, cloud: Cloud, queries: Array) -> None:
        scores, positions = search(index, queries)
        ordered = np.sort(scores, axis=1) if cloud.metric is Metric.L2 else -np.sort(-scores, axis=1)
        np.testing.assert_array_equal(scores, ordered)
        if index.exact or index.vectors(positions[0]) is not None:
            expected = np.take_along_axis(cloud.scores(queries), positions, axis=1)
            np.testing.assert_allclose(scores, expected, rtol=CLOSE, atol=CLOSE)

    @pytest.mark.parametrize("share", [0.5, 0.05, 0.001])
    def test_only_what_the_mask_allows_is_found(self, index: VectorIndex, cloud: Cloud, queries: Array, share: float) -> None:
        allowed = np.random.default_rng(4).random(cloud.count) < share
        allowed[7] = True
        _, positions = search(index, queries, mask=np.packbits(allowed, bitorder="little"))
        assert allowed[positions[positions >= 0]].all()
        there = min(K, int(allowed.sum()))
        assert ((positions >= 0).sum(axis=1) == there).all(), "it stops before there is no more"
        found = _recall(positions[:, :there], cloud.nearest(queries, there, allowed))
        assert found >= (0.999 if index.exact else self.recall), found

    def test_nothing_is_found_where_nothing_is_allowed(self, index: VectorIndex, cloud: Cloud, queries: Array) -> None:
        _, positions = search(index, queries, mask=np.zeros((cloud.count + 7) // 8, np.uint8))
        assert (positions == -1).all()

    def test_there_are_no_more_than_all(self, cloud: Cloud, queries: Array) -> None:
        few = Cloud(5, self.dim, cloud.metric)
        index = self.build(few)
        _, positions = search(index, queries, k=8)
        assert positions.shape == (len(queries), 8)
        assert (positions[:, 5:] == -1).all()
        assert (np.sort(positions[:, :5], axis=1) == np.arange(5)).all()

    def test_what_is_added_stands_behind_what_is_there(self, cloud: Cloud) -> None:
        index, more = self.build(cloud), Cloud(50, self.dim, cloud.metric, seed=5)
        index.add(more.rows, 1)
        assert index.count == cloud.count + 50
        _, positions = search(index, more.rows, k=1)
        if cloud.metric is not Metric.INNER_PRODUCT:  # a longer row may be nearer than a row is to itself
            assert _recall(positions, np.arange(50)[:, None] + cloud.count) >= self.recall

    def test_it_is_the_same_from_its_file(self, index: VectorIndex, cloud: Cloud, queries: Array, tmp_path: Path) -> None:
        index.save(tmp_path / "index")
        again = type(index).load(tmp_path / "index", cloud.metric)
        assert (again.count, again.name, again.efforts()) == (index.count, index.name, index.efforts())
        for one, other in zip(search(index, queries), search(again, queries), strict=True):
            np.testing.assert_allclose(one, other, rtol=CLOSE, atol=CLOSE)

    def test_a_damaged_file_is_refused(self, index: VectorIndex, cloud: Cloud, tmp_path: Path) -> None:
        path = tmp_path / "index"
        index.save(path)
        for damaged in (path.read_bytes()[: path.stat().st_size // 2], b"", b"nonsense" * 100):
            path.write_bytes(damaged)
            with pytest.raises(Exception):  # noqa: B017, PT011  # any: the index is then built anew
                type(index).load(path, cloud.metric)

    def test_vectors_are_the_rows_or_none(self, index: VectorIndex, cloud: Cloud) -> None:
        positions = np.array([5, 0, cloud.count - 1, 5])
        rows = index.vectors(positions)
        if rows is not None:
            np.testing.assert_array_equal(rows, cloud.rows[positions])

    def test_threads_may_search_at_once(self, index: VectorIndex, queries: Array) -> None:
        expected = search(index, queries)[1]
        with ThreadPoolExecutor(4) as pool:
            for _, positions in pool.map(lambda _: search(index, queries), range(8)):
                np.testing.assert_array_equal(positions, expected)

    def test_unknown_options_are_refused(self) -> None:
        with pytest.raises(InvalidInput, match="no_such_option"):
            options.parse(Plugins.load().index(self.kind).index.options, {"no_such_option": 1})


def search(index: VectorIndex, queries: Array, k: int = K, mask: Array | None = None) -> tuple[Array, Array]:
    """With the last effort, which finds as much as the index can."""
    scores, positions = index.search(queries, k, effort=index.efforts()[-1], threads=1, mask=mask)
    assert scores.dtype == np.float32
    assert positions.dtype == np.int64
    return scores, positions


def _recall(found: Array, expected: Array) -> float:
    return float(np.mean([len(set(f) & set(e)) / len(e) for f, e in zip(found.tolist(), expected.tolist(), strict=True)]))


def _reported(fraction: float, message: str) -> None:
    assert 0 <= fraction <= 1
    assert message


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
