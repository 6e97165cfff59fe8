"""VectorIndex on FAISS: build, add, save, load, search. A kind adds what it is made of (`plugin.py`).

A build trains on a sample and is filled in batches: beside the index itself no more than the sample and a batch are in memory.

A file holds FAISS's bytes, then a label of ours, then a checksum of both. FAISS trusts what it reads (a length out of a damaged
file is allocated, a link out of a damaged graph is followed), so a file is read only after its checksum was found right. It is
read into memory and not mapped: a mapped file that is cut short ends the process with SIGBUS at the next search.
"""

from __future__ import annotations

import json
import struct
import threading
import zlib
from abc import abstractmethod
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

import numpy as np
from topwork_server import Array, InvalidInput, Metric, Report, VectorIndex, VectorSource

from topwork_plugins.faiss_index import faiss_search, library
from topwork_plugins.faiss_index.faiss_search import PositionMask, Searcher

#: Rows of which every kind is what it says: with fewer some are flat.
MANY = 100_000
#: Rows that are added at a time: enough for a matrix product, and few enough for progress to move.
BATCH = 8192
#: The fraction of the work that training is, for the progress bar.
TRAINING = 0.3
FOOTER = struct.Struct("<IQ8s")
MAGIC = b"topwork1"
CHUNK = 1 << 20


@dataclass(frozen=True)
class BuildParams:
    """The parameters of a build: `factory` for faiss.index_factory; rows to train on (0: none); efConstruction (0: FAISS's
    own)."""

    factory: str
    training_rows: int = 0
    construction_effort: int = 0


FLAT = BuildParams("Flat")


@dataclass(frozen=True)
class IndexLabel:
    """The description of an index in its file. `kind` is what was asked for, `name` what was built."""

    kind: str
    name: str
    metric: str
    dim: int
    count: int
    trained_on: int


class FaissIndex(VectorIndex):
    """An index of FAISS and its label. COSINE is the inner product of the unit vectors that the server hands over."""

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
        """Choose what to build for so many rows; "Flat" where they are too few for the kind."""

    @classmethod
    def check(cls, dim: int, metric: Metric, options: Any, target_recall: float) -> None:
        kind = cls.choose_params(MANY, dim, options, target_recall).factory
        library.check_dim(kind, dim)
        library.make_index(kind, dim, metric)

    @classmethod
    def build(
        cls, vectors: VectorSource, metric: Metric, options: Any, target_recall: float, threads: int, report: Report
    ) -> Self:
        library.load_faiss().omp_set_num_threads(threads)
        params = cls.choose_params(vectors.count, vectors.dim, options, target_recall)
        index, name, trained_on = _build_index(params, vectors, metric, report)
        return cls(index, IndexLabel(cls.kind, name, metric.value, vectors.dim, index.ntotal, trained_on))

    def add(self, rows: Array, threads: int) -> None:
        library.load_faiss().omp_set_num_threads(threads)
        _add_rows(self._index, self._checked(rows))
        self._label = replace(self._label, count=self._index.ntotal)
        self._bytes = None

    def save(self, path: Path) -> None:
        _write(self._index, self._label, path)
        self._bytes = path.stat().st_size

    @classmethod
    def load(cls, path: Path, metric: Metric) -> Self:
        index, label = _read(path)
        found = (label.kind, label.metric, label.dim, label.count)
        if found != (cls.kind, metric.value, index.d, index.ntotal):
            raise ValueError(f"{path.name} holds {label}, not {cls.kind} by {metric.value} of {index.ntotal} x {index.d}")
        return cls(index, label, path.stat().st_size)

    def search(self, queries: Array, k: int, *, effort: int, threads: int, mask: Array | None = None) -> tuple[Array, Array]:
        queries = self._checked(queries)
        allowed = PositionMask(mask, self.count)
        wanted = min(k, allowed.allowed)
        metric = Metric(self._label.metric)
        out_scores = np.full((len(queries), k), faiss_search.worst_score(metric), np.float32)
        out_positions = np.full((len(queries), k), -1)
        if wanted > 0 and len(queries):
            library.load_faiss().omp_set_num_threads(threads)
            distances, positions = self._searcher.search(queries, wanted, effort, allowed)
            out_scores[:, :wanted] = faiss_search.scores_from_distances(distances, positions, metric, self._by_l2)
            out_positions[:, :wanted] = positions
        return out_scores, out_positions

    @property
    def _by_l2(self) -> bool:
        return bool(self._index.metric_type == library.load_faiss().METRIC_L2)

    def _checked(self, rows: Array) -> Array:
        if rows.ndim != 2 or rows.shape[1] != self._index.d:
            raise InvalidInput(f"rows of shape {rows.shape} for an index of dim {self._index.d}")
        return np.ascontiguousarray(rows, np.float32)

    def efforts(self) -> tuple[int, ...]:
        return faiss_search.effort_ladder(self._index)

    def vectors(self, positions: Array) -> Array | None:
        flat = library.matrix(self._index)
        if flat is not None:
            return np.asarray(library.rows_of(flat)[positions])
        if library.lists_of_rows(self._index):
            return self._from_lists(np.ascontiguousarray(positions, np.int64))
        return None

    def _from_lists(self, positions: Array) -> Array:
        """Take rows out of lists, by a map from positions to places, which is made at the first use: 8 bytes a row."""
        with self._lock:
            if self._index.direct_map.type == library.load_faiss().DirectMap.NoMap:
                self._index.make_direct_map()
        return np.asarray(self._index.reconstruct_batch(positions)).reshape(len(positions), self._index.d)

    @property
    def exact(self) -> bool:
        return library.is_flat(self._index)

    @property
    def thorough(self) -> bool:
        return self.exact or library.looks_into_all(self._index)

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
                self._bytes = _size(self._index)
            return self._bytes


def _build_index(params: BuildParams, vectors: VectorSource, metric: Metric, report: Report) -> tuple[Any, str, int]:
    """Build an index; return it, its factory string, and how many rows it was trained on."""
    index, params, trained_on = _train(params, vectors, metric, report)
    done = 0
    for batch in vectors.batches():
        for start in range(0, len(batch), BATCH):
            _add_rows(index, batch[start : start + BATCH])
            done += len(batch[start : start + BATCH])
            report(TRAINING + (1 - TRAINING) * done / max(1, vectors.count), f"adding rows to {params.factory}")
    return index, params.factory, trained_on


def _train(params: BuildParams, vectors: VectorSource, metric: Metric, report: Report) -> tuple[Any, BuildParams, int]:
    index = _make_empty(params, vectors.dim, metric)
    if index.is_trained:
        return index, params, 0
    sample = vectors.sample(params.training_rows or vectors.count)
    report(0.0, f"training {params.factory} on {len(sample)} rows")
    try:
        index.train(sample)
    except RuntimeError as error:
        if not _too_few(error):
            with library.translate_errors(f"cannot train {params.factory}"):
                raise
        return _make_empty(FLAT, vectors.dim, metric), FLAT, 0
    return index, params, len(sample)


def _too_few(error: RuntimeError) -> bool:
    return any(words in str(error) for words in ("Number of training points", "PCA matrix cannot output"))


def _make_empty(params: BuildParams, dim: int, metric: Metric) -> Any:
    faiss = library.load_faiss()
    index = library.make_index(params.factory, dim, metric)
    core = library.core(index)
    if isinstance(core, faiss.IndexHNSW) and params.construction_effort:
        core.hnsw.efConstruction = params.construction_effort
    if isinstance(core, faiss.IndexIVF):
        core.cp.min_points_per_centroid = 1  # `plugin.py` sees to it; FAISS would write of it to stderr
    for part in filter(None, (core, library.storage(core))):
        if hasattr(part, "do_polysemous_training"):
            part.do_polysemous_training = False  # minutes of annealing for a filter that no search here uses
    return index


def _add_rows(index: Any, rows: Array) -> None:
    with library.translate_errors("cannot add rows"):
        index.add(rows)


def _write(index: Any, label: IndexLabel, path: Path) -> None:
    """Write a file; DiskFull, and no file, where there is no room. FAISS writes through us: its own writer loses a late error."""
    faiss = library.load_faiss()
    checksum = 0

    def keep(chunk: bytes) -> None:
        nonlocal checksum
        checksum = zlib.crc32(chunk, checksum)
        file.write(chunk)

    try:
        with library.disk_errors(f"cannot write {path.name}"), path.open("wb") as file:
            faiss.write_index(index, faiss.PyCallbackIOWriter(keep, CHUNK))
            encoded = json.dumps(asdict(label)).encode()
            keep(encoded)
            file.write(FOOTER.pack(checksum, len(encoded), MAGIC))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _read(path: Path) -> tuple[Any, IndexLabel]:
    """Read a file; ValueError where it is not as it was written."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - FOOTER.size))
        end = file.read()
        if len(end) != FOOTER.size or not end.endswith(MAGIC):
            raise ValueError(f"{path.name} is not an index of ours, or it was cut short")
        checksum, length, _ = FOOTER.unpack(end)
        file.seek(0)
        if length > size or _checksum(file, size - FOOTER.size) != checksum:
            raise ValueError(f"{path.name} is damaged: its checksum is wrong")
        file.seek(size - FOOTER.size - length)
        label = IndexLabel(**json.loads(file.read(length)))
    return library.load_faiss().read_index(str(path)), label


def _checksum(file: BinaryIO, length: int) -> int:
    checksum = 0
    while length:
        chunk = file.read(min(CHUNK, length))
        if not chunk:
            raise ValueError("the file ends too early")
        checksum = zlib.crc32(chunk, checksum)
        length -= len(chunk)
    return checksum


def _size(index: Any) -> int:
    """Count the bytes that the index would take in a file, which are those of its codes, ids, links and centers in memory."""
    faiss = library.load_faiss()
    total = 0

    def count(chunk: bytes) -> None:
        nonlocal total
        total += len(chunk)

    faiss.write_index(index, faiss.PyCallbackIOWriter(count, CHUNK))
    return total
