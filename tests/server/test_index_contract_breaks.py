"""Each promise of a kind of index, broken on purpose: the contract says which, with what was expected and what was found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from broken_contracts import failures
from topwork_server import Metric
from topwork_server.testing import IndexContract
from topwork_server.testing.index import QUERIES, BuiltSubject
from topwork_server.testing.vectors import clustered
from topwork_server.types import Array
from toys_index import Rows

Found = tuple[Array, Array]


class Broken(Rows):
    """A subclass overrides `spoilt`, what a search returns, or one method."""

    def search(self, queries: Array, k: int, *, effort: int, threads: int, mask: Array | None = None) -> Any:
        return self.spoilt(*super().search(queries, k, effort=effort, threads=threads, mask=mask))

    def spoilt(self, scores: Array, positions: Array) -> Any:
        return scores, positions


class DoubleScores(Broken):
    def spoilt(self, scores: Array, positions: Array) -> Any:
        return scores.astype(np.float64), positions


class ShortPositions(Broken):
    def spoilt(self, scores: Array, positions: Array) -> Any:
        return scores, positions.astype(np.int32)


class PositionsFirst(Broken):
    def spoilt(self, scores: Array, positions: Array) -> Any:
        return positions, scores


class AList(Broken):
    def spoilt(self, scores: Array, positions: Array) -> Any:
        return [scores, positions]


class OneQueryOnly(Broken):
    def spoilt(self, scores: Array, positions: Array) -> Any:
        return scores[:1], positions[:1]


class CountsFromOne(Broken):
    def spoilt(self, scores: Array, positions: Array) -> Any:
        return scores, np.where(positions >= 0, positions + 1, -1)


class WorstFirst(Broken):
    def spoilt(self, scores: Array, positions: Array) -> Any:
        return scores[:, ::-1].copy(), positions[:, ::-1].copy()


class NotANumber(Broken):
    def spoilt(self, scores: Array, positions: Array) -> Any:
        return np.where(positions < 0, np.nan, scores).astype(np.float32), positions


class Squared(Broken):
    def spoilt(self, scores: Array, positions: Array) -> Any:
        return (scores**2 if self._metric is Metric.L2 else scores), positions


class Twice(Broken):
    def spoilt(self, scores: Array, positions: Array) -> Any:
        positions = positions.copy()
        if positions.shape[1] > 1:
            positions[:, 1] = positions[:, 0]
        return scores, positions


class FindsHalf(Broken):
    def spoilt(self, scores: Array, positions: Array) -> Any:
        return scores, np.where(positions % 2 == 0, positions, (positions + 7) % self.count)


class IgnoresTheMask(Rows):
    def search(self, queries: Array, k: int, *, effort: int, threads: int, mask: Array | None = None) -> Found:
        return super().search(queries, k, effort=effort, threads=threads)


class ReadsTheMaskBackwards(Rows):
    def search(self, queries: Array, k: int, *, effort: int, threads: int, mask: Array | None = None) -> Found:
        if mask is not None:
            mask = np.packbits(np.unpackbits(mask, bitorder="big"), bitorder="little")
        return super().search(queries, k, effort=effort, threads=threads, mask=mask)


class MasksWhatWasFound(Rows):
    """Filter after the search: fewer are left than there are."""

    def search(self, queries: Array, k: int, *, effort: int, threads: int, mask: Array | None = None) -> Found:
        scores, positions = super().search(queries, k, effort=effort, threads=threads)
        if mask is not None:
            kept = np.append(np.unpackbits(mask, count=self.count, bitorder="little"), 0).astype(bool)
            positions = np.where(kept[positions], positions, -1)
        return scores, positions


class KeepsItsQueries(Rows):
    def search(self, queries: Array, k: int, *, effort: int, threads: int, mask: Array | None = None) -> Found:
        self.queries, self.k = queries, k
        scores = -np.linalg.norm(self.queries[:, None] - self._rows, axis=2)
        if self._metric is not Metric.L2:
            scores = self.queries @ self._rows.T
        if len(scores) != len(self.queries):
            raise RuntimeError("another search came between")
        return super().search(self.queries, self.k, effort=effort, threads=threads, mask=mask)


class UsesOneBuffer(Broken):
    buffer = np.zeros((QUERIES, 4096), np.float32)

    def spoilt(self, scores: Array, positions: Array) -> Any:
        part = self.buffer[: len(scores), : scores.shape[1]]
        part[:] = scores
        return part, positions


class NormalizesInPlace(Rows):
    def search(self, queries: Array, k: int, *, effort: int, threads: int, mask: Array | None = None) -> Found:
        queries *= np.float32(1.0000001)
        queries += np.float32(1e-6)
        return super().search(queries, k, effort=effort, threads=threads, mask=mask)


class KeepsTheFirstBatch(Rows):
    @classmethod
    def build(cls, vectors: Any, metric: Metric, options: Any, target_recall: float, threads: int, report: Any) -> Self:
        report(1.0, "adding rows")
        return cls(next(iter(vectors.batches()), np.empty((0, vectors.dim), np.float32)).copy(), metric)


class KeepsTheBuffer(Rows):
    @classmethod
    def build(cls, vectors: Any, metric: Metric, options: Any, target_recall: float, threads: int, report: Any) -> Self:
        report(1.0, "adding rows")
        parts = list(vectors.batches())  # views of one buffer
        return cls(np.concatenate(parts) if parts else np.empty((0, vectors.dim), np.float32), metric)


class SaysNothing(Rows):
    @classmethod
    def build(cls, vectors: Any, metric: Metric, options: Any, target_recall: float, threads: int, report: Any) -> Self:
        return super().build(vectors, metric, options, target_recall, threads, lambda *_: None)


class SaysPercents(Rows):
    @classmethod
    def build(cls, vectors: Any, metric: Metric, options: Any, target_recall: float, threads: int, report: Any) -> Self:
        return super().build(vectors, metric, options, target_recall, threads, lambda done, words: report(100 * done, words))


class ForgetsWhatIsAdded(Rows):
    def add(self, rows: Array, threads: int) -> None:
        if not len(self._rows):
            super().add(rows, threads)


class KeepsWhatIsLent(Rows):
    def add(self, rows: Array, threads: int) -> None:
        self._late = rows if len(self._rows) >= 800 else None
        super().add(rows, threads)

    def vectors(self, positions: Array) -> Array:
        late = getattr(self, "_late", None)
        return super().vectors(positions) if late is None else late[positions % len(late)]


class ForgetsTheMetric(Rows):
    @classmethod
    def load(cls, path: Path, metric: Metric) -> Self:
        return cls(np.load(path), Metric.INNER_PRODUCT)


class LoadsAnything(Rows):
    @classmethod
    def load(cls, path: Path, metric: Metric) -> Self:
        try:
            return super().load(path, metric)
        except Exception:
            return cls(np.empty((0, 32), np.float32), metric)


class SavesAFolder(Rows):
    def save(self, path: Path) -> None:
        path.mkdir()
        super().save(path / "rows")

    @classmethod
    def load(cls, path: Path, metric: Metric) -> Self:
        return super().load(path / "rows", metric)


class SavesTwoFiles(Rows):
    def save(self, path: Path) -> None:
        super().save(path)
        path.with_suffix(".meta").touch()


class RoundsItsVectors(Rows):
    def vectors(self, positions: Array) -> Array:
        return np.round(super().vectors(positions), 1)


class NoEffort(Rows):
    def efforts(self) -> tuple[int, ...]:
        return ()


class FallingEfforts(Rows):
    def efforts(self) -> tuple[int, ...]:
        return (8, 1)


class NoName(Rows):
    name = ""


class TrainedOnMoreThanThereIs(Rows):
    trained_on = 10**9


class CountsInKilobytes(Rows):
    memory = 3


class ExactAndNotThorough(Rows):
    thorough = False


BREAKS: dict[type[Rows], tuple[str, str]] = {
    DoubleScores: ("scores_are", "scores of float64"),
    ShortPositions: ("scores_are", "positions of int32"),
    PositionsFirst: ("scores_are", "scores of int64"),
    AList: ("scores_are", "a tuple of scores and positions"),
    OneQueryOnly: ("scores_are", r"float32 \[40, 10\]"),
    CountsFromOne: ("mask_is_honored", "the mask leaves it out|0 to 799"),
    WorstFirst: ("scores_are", "best first"),
    NotANumber: ("mask_of_nothing", "NaN"),
    Squared: ("scores_are", "not its square"),
    Twice: ("scores_are", "a row twice"),
    FindsHalf: ("last_effort", "recall at 10 is"),
    IgnoresTheMask: ("mask_is_honored", "the mask leaves it out"),
    ReadsTheMaskBackwards: ("mask_is_honored", "1 << i % 8"),
    MasksWhatWasFound: ("mask_is_honored", "the mask leaves"),
    KeepsItsQueries: ("concurrent", "keeps its queries|another search came between|broadcast|scores of|shape"),
    UsesOneBuffer: ("leaves_its_arguments", "give each its own array"),
    NormalizesInPlace: ("leaves_its_arguments", "changed the queries"),
    KeepsTheFirstBatch: ("says_what_it_is", "count is 700 after a build of 800"),
    KeepsTheBuffer: ("last_effort", "recall|nan|NaN"),
    SaysNothing: ("progress", "report never"),
    SaysPercents: ("progress", "fraction from 0 to 1"),
    ForgetsWhatIsAdded: ("says_what_it_is", "count is"),
    KeepsWhatIsLent: ("takes_more_rows", "another row at the place"),
    ForgetsTheMetric: ("saved_index", "after save and load"),
    LoadsAnything: ("damaged_file", "it must raise"),
    SavesAFolder: ("saved_index", "must write one file"),
    SavesTwoFiles: ("saved_index", "must write the one file"),
    RoundsItsVectors: ("vectors_are", "return None"),
    NoEffort: ("says_what_it_is", r"efforts\(\) is empty"),
    FallingEfforts: ("says_what_it_is", "ascends"),
    NoName: ("says_what_it_is", "name is empty"),
    TrainedOnMoreThanThereIs: ("says_what_it_is", "trained_on is"),
    CountsInKilobytes: ("says_what_it_is", "in bytes"),
    ExactAndNotThorough: ("says_what_it_is", "thorough"),
}


def broken(index: type[Rows], metric: Metric, only: str = "") -> dict[str, str]:
    contract = type("Contract", (IndexContract,), {"index": index, "rows": 800})
    rows, progress = clustered(800, 32, metric), []
    built = contract.build(rows, metric, progress)
    subject = BuiltSubject(built, metric, rows, clustered(QUERIES, 32, metric, seed=1), progress)
    return failures(contract, {"subject": subject}, only)


@pytest.mark.parametrize("metric", Metric)
def test_what_breaks_nothing_passes(metric: Metric) -> None:
    assert broken(Rows, metric) == {}


@pytest.mark.parametrize("index", BREAKS, ids=lambda index: index.__name__)
def test_a_broken_promise_is_told_in_words(index: type[Rows]) -> None:
    test, words = BREAKS[index]
    caught = broken(index, Metric.L2, test)
    assert caught, f"not caught there, only in {broken(index, Metric.L2)}"
    assert any(re.search(words, message) for message in caught.values()), caught
