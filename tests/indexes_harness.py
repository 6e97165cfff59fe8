"""Indexes over real sets, with toy kinds, and jobs that run in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import toys_index
from local_jobs import LocalJobs
from passes import of_set
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


def builds(kinds: Kinds) -> LocalJobs:
    """Jobs that build indexes of these kinds."""

    def build(kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        builder.run_build(builder.BuildJob.from_arguments(arguments), kinds, lambda fraction, message: None)
        return {}

    return LocalJobs(build)


@dataclass
class IndexesHarness:
    sets: FeatureSets
    jobs: Any
    indexes: IndexManager
    kinds: Kinds

    async def search(self, vectors: Array, k: int = 10, name: str = "", **more: Any) -> SearchHits:
        live = await self.indexes.live(of_set("birds"), name)
        query = SearchQuery(vectors, np.arange(len(vectors)), k, **more)
        return await asyncio.to_thread(live.search, query)


@asynccontextmanager
async def open_indexes(home: Path, kinds: Kinds | None = None, jobs: Any = None, **more: Any) -> AsyncIterator[IndexesHarness]:
    kinds = kinds or Kinds()
    sets = FeatureSets(home / "sets")
    jobs = jobs or builds(kinds)
    indexes = IndexManager(home / "indexes", sets, jobs, kinds, 1, lambda: False, **more)
    try:
        yield IndexesHarness(sets, jobs, indexes, kinds)
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
    """Compute what an exact search over all that the set holds finds."""
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
