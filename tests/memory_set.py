"""A feature set in memory, and an index of lists in numpy: what searches are tested on, without Lance and without FAISS."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from topwork_server.blocking_calls import Report
from topwork_server.feature_sets.set_types import KEY_BITS, Change, ItemBatch, ReadResult, Selection
from topwork_server.features import TapRows
from topwork_server.indexes.index_types import BuildFacts, BuiltIndex, IndexDefinition, SearchQuery
from topwork_server.inference.output_format import normalize
from topwork_server.plugin_api.vector_index import Metric, VectorIndex, VectorSource
from topwork_server.types import Array, FingerprintedTap, Granularity, Tap

DIM = 8
PRINT = "f" * 64
NO_KEYS = np.zeros(0, np.int64)


def tap_info(granularity: Granularity = Granularity.ITEM, dim: int = DIM) -> FingerprintedTap:
    return FingerprintedTap(Tap("pooled", dim, granularity), PRINT)


def definition(metric: Metric = Metric.COSINE, granularity: Granularity = Granularity.ITEM, dim: int = DIM) -> IndexDefinition:
    return IndexDefinition("set", "index", tap_info(granularity, dim), metric=metric)


class FakeSet:
    """Items with rows by key; a write or deletion is a version. What `shuffled` reads comes in no order of keys."""

    def __init__(self, info: FingerprintedTap | None = None, seed: int = 0) -> None:
        self.info = info or tap_info()
        self.version = 1
        self.items: dict[int, Array] = {}
        self.followers: list[Callable[[Change], None]] = []
        self.reads = self.fetches = 0
        self.on_read: Callable[[], None] = lambda: None
        self._shuffle = np.random.default_rng(seed)
        self._lock = threading.RLock()

    def commit(self, rows: Sequence[Array], dead: Sequence[int] = ()) -> list[int]:
        """Write items, one a (n, dim) array, and delete those with these keys. The keys of the new ones."""
        with self._lock:
            keys = [(self.version << KEY_BITS) + i for i in range(len(rows))]
            for key in dead:
                del self.items[key]
            self.items.update(zip(keys, rows, strict=True))
            self.version += 1
            change = Change(self.version, np.array(sorted(dead), np.int64), self.block(keys))
            for follower in self.followers:
                follower(change)
        return keys

    def follow(self, follower: Callable[[Change], None]) -> int:
        with self._lock:
            self.followers.append(follower)
            return self.version

    def block(self, keys: Sequence[int]) -> ItemBatch:
        rows = [self.items[key] for key in keys]
        flat = np.concatenate(rows) if rows else np.zeros((0, self.info.tap.dim), np.float32)
        taps = TapRows(self.info, flat, np.array([len(r) for r in rows], np.int64))
        return ItemBatch([str(key) for key in keys], (taps,), keys=np.array(keys, np.int64))

    def keys(self, where: str = "", ids: None = None) -> tuple[int, Array]:
        with self._lock:
            return self.version, np.array(sorted(self.items), np.int64)

    def read(self, selection: Selection) -> ReadResult:
        with self._lock:
            self.reads += 1
            version = self.version
            keys = [key for key in self.items if key >= selection.since << KEY_BITS]
            self._shuffle.shuffle(keys)
            blocks = [self.block(keys[at : at + 7]) for at in range(0, len(keys), 7)]
        return ReadResult(version, len(keys), self._blocks(blocks))

    def _blocks(self, blocks: list[ItemBatch]) -> Iterator[ItemBatch]:
        self.on_read()
        yield from blocks

    def fetch(self, keys: Array, *, taps: Sequence[str] = ()) -> ItemBatch:
        with self._lock:
            self.fetches += 1
            return self.block([int(key) for key in keys if int(key) in self.items])


class Lists(VectorIndex):
    """Rows in lists by their nearest of some rows; effort is how many lists a search looks into, so recall depends on it.

    `lossy` keeps no vectors; `blind` never finds every seventh row, as a graph may not; `flat` compares with all.
    `calls` are (queries, k, effort, masked, threads); `before` runs ahead of each search.
    """

    def __init__(self, rows: Array, metric: Metric, lists: int = 16, **kind: bool) -> None:
        self.rows, self.metric = rows, metric
        self.lossy, self.flat, self.blind = (kind.get(name, False) for name in ("lossy", "flat", "blind"))
        self.centers = rows[:: max(1, len(rows) // lists)][:lists]
        self.of = _near(rows, self.centers, Metric.L2).argmax(axis=1) if len(rows) else np.zeros(0, np.int64)
        self.calls: list[tuple[int, int, int, bool, int]] = []
        self.before: Callable[[Array], None] = lambda queries: None

    @classmethod
    def build(
        cls, vectors: VectorSource, metric: Metric, options: Any, target_recall: float, threads: int, report: Report
    ) -> Self:
        return cls(np.concatenate(list(vectors.batches())), metric)

    def add(self, rows: Array, threads: int) -> None:
        raise NotImplementedError

    def save(self, path: Path) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, path: Path, metric: Metric) -> Self:
        raise NotImplementedError

    def search(self, queries: Array, k: int, *, effort: int, threads: int, mask: Array | None = None) -> tuple[Array, Array]:
        self.calls.append((len(queries), k, effort, mask is not None, threads))
        self.before(queries)
        near = _near(queries, self.rows, self.metric)
        if not self.flat:
            probed = np.argsort(-_near(queries, self.centers, Metric.L2), axis=1)[:, :effort]
            looked = np.zeros((len(queries), len(self.centers)), bool)
            np.put_along_axis(looked, probed, True, axis=1)
            near[~looked[:, self.of]] = -np.inf
        if self.blind:
            near[:, ::7] = -np.inf
        if mask is not None:
            near[:, ~np.unpackbits(mask, count=self.count, bitorder="little").astype(bool)] = -np.inf
        order = np.argsort(-near, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(near, order, axis=1)
        order[np.isinf(scores)] = -1
        lack = ((0, 0), (0, k - order.shape[1]))
        scores, order = np.pad(scores, lack, constant_values=-np.inf), np.pad(order, lack, constant_values=-1)
        return (-scores if self.metric is Metric.L2 else scores).astype(np.float32), order

    def efforts(self) -> tuple[int, ...]:
        return (0,) if self.flat else tuple(range(1, max(len(self.centers), 1) + 1))

    def vectors(self, positions: Array) -> Array | None:
        return None if self.lossy else self.rows[positions]

    @property
    def exact(self) -> bool:
        return self.flat

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def name(self) -> str:
        return "Lists"

    @property
    def trained_on(self) -> int:
        return 0

    @property
    def memory(self) -> int:
        return int(self.rows.nbytes)


def build(
    fake: FakeSet, metric: Metric = Metric.COSINE, effort: int = 4, order: Array | None = None, **options: Any
) -> BuiltIndex:
    """A build of the set as it stands; `order` (n,) places row order[p] of those by key at position p."""
    keys = np.array(sorted(fake.items), np.int64)
    counts = [len(fake.items[int(key)]) for key in keys]
    rows = np.concatenate([fake.items[int(key)] for key in keys]) if len(keys) else np.zeros((0, fake.info.tap.dim), np.float32)
    numbers = np.concatenate([np.arange(n, dtype=np.int32) for n in counts]) if counts else np.zeros(0, np.int32)
    keys = np.repeat(keys, counts)
    if order is not None:
        keys, rows, numbers = keys[order], rows[order], numbers[order]
    index = Lists(normalize(rows) if metric is Metric.COSINE else rows, metric, **options)
    facts = BuildFacts("lists", "Lists", fake.version, len(rows), len(rows), 0, 0 if index.flat else effort, 1.0, (), 0, 0.0, 0)
    several = fake.info.tap.granularity is not Granularity.ITEM
    by_key = None if order is None else np.lexsort((numbers, keys))
    return BuiltIndex(facts, index, keys, numbers if several else None, by_key)


def query(vectors: Array, **options: Any) -> SearchQuery:
    """Each vector a query of its own, unless `groups` says otherwise."""
    return SearchQuery(vectors, options.pop("groups", np.arange(len(vectors))), **options)


def expected(fake: FakeSet, metric: Metric, asked: SearchQuery) -> list[list[tuple[int, int, float]]]:
    """What a search must find: of each query (key, row, score), best first. In float64, one by one."""
    keys = sorted(fake.items) if asked.allowed is None else [int(k) for k in asked.allowed if int(k) in fake.items]
    answers = []
    for number in range(int(asked.groups.max()) + 1):
        vectors = asked.vectors[asked.groups == number].astype(np.float64)
        hits = []
        for key in keys:
            if asked.without is not None and key == asked.without[number]:
                continue
            near = _near64(vectors, fake.items[key].astype(np.float64), metric).max(axis=0)
            rows = range(len(near)) if asked.every_row else [int(near.argmax())] if len(near) else []
            hits += [(-near[row], key, row) for row in rows]
        scored = [(key, row, near if metric is Metric.L2 else -near) for near, key, row in sorted(hits)[: asked.k]]
        answers.append([hit for hit in scored if _inside(hit[2], asked.within, metric)])
    return answers


def _inside(score: float, within: float | None, metric: Metric) -> bool:
    return within is None or (score <= within if metric is Metric.L2 else score >= within)


def _near64(vectors: Array, rows: Array, metric: Metric) -> Array:
    if metric is Metric.COSINE:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return _near(vectors, rows, metric)


def _near(vectors: Array, rows: Array, metric: Metric) -> Array:
    if metric is not Metric.L2:
        return np.asarray(vectors @ rows.T)
    a, b = vectors.astype(np.float64), rows.astype(np.float64)
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.asarray(-np.sqrt(np.maximum(squares, 0)))
