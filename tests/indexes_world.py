"""Indexes over real sets, with toy kinds, and jobs that run in this process: what a test holds, fails or cancels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import toys_index
from topwork_server import IndexSpec, Metric
from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Column, ColumnType, ItemBatch, Selection, SetDefinition
from topwork_server.features import TapRows
from topwork_server.indexes import builder
from topwork_server.indexes.index_manager import IndexManager
from topwork_server.indexes.index_types import SearchHits, SearchQuery
from topwork_server.inference.output_format import normalize
from topwork_server.jobs.job_records import JobRecord, JobState
from topwork_server.plugin_api.plugin_registry import RegisteredIndex
from topwork_server.types import Array, FingerprintedTap, Granularity, Tap

DIM = 8
POOLED = FingerprintedTap(Tap("pooled", DIM, Granularity.ITEM), "a" * 64)
TOKENS = FingerprintedTap(Tap("tokens", DIM, Granularity.TOKEN), "b" * 64)


class Half(toys_index.Rows):
    """Never finds a row at an even position: recall is about a half, and no effort helps."""

    exact = False

    def efforts(self) -> tuple[int, ...]:
        return (1, 2)

    def search(self, queries: Array, k: int, *, effort: int, threads: int, mask: Array | None = None) -> tuple[Array, Array]:
        odd = np.arange(self.count) % 2 > 0
        if mask is not None:
            odd &= np.unpackbits(mask, count=self.count, bitorder="little").astype(bool)
        return super().search(queries, k, effort=0, threads=threads, mask=np.packbits(odd, bitorder="little"))


class Never(toys_index.Rows):
    """Can be built of no rows of 8 numbers."""

    @classmethod
    def check(cls, dim: int, metric: Metric, options: Any, target_recall: float) -> None:
        if dim == 8:
            raise InvalidInput("8 numbers are never enough", remedy="take another kind")


@dataclass
class Kinds:
    """Plugins of four kinds."""

    specs: list[IndexSpec] = field(
        default_factory=lambda: [
            IndexSpec("rows", toys_index.Rows, suits=(0, 1000)),
            IndexSpec("more", toys_index.Rows, suits=(1000, None)),
            IndexSpec("half", Half),
            IndexSpec("never", Never),
        ]
    )

    def indexes(self) -> dict[str, RegisteredIndex]:
        return {spec.kind: RegisteredIndex(spec, "tests", "tests 1.0") for spec in self.specs}

    def index(self, kind: str) -> IndexSpec:
        if kind not in self.indexes():
            raise InvalidInput(f"there is no kind of index named {kind!r}", remedy=f"the kinds are {', '.join(self.indexes())}")
        return self.indexes()[kind].spec


class LocalJobs:
    """Jobs without processes. `gate` holds those that start; `fail` is what they say instead of working."""

    def __init__(self, kinds: Kinds) -> None:
        self.kinds = kinds
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail = ""
        self.started: list[dict[str, Any]] = []
        self.small: list[bool] = []
        self._jobs: dict[str, JobRecord] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, kind: str, subject: str, call: str, arguments: Mapping[str, Any], *, small: bool = False) -> JobRecord:
        assert call == "topwork_server.indexes.builder:build"
        self.started.append(dict(arguments))
        self.small.append(small)
        job = JobRecord(f"{len(self.started):08}", kind, subject, 0.0)
        self._jobs[job.id] = job
        self._tasks[job.id] = asyncio.create_task(self._run(job.id, arguments))
        return job

    async def _run(self, id: str, arguments: Mapping[str, Any]) -> None:
        try:
            await self.gate.wait()
            if self.fail:
                raise RuntimeError(self.fail)
            await asyncio.to_thread(
                builder.run_build, builder.BuildJob.from_arguments(arguments), self.kinds, lambda fraction, message: None
            )
            self._end(id, JobState.DONE)
        except asyncio.CancelledError:
            self._end(id, JobState.CANCELLED)
        except Exception as error:
            self._end(id, JobState.FAILED, str(error))

    def _end(self, id: str, state: JobState, error: str = "") -> None:
        self._jobs[id] = replace(self._jobs[id], state=state, error=error)

    def get(self, id: str) -> JobRecord:
        return self._jobs[id]

    def list(self, kind: str = "", subject: str = "") -> list[JobRecord]:
        return [job for job in reversed(self._jobs.values()) if subject in ("", job.subject)]

    async def wait(self, id: str) -> JobRecord:
        await asyncio.wait([self._tasks[id]])
        return self._jobs[id]

    async def cancel(self, id: str) -> JobRecord:
        self._tasks[id].cancel()
        await asyncio.wait([self._tasks[id]])
        if self._jobs[id].state is JobState.RUNNING:  # cancelled before its first step
            self._end(id, JobState.CANCELLED)
        return self._jobs[id]


@dataclass
class World:
    sets: FeatureSets
    jobs: Any
    indexes: IndexManager
    kinds: Kinds

    async def search(self, vectors: Array, k: int = 10, name: str = "", **more: Any) -> SearchHits:
        live = await self.indexes.live("birds", name)
        query = SearchQuery(vectors, np.arange(len(vectors)), k, **more)
        return await asyncio.to_thread(live.search, query)


@asynccontextmanager
async def world(home: Path, kinds: Kinds | None = None, jobs: Any = None, **more: Any) -> AsyncIterator[World]:
    kinds = kinds or Kinds()
    sets = FeatureSets(home / "sets")
    jobs = jobs or LocalJobs(kinds)
    indexes = IndexManager(home / "indexes", sets, jobs, kinds, 1, lambda: False, **more)
    try:
        yield World(sets, jobs, indexes, kinds)
    finally:
        await indexes.close()
        await asyncio.to_thread(sets.close)


def birds(sets: FeatureSets, *taps: FingerprintedTap, **more: Any) -> FeatureSet:
    return sets.create(SetDefinition("birds", taps or (POOLED,), **more))


def block(
    ids: list[str], rows: Array, tap: FingerprintedTap = POOLED, counts: Array | None = None, **columns: list[Any]
) -> ItemBatch:
    """Items of one tap, with columns of int, else of str."""
    each = np.ones(len(ids), np.int64) if counts is None else counts
    metadata = tuple(
        Column(name, ColumnType.INT if isinstance(values[0], int) else ColumnType.STRING, values)
        for name, values in columns.items()
    )
    return ItemBatch(ids, (TapRows(tap, rows, each),), metadata)


def nearest_ids(feature_set: FeatureSet, queries: Array, k: int = 10, metric: Metric = Metric.COSINE) -> list[set[str]]:
    """What exact search over all that the set holds finds, computed anew."""
    blocks = list(feature_set.read(Selection(taps=None, columns=())).batches)
    ids = [id for part in blocks for id in part.ids]
    rows = np.concatenate([part.taps[0].rows for part in blocks])
    if metric is Metric.COSINE:
        queries, rows = normalize(queries), normalize(rows)
    near = -np.linalg.norm(queries[:, None] - rows, axis=2) if metric is Metric.L2 else queries @ rows.T
    return [{ids[i] for i in np.argsort(-line, kind="stable")[:k]} for line in near]


def found_ids(feature_set: FeatureSet, hits: SearchHits) -> list[set[str]]:
    ends = np.cumsum(hits.counts)
    ids = feature_set.ids_of(hits.keys)
    return [{id or "?" for id in ids[end - count : end]} for end, count in zip(ends, hits.counts, strict=True)]
