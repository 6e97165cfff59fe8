"""VectorIndex on FAISS: build, add, save, load, search. A kind adds what it is made of (`kinds.py`)."""

from __future__ import annotations

import threading
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from topwork_server import Array, InvalidInput, Metric, Report, VectorIndex, VectorSource

from topwork_plugins.faiss_index import building, factory, files, introspection, library, scores, search_params
from topwork_plugins.faiss_index.build_params import BuildParams
from topwork_plugins.faiss_index.faiss_search import Searcher
from topwork_plugins.faiss_index.files import IndexLabel
from topwork_plugins.faiss_index.masks import PositionMask

#: Rows of which every kind is what it says: with fewer some are flat.
MANY = 100_000


class FaissIndex(VectorIndex):
    """An index of faiss and its label. COSINE is the inner product of the unit vectors that the server hands over."""

    kind: ClassVar[str]

    def __init__(self, index: Any, label: IndexLabel, bytes_: int | None = None) -> None:
        self._index = index
        self._label = label
        self._bytes = bytes_
        self._lock = threading.Lock()
        self._searcher = Searcher(index)

    @classmethod
    @abstractmethod
    def choose_params(cls, rows: int, dim: int, options: Any, target_recall: float) -> BuildParams:
        """What to build for so many rows; "Flat" where they are too few for the kind."""

    @classmethod
    def check(cls, dim: int, metric: Metric, options: Any, target_recall: float) -> None:
        kind = cls.choose_params(MANY, dim, options, target_recall).factory
        factory.check_dim(kind, dim)
        factory.make_index(kind, dim, metric)

    @classmethod
    def build(
        cls, vectors: VectorSource, metric: Metric, options: Any, target_recall: float, threads: int, report: Report
    ) -> Self:
        library.load().omp_set_num_threads(threads)
        params = cls.choose_params(vectors.count, vectors.dim, options, target_recall)
        index, name, trained_on = building.build_index(params, vectors, metric, report)
        return cls(index, IndexLabel(cls.kind, name, metric.value, vectors.dim, index.ntotal, trained_on))

    def add(self, rows: Array, threads: int) -> None:
        library.load().omp_set_num_threads(threads)
        building.add_rows(self._index, self._checked(rows))
        self._label = replace(self._label, count=self._index.ntotal)
        self._bytes = None

    def save(self, path: Path) -> None:
        files.write(self._index, self._label, path)
        self._bytes = path.stat().st_size

    @classmethod
    def load(cls, path: Path, metric: Metric) -> Self:
        index, label = files.read(path)
        found = (label.kind, label.metric, label.dim, label.count)
        if found != (cls.kind, metric.value, index.d, index.ntotal):
            raise ValueError(f"{path.name} holds {label}, not {cls.kind} by {metric.value} of {index.ntotal} x {index.d}")
        return cls(index, label, path.stat().st_size)

    def search(self, queries: Array, k: int, *, effort: int, threads: int, mask: Array | None = None) -> tuple[Array, Array]:
        queries = self._checked(queries)
        allowed = PositionMask(mask, self.count)
        wanted = min(k, allowed.allowed)
        metric = Metric(self._label.metric)
        out_scores = np.full((len(queries), k), scores.worst(metric), np.float32)
        out_positions = np.full((len(queries), k), -1)
        if wanted > 0 and len(queries):
            library.load().omp_set_num_threads(threads)
            distances, positions = self._searcher.search(queries, wanted, effort, allowed)
            out_scores[:, :wanted] = scores.from_distances(distances, positions, metric, self._by_l2)
            out_positions[:, :wanted] = positions
        return out_scores, out_positions

    @property
    def _by_l2(self) -> bool:
        return bool(self._index.metric_type == library.load().METRIC_L2)

    def _checked(self, rows: Array) -> Array:
        if rows.ndim != 2 or rows.shape[1] != self._index.d:
            raise InvalidInput(f"rows of shape {rows.shape} for an index of dim {self._index.d}")
        return np.ascontiguousarray(rows, np.float32)

    def efforts(self) -> tuple[int, ...]:
        return search_params.effort_ladder(self._index)

    def vectors(self, positions: Array) -> Array | None:
        flat = introspection.matrix(self._index)
        if flat is not None:
            return np.asarray(introspection.rows_of(flat)[positions])
        if introspection.lists_of_rows(self._index):
            return self._from_lists(np.ascontiguousarray(positions, np.int64))
        return None

    def _from_lists(self, positions: Array) -> Array:
        """IVF finds a row by a map from positions to places, which is made at the first use: 8 bytes a row."""
        with self._lock:
            if self._index.direct_map.type == library.load().DirectMap.NoMap:
                self._index.make_direct_map()
        return np.asarray(self._index.reconstruct_batch(positions)).reshape(len(positions), self._index.d)

    @property
    def exact(self) -> bool:
        return introspection.is_flat(self._index)

    @property
    def thorough(self) -> bool:
        return self.exact or introspection.looks_into_all(self._index)

    @property
    def count(self) -> int:
        return int(self._index.ntotal)

    @property
    def name(self) -> str:
        return self._label.name

    @property
    def trained_on(self) -> int:
        return self._label.trained_on

    @property
    def memory(self) -> int:
        with self._lock:
            if self._bytes is None:
                self._bytes = files.size(self._index)
            return self._bytes
