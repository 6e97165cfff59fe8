"""A build of one index: a job's function, in a process of its own. The set is read, an index trained and filled, measured on
rows that it has not seen, and published.

Where an older build is good, the rows written since are added to it; else, and where it has outgrown its training, all is built
again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from topwork_server.blocking_calls import Report, part
from topwork_server.errors import InvalidInput
from topwork_server.indexes.build_rows import CollectedRows, DatasetColumn, RowSubset, collect_rows
from topwork_server.indexes.effort_calibration import (
    RECALL_AT,
    CalibrationQueries,
    calibrate,
    nearest_positions,
    prepare_calibration,
)
from topwork_server.indexes.index_store import BuildFolder, order_by_key, read_definition
from topwork_server.indexes.index_types import BuildFacts, BuiltIndex, IndexDefinition, MeasuredEffort
from topwork_server.plugin_api.options import parse
from topwork_server.plugin_api.plugin_registry import AUTO, PluginRegistry, RegisteredIndex
from topwork_server.plugin_api.vector_index import IndexSpec, VectorIndex
from topwork_server.types import Array

HELD_OUT = 200
#: Of fewer items than this for each query, fewer are held out.
FEWEST_A_QUERY = 5
#: An older build is added to while fewer of its rows are dead than this share, and while all rows are fewer than so many times
#: those that it was made of.
MOST_DEAD = 0.2
MOST_GROWTH = 4
SEED = 42


class IndexKinds(Protocol):
    """The part of PluginRegistry that builds need."""

    def indexes(self) -> Mapping[str, RegisteredIndex]: ...

    def index(self, kind: str) -> IndexSpec: ...


@dataclass(frozen=True, slots=True)
class BuildJob:
    """The arguments of a job, as plain values. `from_scratch` asks for a build that adds to no older one."""

    folder: str
    dataset: DatasetColumn
    threads: int
    from_scratch: bool

    def arguments(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> BuildJob:
        return cls(**{**arguments, "dataset": DatasetColumn(**arguments["dataset"])})


def build(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Run the job; return the facts of what was built."""
    return asdict(run_build(BuildJob.from_arguments(arguments), PluginRegistry.load(), report))


def run_build(job: BuildJob, kinds: IndexKinds, report: Report) -> BuildFacts:
    """Read, build, measure, publish. TopworkError where the kind cannot be built, DiskFull where the disk is full."""
    began = time.monotonic()
    folder = BuildFolder(Path(job.folder))
    definition = read_definition(folder)
    with folder.scratch() as scratch:
        rows = collect_rows(job.dataset, definition.tap, definition.metric, scratch, part(report, 0, 0.15))
        spec = resolve_kind(definition, len(rows.keys), kinds)
        work = _Build(definition, spec, rows, job, report, folder.queries(definition))
        made = (None if job.from_scratch else work.extend_older_build(folder)) or work.build_from_scratch()
        report(0.95, "writing the index")
        built = made.built(work, time.monotonic() - began)
        folder.publish(built)
    return built.facts


def resolve_kind(definition: IndexDefinition, count: int, kinds: IndexKinds) -> IndexSpec:
    """Return the kind itself; of "auto" the one that suits so many rows. InvalidInput names the kinds that there are."""
    if definition.kind != AUTO:
        return kinds.index(definition.kind)
    specs = [registered.spec for registered in kinds.indexes().values()]
    suited = [(spec.suits[0], spec.kind, spec) for spec in specs if spec.suits and _within(count, *spec.suits)]
    if not suited:
        raise InvalidInput(f"no kind of index suits {count:,} rows", remedy=f"name one of {', '.join(kinds.indexes())}")
    return max(suited)[2]


def check_kind(definition: IndexDefinition, kinds: IndexKinds) -> None:
    """Raise InvalidInput for an unknown kind, options that it does not take, or what can never be built of the set's rows."""
    if definition.kind != AUTO:
        index = kinds.index(definition.kind).index
        options = parse(index.options, definition.options, f"the kind {definition.kind}")
        index.check(definition.tap.tap.dim, definition.metric, options, definition.target_recall)
    elif definition.options:
        raise InvalidInput(
            f"options {', '.join(definition.options)} of the kind auto", remedy="name a kind, or leave its options out"
        )


def _within(count: int, least: int, most: int | None) -> bool:
    return least <= count and (most is None or count <= most)


@dataclass(frozen=True, slots=True)
class _MeasuredBuild:
    """An index that was measured and is complete: what stands at each position, and what was found out."""

    index: VectorIndex
    keys: Array
    rows: Array | None
    operating: tuple[MeasuredEffort, ...]
    held_out: int
    scratch_rows: int

    def built(self, work: _Build, seconds: float) -> BuiltIndex:
        last = self.operating[-1]
        facts = BuildFacts(
            kind=work.spec.kind,
            built=self.index.name,
            version=work.job.dataset.version,
            rows=self.index.count,
            scratch_rows=self.scratch_rows,
            trained_on=self.index.trained_on,
            effort=last.effort,
            recall=last.recall,
            operating=self.operating,
            held_out=self.held_out,
            seconds=seconds,
            bytes=0,
            own_queries=work.queries is not None,
        )
        return BuiltIndex(facts, self.index, self.keys, self.rows, order_by_key(self.keys, self.rows))


class _Build:
    """One build under way. `places` are, for each position of the index, where its row is among those collected; -1 for a dead
    one."""

    def __init__(
        self,
        definition: IndexDefinition,
        spec: IndexSpec,
        rows: CollectedRows,
        job: BuildJob,
        report: Report,
        queries: Array | None = None,
    ) -> None:
        self.definition, self.spec, self.rows, self.job, self.report = definition, spec, rows, job, report
        self.queries = queries

    def build_from_scratch(self) -> _MeasuredBuild:
        """Build from all rows but those held out, which are added once they have served as queries."""
        held, rest = self._split(np.arange(len(self.rows.keys)))
        options = parse(self.spec.index.options, self.definition.options, "this kind of index")
        training = part(self.report, 0.15, 0.75)
        target, metric = self.definition.target_recall, self.definition.metric
        index = self.spec.index.build(RowSubset(self.rows, rest), metric, options, target, self.job.threads, training)
        return self._measured(index, held, rest, self.rows.keys[rest], self._rows(rest), len(self.rows.keys))

    def extend_older_build(self, folder: BuildFolder) -> _MeasuredBuild | None:
        """Extend an older build by what was written since; None where a new one is better."""
        old = folder.load(lambda facts: lambda path: self.spec.index.load(path, self.definition.metric))
        if old is None or old.facts.kind != self.spec.kind:
            return None
        places = _places(old, self.rows)
        new = _missing(places, len(self.rows.keys))
        if not len(new) or (places < 0).sum() >= MOST_DEAD * len(places):
            return None
        if len(places) + len(new) >= MOST_GROWTH * old.facts.scratch_rows:
            return None
        made = self._added(old, places, new)
        return made if made.operating[-1].recall >= min(self.definition.target_recall, old.facts.recall) else None

    def _added(self, old: BuiltIndex, places: Array, new: Array) -> _MeasuredBuild:
        held, rest = self._split(new)
        self._add(old.index, rest, part(self.report, 0.15, 0.75))
        keys = np.concatenate([old.keys, self.rows.keys[rest]])
        rows = None if old.rows is None else np.concatenate([old.rows, _some(self._rows(rest))])
        return self._measured(old.index, held, np.concatenate([places, rest]), keys, rows, old.facts.scratch_rows)

    def _measured(
        self, index: VectorIndex, held: Array, places: Array, keys: Array, rows: Array | None, scratch_rows: int
    ) -> _MeasuredBuild:
        probe = self._probe(held, places)
        metric, target = self.definition.metric, self.definition.target_recall
        steps = part(self.report, 0.75, 0.93)
        operating = calibrate(index, probe, lambda p: self.rows.gather(places[p]), metric, target, self.job.threads, steps)
        self._add(index, held, part(self.report, 0.93, 0.95))
        keys = np.concatenate([keys, self.rows.keys[held]])
        rows = None if rows is None else np.concatenate([rows, _some(self._rows(held))])
        return _MeasuredBuild(index, keys, rows, operating, len(probe.queries), scratch_rows)

    def _probe(self, held: Array, places: Array) -> CalibrationQueries:
        """Take the caller's queries, or the held-out rows (a sample, where an item has many), and search for them exactly."""
        alive = places >= 0
        kept = RowSubset(self.rows, np.sort(places[alive]))
        queries = RowSubset(self.rows, held).sample(HELD_OUT) if self.queries is None else self.queries
        mask = None if alive.all() else np.packbits(alive, bitorder="little")
        if not len(queries) or not kept.count:
            return CalibrationQueries(queries[:0], np.empty(0), 0, mask)
        self.report(0.75, "finding the nearest of the queries exactly")
        found = kept.positions[nearest_positions(queries, kept.batches(), self.definition.metric, min(RECALL_AT, kept.count))]
        neighbors = self.rows.gather(found.ravel()).reshape(*found.shape, -1)
        return prepare_calibration(queries, neighbors, self.definition.metric, mask)

    def _split(self, positions: Array) -> tuple[Array, Array]:
        """Split off up to HELD_OUT items at random, with all their rows, so that no row has a sibling in the index; then the
        rest. Nothing is held out where the caller's own queries are there."""
        if self.queries is not None:
            return positions[:0], positions
        keys = self.rows.keys[positions]
        items = np.unique(keys)
        chosen = np.random.default_rng(SEED).choice(items, min(HELD_OUT, len(items) // FEWEST_A_QUERY), replace=False)
        held = np.isin(keys, chosen)
        return positions[held], positions[~held]

    def _add(self, index: VectorIndex, positions: Array, report: Report) -> None:
        chosen, done = RowSubset(self.rows, positions), 0
        for batch in chosen.batches():
            index.add(batch, self.job.threads)
            done += len(batch)
            report(done / chosen.count, f"added {done:,} of {chosen.count:,} rows")

    def _rows(self, positions: Array) -> Array | None:
        return None if self.rows.rows is None else self.rows.rows[positions]


def _places(old: BuiltIndex, rows: CollectedRows) -> Array:
    if not len(rows.keys):
        return np.full(len(old.keys), -1)
    at = np.searchsorted(rows.keys, old.keys)
    alive = rows.keys[np.minimum(at, len(rows.keys) - 1)] == old.keys
    places: Array = np.where(alive, at + (0 if old.rows is None else old.rows), -1)
    return places


def _missing(places: Array, count: int) -> Array:
    missing = np.ones(count, bool)
    missing[places[places >= 0]] = False
    return np.flatnonzero(missing)


def _some(rows: Array | None) -> Array:
    assert rows is not None
    return rows
