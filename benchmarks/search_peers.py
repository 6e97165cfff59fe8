"""Peers of benchmarks.search, each in a process and an environment of its own, on the same vectors:

    python -m benchmarks.search_peers PEER FOLDER VECTORS.npy QUERIES.npy TRUTH.npy [INDEX.bin EFFORT]

PEER is an embedded store that a user would pick instead: hnswlib, lancedb, chroma or milvus_lite. It writes the vectors with ids,
builds its index, and raises its search effort until recall at 10 is 0.95. Or it is faiss: the ceiling, on the index file that
Topwork built and with the effort that it chose. Then it answers the harness (`benchmarks/processes.py`), which decides when
each runs. Only numpy and the peer itself are imported.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Figures, loop
from benchmarks.processes import answerer, questions

Array = NDArray[Any]
K, TARGET, BATCH = 10, 0.95, 64
#: Queries of a request.
SIZES = {"single": 1, "batch": BATCH, "large": 1000}


class Peer(Protocol):
    """`build` writes and indexes all; `search` answers (q, dim) queries with (q, K) positions at an effort of `efforts`."""

    @property
    def package(self) -> str: ...

    @property
    def efforts(self) -> tuple[int, ...]: ...

    def build(self, vectors: Array) -> None: ...

    def search(self, queries: Array, effort: int) -> Array: ...


class Faiss:
    """FAISS in process on Topwork's own index file: the ceiling. It takes all cores and does nothing else."""

    package = "faiss-cpu"

    def __init__(self, path: str, effort: int) -> None:
        self._faiss: Any = importlib.import_module("faiss")
        self._index = self._faiss.read_index(path)
        self.efforts = (effort,)
        kind = self._faiss.downcast_index(self._index)
        if hasattr(kind, "nprobe"):
            self._parameters = self._faiss.SearchParametersIVF(nprobe=effort)
        elif hasattr(kind, "hnsw"):
            self._parameters = self._faiss.SearchParametersHNSW(efSearch=effort)
        else:
            self._parameters = self._faiss.SearchParameters()

    def build(self, vectors: Array) -> None:
        """Build the index."""

    def search(self, queries: Array, effort: int) -> Array:
        found: Array = self._index.search(queries, K, params=self._parameters)[1]
        return found


class Hnswlib:
    """hnswlib in memory, saved to one file; no metadata, no filters in SQL."""

    package = "hnswlib"
    efforts = (16, 32, 64, 128, 256, 512)

    def __init__(self, folder: Path) -> None:
        self._file = folder / "hnswlib.bin"

    def build(self, vectors: Array) -> None:
        import hnswlib

        self._index: Any = hnswlib.Index(space="cosine", dim=vectors.shape[1])
        self._index.init_index(max_elements=len(vectors), M=16, ef_construction=100)
        self._index.add_items(vectors, np.arange(len(vectors)))
        self._index.save_index(str(self._file))

    def search(self, queries: Array, effort: int) -> Array:
        self._index.set_ef(effort)
        found: Array = self._index.knn_query(queries, k=K)[0].astype(np.int64)
        return found


class LanceDb:
    """LanceDB's default vector index, IVF_PQ, refined by exact distances."""

    package = "lancedb"
    efforts = (1, 2, 5, 10, 20, 50, 100)

    def __init__(self, folder: Path) -> None:
        import lancedb

        self._db = lancedb.connect(str(folder / "lancedb"))

    def build(self, vectors: Array) -> None:
        import pyarrow as pa

        def batches() -> Iterator[Any]:
            for start, part in parts(vectors, 10_000):
                rows = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), part.shape[1])
                yield pa.record_batch({"id": pa.array(np.arange(start, start + len(part))), "vector": rows})

        reader = pa.RecordBatchReader.from_batches(next(batches()).schema, batches())
        self._table = self._db.create_table("rows", reader)
        self._table.create_index(metric="cosine", vector_column_name="vector")

    def search(self, queries: Array, effort: int) -> Array:
        found = np.full((len(queries), K), -1, np.int64)
        for i, query in enumerate(queries):
            asked = self._table.search(query).distance_type("cosine").limit(K).nprobes(effort * 2).refine_factor(effort)
            ids = asked.select(["id"]).to_arrow().column("id").to_numpy()
            found[i, : len(ids)] = ids
        return found


class Chroma:
    """HNSW of its own; its defaults for construction."""

    package = "chromadb"
    efforts = (16, 32, 64, 128, 256, 512)

    def __init__(self, folder: Path) -> None:
        import chromadb

        self._client = chromadb.PersistentClient(str(folder / "chroma"), settings=chromadb.Settings(anonymized_telemetry=False))
        self._effort = 0

    def build(self, vectors: Array) -> None:
        self._rows = self._client.create_collection("rows", configuration={"hnsw": {"space": "cosine"}})
        for start, part in parts(vectors, 5_000):
            self._rows.add(ids=[str(i) for i in range(start, start + len(part))], embeddings=part)

    def search(self, queries: Array, effort: int) -> Array:
        if self._effort != effort:
            self._rows.modify(configuration={"hnsw": {"ef_search": effort}})
            self._effort = effort
        answer = self._rows.query(query_embeddings=queries, n_results=K, include=[])
        return np.array([[int(i) for i in ids] for ids in answer["ids"]], np.int64)


class MilvusLite:
    """The embedded Milvus, one file. Of its kinds IVF_FLAT was the fastest here."""

    package = "milvus-lite"
    efforts = (1, 4, 16, 64, 128)

    def __init__(self, folder: Path) -> None:
        from pymilvus import MilvusClient

        self._client = MilvusClient(str(folder / "milvus.db"))

    def build(self, vectors: Array) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema()
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type="IVF_FLAT", metric_type="COSINE", params={"nlist": int(4 * len(vectors) ** 0.5)})
        self._client.create_collection("rows", schema=schema, index_params=index)
        for start, part in parts(vectors, 5_000):
            self._client.insert("rows", [{"id": start + i, "vector": row} for i, row in enumerate(part)])
        self._client.flush("rows")
        self._client.load_collection("rows")

    def search(self, queries: Array, effort: int) -> Array:
        params = {"metric_type": "COSINE", "params": {"nprobe": effort}}
        answer = self._client.search("rows", data=list(queries), limit=K, search_params=params, anns_field="vector")
        return np.array([[hit["id"] for hit in hits] for hits in answer], np.int64)


STORES: dict[str, Callable[[Path], Peer]] = {"hnswlib": Hnswlib, "lancedb": LanceDb, "chroma": Chroma, "milvus_lite": MilvusLite}


def main() -> int:
    name, folder, vectors_file, queries_file, truth_file, *faiss = sys.argv[1:]
    answer = answerer()
    vectors, queries, truth = np.load(vectors_file, mmap_mode="r"), np.load(queries_file), np.load(truth_file)
    peer: Peer = Faiss(faiss[0], int(faiss[1])) if faiss else STORES[name](Path(folder))
    began = time.monotonic()
    peer.build(vectors)
    facts: dict[str, Any] = {"version": importlib.metadata.version(peer.package), "build_seconds": time.monotonic() - began}
    # Topwork's index keeps rows in an order of its own, so FAISS on it has no recall of its own.
    effort, recall = (int(faiss[1]), None) if faiss else calibrated(peer, queries, truth)
    size = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
    facts |= {"effort": effort, "recall": recall, "disk_bytes": size, "resident_bytes": resident()}
    for asked in questions():
        if asked["question"] == "built":
            answer(facts)
        else:
            answer(queries_per_second(lambda part: peer.search(part, effort), queries, asked["question"], asked["seconds"]))
    return 0


def parts(vectors: Array, size: int) -> Iterator[tuple[int, Array]]:
    """Positions and contiguous slices."""
    return ((start, np.ascontiguousarray(vectors[start : start + size])) for start in range(0, len(vectors), size))


def calibrated(peer: Peer, queries: Array, truth: Array) -> tuple[int, float]:
    """The least effort with the recall that is aimed at, else the largest."""
    recall = 0.0
    for effort in peer.efforts:
        recall = recall_of(np.concatenate([peer.search(part, effort) for _, part in parts(queries, BATCH)]), truth)
        if recall >= TARGET:
            break
    return effort, recall


def recall_of(found: Array, truth: Array) -> float:
    """The mean share of the true K nearest that were found."""
    return float(np.mean([len(set(a.tolist()) & set(b.tolist())) / len(b) for a, b in zip(found, truth[:, :K], strict=True)]))


def queries_per_second(search: Callable[[Array], Any], queries: Array, size_name: str, seconds: float) -> Figures:
    """Queries a second (`qps`), and p50 and p99 of a request, of one caller."""
    size = SIZES[size_name]
    starts = range(0, len(queries) - size + 1, size)
    search(queries[:size])
    found = loop(lambda i: search(queries[starts[i % len(starts)] :][:size]), seconds)
    return {"qps": size * found.pop("per_s"), **found}


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
