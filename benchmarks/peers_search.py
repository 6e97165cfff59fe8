"""Embedded stores that a user would pick instead, on the same vectors: a program of its own, for an environment of its own.

    python benchmarks/peers_search.py PEER VECTORS.npy QUERIES.npy TRUTH.npy FOLDER

PEER is hnswlib, lancedb, chroma or milvus_lite. It writes the vectors with ids, builds its index, and raises its search
effort until recall at 10 is 0.95. Then it answers lines of stdin, so that the caller decides who runs when: "single SECONDS",
"batch SECONDS" and "large SECONDS" print queries a second (and p50, p99 in ms), "end" ends it. All output is JSON, a line
each. Only numpy and the peer itself are imported.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
K, TARGET, BATCH = 10, 0.95, 64
#: Queries at a time.
SIZES = {"single": 1, "batch": BATCH, "large": 1000}


class Peer(Protocol):
    """`build` writes and indexes all; `search` answers (q, dim) queries with (q, K) positions at an effort of `efforts`."""

    @property
    def package(self) -> str: ...

    @property
    def efforts(self) -> tuple[int, ...]: ...

    def build(self, vectors: Array) -> None: ...

    def search(self, queries: Array, effort: int) -> Array: ...


class Hnswlib:
    """In memory, saved to one file; no metadata, no filters in SQL."""

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
    """Its default vector index, IVF_PQ, refined by exact distances."""

    package = "lancedb"
    efforts = (1, 2, 5, 10, 20, 50, 100)

    def __init__(self, folder: Path) -> None:
        import lancedb

        self._db = lancedb.connect(str(folder / "lancedb"))

    def build(self, vectors: Array) -> None:
        import pyarrow as pa

        def batches() -> Iterator[Any]:
            for start in range(0, len(vectors), 10_000):
                part = np.ascontiguousarray(vectors[start : start + 10_000])
                rows = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), part.shape[1])
                ids = pa.array(np.arange(start, start + len(part)))
                yield pa.record_batch({"id": ids, "vector": rows})

        first = next(batches())
        reader = pa.RecordBatchReader.from_batches(first.schema, batches())
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

    def build(self, vectors: Array) -> None:
        self._rows = self._client.create_collection("rows", configuration={"hnsw": {"space": "cosine"}})
        for start in range(0, len(vectors), 5_000):
            part = vectors[start : start + 5_000]
            self._rows.add(ids=[str(i) for i in range(start, start + len(part))], embeddings=part)

    def search(self, queries: Array, effort: int) -> Array:
        if getattr(self, "_effort", None) != effort:
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
        for start in range(0, len(vectors), 5_000):
            part = vectors[start : start + 5_000]
            self._client.insert("rows", [{"id": start + i, "vector": row} for i, row in enumerate(part)])
        self._client.flush("rows")
        self._client.load_collection("rows")

    def search(self, queries: Array, effort: int) -> Array:
        params = {"metric_type": "COSINE", "params": {"nprobe": effort}}
        answer = self._client.search("rows", data=list(queries), limit=K, search_params=params, anns_field="vector")
        return np.array([[hit["id"] for hit in hits] for hits in answer], np.int64)


PEERS: dict[str, Callable[[Path], Peer]] = {"hnswlib": Hnswlib, "lancedb": LanceDb, "chroma": Chroma, "milvus_lite": MilvusLite}


def main() -> int:
    name, vectors_file, queries_file, truth_file, folder = sys.argv[1:]
    vectors, queries, truth = np.load(vectors_file, mmap_mode="r"), np.load(queries_file), np.load(truth_file)
    peer = PEERS[name](Path(folder))
    began = time.monotonic()
    peer.build(vectors)
    built = time.monotonic() - began
    effort, recall = calibrated(peer, queries, truth)
    say(
        peer=name, version=importlib.metadata.version(peer.package), build_seconds=built, effort=effort, recall=recall,
        disk_bytes=sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()), resident_bytes=resident(),
    )  # fmt: skip
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "end":
            return 0
        say(**timed(lambda part: peer.search(part, effort), queries, SIZES[word], float(rest[0])))
    return 0


def calibrated(peer: Peer, queries: Array, truth: Array) -> tuple[int, float]:
    """The least effort with the recall that is aimed at, else the largest."""
    recall = 0.0
    for effort in peer.efforts:
        found = np.concatenate([peer.search(queries[i : i + BATCH], effort) for i in range(0, len(queries), BATCH)])
        recall = recall_of(found, truth)
        if recall >= TARGET:
            break
    return effort, recall


def recall_of(found: Array, truth: Array) -> float:
    """The mean share of the true K nearest that were found."""
    return float(np.mean([len(set(a.tolist()) & set(b.tolist())) / len(b) for a, b in zip(found, truth[:, :K], strict=True)]))


def timed(search: Callable[[Array], Any], queries: Array, size: int, seconds: float) -> dict[str, float]:
    """Queries a second, and p50 and p99 of a call in ms."""
    search(queries[:size])
    times, start, began = [], 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        called = time.perf_counter()
        search(queries[start : start + size])
        times.append(time.perf_counter() - called)
        start = (start + size) % (len(queries) - size + 1)
    rate = len(times) * size / (time.perf_counter() - began)
    return {"qps": rate, "p50_ms": float(np.percentile(times, 50)) * 1e3, "p99_ms": float(np.percentile(times, 99)) * 1e3}


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def say(**record: Any) -> None:
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    sys.exit(main())
