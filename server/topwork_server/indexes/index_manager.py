"""Indexes of a server. Owns $TOPWORK_HOME/indexes."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from topwork._display.excerpts import excerpt

from topwork_server.access.passes import SetPass, visible_sets
from topwork_server.blocking_calls import shielded
from topwork_server.errors import AlreadyExists, InvalidInput, NotFound
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import SetDefinition
from topwork_server.feature_sets.set_types import SetDescription as DescribedSet
from topwork_server.indexes.builder import IndexKinds, check_kind
from topwork_server.indexes.index import KIND, Index, IndexContext, OpenedIndex
from topwork_server.indexes.index_store import IndexStore, StoredIndex
from topwork_server.indexes.index_types import TARGET_RECALL, CreateIndexParams, DamagedIndex, IndexDefinition, IndexDescription
from topwork_server.indexes.live_index import LiveIndex
from topwork_server.jobs.job_records import JobRecord
from topwork_server.jobs.manager import JobManager
from topwork_server.models.artifacts import slug
from topwork_server.names import check_name, instead
from topwork_server.plugin_api.plugin_registry import AUTO
from topwork_server.plugin_api.vector_index import Metric
from topwork_server.types import FingerprintedTap

IDLE_SECONDS = 900.0
#: Sets, taps and metrics without an index that are remembered, so that their searches can be joined.
MOST_UNINDEXED = 64

log = logging.getLogger(__name__)


class IndexManager:
    """All indexes of a server. Used on the event loop; its blocking work is done in threads."""

    def __init__(
        self,
        folder: Path,
        sets: FeatureSets,
        jobs: JobManager,
        plugins: IndexKinds,
        threads: int,
        busy: Callable[[], bool],
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._store = IndexStore(folder)
        self._context = IndexContext(sets, jobs, plugins, threads, busy)
        self._idle_seconds = idle_seconds
        self._unindexed: OrderedDict[tuple[str, str, Metric], OpenedIndex] = OrderedDict()
        self._store.sweep()
        jobs.recognize((KIND,), self._published)
        self._damaged = {(one.set, one.name): one for one in self._found_damaged(sets)}
        self._indexes = {_key(stored.definition): self._index(stored) for stored in self._stored_indexes(sets)}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._sweeper: asyncio.Task[None] | None = None

    async def create(self, params: CreateIndexParams) -> IndexDescription:
        """Create an index and start its build. NotFound, InvalidInput or AlreadyExists where it cannot be."""
        async with self._set_lock(params.set):
            return await shielded(self._create(params))

    async def _create(self, params: CreateIndexParams) -> IndexDescription:
        described = await asyncio.to_thread(lambda: self._context.sets.get(params.set).describe())
        definition = _definition(params, described)
        await asyncio.to_thread(check_kind, definition, self._context.kinds)
        key = _key(definition)
        if key in self._indexes:
            raise AlreadyExists(
                f"{definition.set} has an index named {definition.name}",
                remedy=f"choose another `name`, rebuild it (`RebuildIndex({definition.set}, {definition.name})`), or drop it "
                f"(`DropIndex({definition.set}, {definition.name})`)",
            )
        stored = StoredIndex(definition, described.created)
        if damaged := self._damaged.get(key):
            await self._drop_damaged(damaged)
        index = self._indexes[key] = self._index(stored)
        try:
            await asyncio.to_thread(self._store.add, stored, params.queries)
            await index.build(from_scratch=True)
        except BaseException:
            await self._drop(index)
            raise
        return await index.describe()

    async def open_unindexed(self, set_name: SetPass, tap: str, metric: Metric) -> OpenedIndex:
        """Open a search that compares with every row of a tap ("" the first). NotFound where there is no such set or tap."""
        feature_set = await asyncio.to_thread(self._context.sets.get, set_name)
        return self._open_unindexed(feature_set, _tap(set_name, tap, feature_set.definition), metric)

    async def get(self, set_name: SetPass, name: str = "") -> IndexDescription:
        """Describe an index, loaded into memory. `name` "" is the only one, or that of the set's first tap."""
        index = await self._find(set_name, name)
        await index.open()
        return await index.describe()

    async def list(self, set_name: SetPass | None = None) -> builtins.list[IndexDescription]:
        """Describe indexes by set and name, of one set or of all that the caller may use. Those that are not in memory are
        described as they were built."""
        if set_name:
            await asyncio.to_thread(self._context.sets.get, set_name)
        found = []
        for key, index in sorted(self._indexes.items()):
            if set_name in (None, key[0]) and visible_sets(key[:1]):
                with contextlib.suppress(NotFound):  # dropped meanwhile
                    found.append(await index.describe())
        return found

    def damaged(self, set_name: str = "", name: str = "") -> builtins.list[DamagedIndex]:
        """List the indexes whose definition is damaged, by set and name. `name` "" is all of the set."""
        return [one for key, one in sorted(self._damaged.items()) if set_name in ("", key[0]) and name in ("", key[1])]

    def names(self, set_name: str) -> builtins.list[str]:
        """List the names of one set's indexes, without damaged ones."""
        return sorted(name for of, name in self._indexes if of == set_name)

    def all_names(self, set_name: str) -> builtins.list[str]:
        return sorted([*self.names(set_name), *(one.name for one in self.damaged(set_name))])

    def has_whole_definition(self, set_and_name: str) -> bool:
        """Tell whether the definition of the index SET/NAME is intact. NotFound where there is none."""
        key = tuple(set_and_name.split("/", 1))
        if key not in self._indexes and key not in self._damaged:
            raise NotFound(f"there is no index {excerpt(set_and_name)}")
        return key in self._indexes

    async def open(self, set_name: SetPass, name: str = "", metric: Metric | None = None) -> OpenedIndex:
        """Open the search of an index, caught up with its set; without such an index that of the set itself, by cosine or
        `metric`; its name may then be a tap's. InvalidInput where the index is of another metric."""
        self._sweeper = self._sweeper or asyncio.create_task(self._sweep())
        if damaged := self._damaged.get((set_name, name)):
            raise damaged.error()
        found = await self._lookup(set_name, name)
        if found is None:
            feature_set = await asyncio.to_thread(self._context.sets.get, set_name)
            tap = _tap_named(feature_set.definition, name)
            if tap is None:
                raise self._missing(set_name, name)
            return self._open_unindexed(feature_set, tap, metric or Metric.COSINE)
        if metric not in (None, found.definition.metric):
            raise InvalidInput(
                f"the index {found.definition.name} is of the metric {found.definition.metric.value}, not {metric}",
                remedy="leave the metric out, or create another index",
            )
        return await found.open()

    async def live(self, set_name: SetPass, name: str = "") -> LiveIndex:
        return (await self.open(set_name, name)).live

    async def rebuild(self, set_name: SetPass, name: str = "") -> IndexDescription:
        """Start a build from the set as it is now, unless one is under way."""
        index = await self._find(set_name, name)
        await index.build(from_scratch=True)
        return await index.describe()

    async def wait_for_build(self, set_name: SetPass, name: str = "") -> IndexDescription:
        """Wait until no build is under way."""
        index = await self._find(set_name, name)
        await index.wait_for_build()
        return await index.describe()

    async def drop(self, set_name: SetPass, name: str = "") -> None:
        """Drop an index. Searches under way end on what they have."""
        async with self._set_lock(set_name):
            damaged = self._only_damaged(set_name, name)
            await shielded(self._drop_damaged(damaged) if damaged else self._drop(await self._find(set_name, name)))

    def _published(self, job: JobRecord) -> Mapping[str, Any] | None:
        """Return the result of a build that was published, and did not tell."""
        set_name, _, name = job.subject.partition("/")
        try:
            facts = self._store.build_folder(set_name, name).facts_since(job.created)
        except OSError:  # it was dropped meanwhile
            return None
        return asdict(facts) if facts else None

    async def _drop_damaged(self, index: DamagedIndex) -> None:
        await asyncio.to_thread(self._store.remove, index.set, index.name)
        self._damaged.pop((index.set, index.name), None)

    async def _drop(self, index: Index) -> None:
        await index.drop()
        key = _key(index.definition)
        self._indexes.pop(key, None)
        await asyncio.to_thread(self._store.remove, *key)

    async def drop_set(self, set_name: SetPass, drop: Callable[[SetPass], None]) -> None:
        """Drop all indexes of a set, then the set itself: `drop` deletes it, in a thread. No index of it is made meanwhile."""
        async with self._set_lock(set_name):
            await shielded(self._drop_set(set_name, drop))

    async def _drop_set(self, set_name: SetPass, drop: Callable[[SetPass], None]) -> None:
        for unindexed in [key for key in self._unindexed if key[0] == set_name]:
            del self._unindexed[unindexed]
        if set_name in await asyncio.to_thread(self._context.sets.names):
            doomed = [self._indexes.pop((set_name, name)) for name in self.names(set_name)]
            await asyncio.gather(*(index.drop() for index in doomed))
            await asyncio.to_thread(self._store.remove, set_name)
            for damaged in self.damaged(set_name):
                del self._damaged[damaged.set, damaged.name]
        await asyncio.to_thread(drop, set_name)

    def _set_lock(self, set_name: str) -> asyncio.Lock:
        """Return the lock under which indexes of one set are made and dropped one after another."""
        return self._locks.setdefault(set_name, asyncio.Lock())

    async def close(self) -> None:
        """Forget what is in memory, and follow no set any more. What jobs publish after this is taken at the next start."""
        if self._sweeper:
            self._sweeper.cancel()
        await asyncio.gather(*(index.stop() for index in self._indexes.values()))

    async def _find(self, set_name: SetPass, name: str) -> Index:
        """Find an index. NotFound names what there is; DataLoss where its definition is damaged."""
        if damaged := self._only_damaged(set_name, name):
            raise damaged.error()
        found = await self._lookup(set_name, name)
        if found is None:
            raise self._missing(set_name, name)
        return found

    async def _lookup(self, set_name: SetPass, name: str) -> Index | None:
        """Look up the index of that name, or the usual one. NotFound where there is no such set."""
        names = self.names(set_name)
        if len(names) == 1 and name in ("", *names):  # the way of most searches: no thread, nothing of the disk
            return self._indexes[set_name, names[0]]
        wanted = await asyncio.to_thread(lambda: self._context.sets.get(set_name).definition)
        names = self.names(set_name)  # as they are now
        return self._indexes.get((set_name, name or self._usual(wanted, names)))

    def _open_unindexed(self, feature_set: FeatureSet, tap: FingerprintedTap, metric: Metric) -> OpenedIndex:
        """Open the search of a tap as it is on the disk."""
        key = feature_set.definition.name, tap.tap.name, metric
        known = self._unindexed.get(key)
        if known is None or known.feature_set is not feature_set:
            definition = IndexDefinition(key[0], slug(tap.tap.name), tap, "none", metric)
            known = OpenedIndex(definition, LiveIndex(definition, feature_set, self._context.threads), feature_set)
            self._unindexed[key] = known
        self._unindexed.move_to_end(key)
        while len(self._unindexed) > MOST_UNINDEXED:
            self._unindexed.popitem(last=False)
        return known

    def _only_damaged(self, set_name: str, name: str) -> DamagedIndex | None:
        """Return the damaged index of that name; without a name, the only index there is of the set."""
        if not name and len(names := self.all_names(set_name)) == 1:
            name = names[0]
        return self._damaged.get((set_name, name))

    def _missing(self, set_name: str, name: str) -> NotFound:
        return NotFound(
            f"the set {set_name} has no index named {excerpt(name)}" if name else f"the set {set_name} has no index",
            remedy=instead(name, self.names(set_name), f"create one: `CreateIndex({set_name})`"),
        )

    def _usual(self, wanted: SetDefinition, names: builtins.list[str]) -> str:
        """Choose the only index, or that of the set's first tap (named as it, if there are several); "" where there is none."""
        if len(names) == 1:
            return names[0]
        first = wanted.taps[0].tap.name
        of_first = [name for name in names if self._indexes[wanted.name, name].definition.tap.tap.name == first]
        return min(of_first, key=lambda name: name != slug(first), default="")

    async def _sweep(self) -> None:
        """Unload indexes that were not searched for a while."""
        while True:
            await asyncio.sleep(min(self._idle_seconds / 4, 30.0))
            for index in list(self._indexes.values()):
                if time.monotonic() - index.last_used > self._idle_seconds:
                    await index.unload()

    def _found_damaged(self, sets: FeatureSets) -> Iterator[DamagedIndex]:
        """List damaged definitions; those of sets that no longer exist are deleted."""
        there = set(sets.names())
        for one in self._store.damaged():
            if one.set in there:
                log.warning("%s", one.error())
                yield one
            else:
                self._store.remove(one.set)

    def _stored_indexes(self, sets: FeatureSets) -> builtins.list[StoredIndex]:
        """Delete indexes of sets that no longer exist, since the server ended between the two; list the others."""
        there = set(sets.names())
        for stored in self._store.stored():
            if stored.definition.set not in there:
                self._store.remove(stored.definition.set)
        return self._store.stored()

    def _index(self, stored: StoredIndex) -> Index:
        return Index(stored, self._store.build_folder(*_key(stored.definition)), self._context)


def _definition(params: CreateIndexParams, described: DescribedSet) -> IndexDefinition:
    tap = _tap(params.set, params.tap, described.definition)
    name = params.name or slug(tap.tap.name)
    check_name(name, "an index")
    target = params.target_recall or TARGET_RECALL
    if not (math.isfinite(target) and 0 < target <= 1):
        raise InvalidInput(f"a target recall of {target:g}", remedy="give a share between 0 and 1, such as 0.95")
    return IndexDefinition(params.set, name, tap, params.kind or AUTO, params.metric, dict(params.options), target)


def _tap(set_name: str, name: str, wanted: SetDefinition) -> FingerprintedTap:
    taps = {info.tap.name: info for info in wanted.taps}
    if name and name not in taps:
        raise NotFound(f"the set {set_name} has no tap {name[:100]!r}", remedy=f"its taps are {', '.join(taps)}")
    return taps[name or next(iter(taps))]


def _tap_named(wanted: SetDefinition, name: str) -> FingerprintedTap | None:
    """Find the tap by its own name or by that of its index; the first for no name."""
    taps = wanted.taps
    return taps[0] if not name else next((info for info in taps if name in (info.tap.name, slug(info.tap.name))), None)


def _key(definition: IndexDefinition) -> tuple[str, str]:
    return definition.set, definition.name
