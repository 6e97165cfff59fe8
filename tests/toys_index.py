"""A toy kind of index: all rows in one array, every one compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
from topwork_server import IndexSpec, Metric, VectorIndex, VectorSource
from topwork_server.blocking_calls import Report
from topwork_server.types import Array


class Rows(VectorIndex):
    exact = True
    name = "Rows"
    trained_on = 0

    def __init__(self, rows: Array, metric: Metric) -> None:
        self._rows = rows
        self._metric = metric

    @classmethod
    def build(
        cls, vectors: VectorSource, metric: Metric, options: Any, target_recall: float, threads: int, report: Report
    ) -> Self:
        index = cls(np.empty((0, vectors.dim), np.float32), metric)
        for batch in vectors.batches():
            index.add(batch, threads)
            report(index.count / vectors.count, "adding rows")
        return index

    def add(self, rows: Array, threads: int) -> None:
        self._rows = np.concatenate([self._rows, rows])

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, self._rows)

    @classmethod
    def load(cls, path: Path, metric: Metric) -> Self:
        return cls(np.load(path, allow_pickle=False), metric)

    def search(self, queries: Array, k: int, *, effort: int, threads: int, mask: Array | None = None) -> tuple[Array, Array]:
        far = self._metric is Metric.L2
        scores = -np.linalg.norm(queries[:, None] - self._rows, axis=2) if far else queries @ self._rows.T
        if mask is not None:
            scores[:, ~np.unpackbits(mask, count=self.count, bitorder="little").astype(bool)] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        found = np.take_along_axis(scores, best, 1)
        positions = np.where(np.isfinite(found), best, -1)
        missing = ((0, 0), (0, k - best.shape[1]))
        positions = np.pad(positions, missing, constant_values=-1)
        found = np.pad(-found if far else found, missing)
        return found.astype(np.float32), positions.astype(np.int64)

    def efforts(self) -> tuple[int, ...]:
        return (0,)

    def vectors(self, positions: Array) -> Array:
        return self._rows[positions]

    @property
    def count(self) -> int:
        return len(self._rows)

    @property
    def memory(self) -> int:
        return self._rows.nbytes


def spec(kind: str = "rows") -> IndexSpec:
    return IndexSpec(kind, Rows, "compares with every row")
