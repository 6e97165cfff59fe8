"""Frozen data that indexes are made of and asked for; nothing heavy.

An index over a tap is a `BuiltIndex` (immutable, from a job), what was written since (fresh, searched exactly) and what died
since. Vectors are known by their item's key (see `set_types.py`) and by which of the item's rows they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from topwork_server.access.passes import SetPass
from topwork_server.errors import DataLoss
from topwork_server.plugin_api.vector_index import Metric, VectorIndex
from topwork_server.types import Array, FingerprintedTap

TARGET_RECALL = 0.95
MOST_HITS = 10_000


class IndexState(StrEnum):
    BUILDING = "building"
    READY = "ready"
    REBUILDING = "rebuilding"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class IndexDefinition:
    """The definition that CreateIndex asked for. `kind` may be "auto" or a FAISS factory string; `queries` is the SHA-256 of the
    file of the caller's own queries, "" for none."""

    set: str
    name: str
    tap: FingerprintedTap
    kind: str = "auto"
    metric: Metric = Metric.COSINE
    options: Mapping[str, Any] = field(default_factory=dict)
    target_recall: float = TARGET_RECALL
    queries: str = ""


@dataclass(frozen=True)
class CreateIndexParams:
    """The arguments of CreateIndex; what is left out is chosen: the set's first tap, the tap's name, "auto", cosine, 0.95.
    `queries` (q, dim) are ready to be searched: of unit length for cosine."""

    set: SetPass
    name: str = ""
    tap: str = ""
    kind: str = ""
    metric: Metric = Metric.COSINE
    options: Mapping[str, Any] = field(default_factory=dict)
    target_recall: float = 0.0
    queries: Array | None = None


@dataclass(frozen=True, slots=True)
class MeasuredEffort:
    """The result of a search effort on held-out rows: recall at 10 against exact search, queries a second in one batch."""

    effort: int
    recall: float
    qps: float


@dataclass(frozen=True, slots=True)
class BuildFacts:
    """The facts of a build and its measurements. `version` is the set's that it was built from, `rows` counts vectors, dead ones
    too, `scratch_rows` those of the last build that was not an addition to an older one; seconds and bytes. `held_out` counts the
    queries of the measurements: rows of the set, or the caller's own (`own_queries`)."""

    kind: str
    built: str
    version: int
    rows: int
    scratch_rows: int
    trained_on: int
    effort: int
    recall: float
    operating: tuple[MeasuredEffort, ...]
    held_out: int
    seconds: float
    bytes: int
    own_queries: bool = False


@dataclass(frozen=True, slots=True)
class BuiltIndex:
    """A build in memory: position p of `index` is row `rows[p]` of the item with key `keys[p]`. keys (n,) int64; rows (n,) int32,
    or None where each item has one row. Keys ascend but for the rows that were held out while the index was measured, which are
    added last: `order` (n,) int64 lists the positions by key and row (keys[order] ascends); None where the keys ascend already.
    """

    facts: BuildFacts
    index: VectorIndex
    keys: Array
    rows: Array | None
    order: Array | None = None


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """Vectors to search for. `groups` (n,) says which query each vector belongs to, ascending from 0 (an item with several rows
    is one query: a row's score is its best over them); `allowed` are the keys of the items that may be found (sorted int64),
    None for all; `without` is a key for each query that must not be found, -1 for none.
    """

    vectors: Array  # (n, dim) float32, as the encoder gave them
    groups: Array
    k: int = 10
    within: float | None = None
    allowed: Array | None = None
    without: Array | None = None
    every_row: bool = False
    exact: bool = False
    effort: int = 0


@dataclass(frozen=True, slots=True)
class SearchHits:
    """The hits of all queries, one after another, best first: counts (queries,), keys (hits,) int64, rows (hits,) int32 (0 where
    items have one row), scores (hits,) float32. `how` says what was done: "index", "exact" or "exact over 812 matches".
    `compared` counts the rows of the set itself that were read and compared for it."""

    counts: Array
    keys: Array
    rows: Array
    scores: Array
    version: int
    how: str
    compared: int = 0


@dataclass(frozen=True, slots=True)
class LiveRecallFigure:
    """Recall at 10 of live searches that were repeated exactly: those without a filter, or those whose filter left more than
    `above` and at most `up_to` of the rows."""

    filtered: bool
    above: float
    up_to: float
    searches: int
    recall: float


@dataclass(frozen=True, slots=True)
class IndexDescription:
    """An index as it stands, for GetIndex. `job` is the id of its latest build."""

    definition: IndexDefinition
    state: IndexState
    detail: str
    facts: BuildFacts | None
    version: int
    alive_rows: int
    fresh_rows: int
    dead_rows: int
    memory: int
    job: str


@dataclass(frozen=True, slots=True)
class DamagedIndex:
    """An index whose definition cannot be read; `damage` names the file and what is wrong with it. It is listed, refused by name,
    and dropped or created again as any other."""

    set: str
    name: str
    damage: str

    def error(self) -> DataLoss:
        return DataLoss(
            f"the index {self.name!r} of the set {self.set!r} is damaged: {self.damage}",
            remedy="put the file back from a copy and start the server again, or drop the index and create it again",
        )
