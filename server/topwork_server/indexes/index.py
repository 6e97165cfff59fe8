"""One index: what was asked for, what is in memory, and its builds, one at a time. All but the loading runs on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

from topwork_server.errors import NotFound, TopworkError
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Change, ReadResult, Selection
from topwork_server.indexes.build_rows import Dataset
from topwork_server.indexes.build_schedule import BuildSchedule
from topwork_server.indexes.builder import BuildJob, IndexKinds
from topwork_server.indexes.index_store import BuildFolder, StoredIndex
from topwork_server.indexes.index_types import BuildFacts, IndexDefinition, IndexDescription
from topwork_server.indexes.live_index import LiveIndex
from topwork_server.jobs.manager import Job, JobManager, JobState
from topwork_server.plugin_api.vector_index import VectorIndex
from topwork_server.types import Granularity

KIND, CALL = "index", "topwork_server.indexes.builder:build"
#: Numbers up to which a build takes seconds, and does not wait for those that take minutes.
SMALL = 1 << 24
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IndexContext:
    """What all indexes of a server share. `busy` says that encoders compute: builds then take fewer threads."""

    sets: FeatureSets
    jobs: JobManager
    kinds: IndexKinds
    threads: int
    busy: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class OpenedIndex:
    """In memory, following its set; or, not `indexed`, the set itself, whose every row a search compares."""

    definition: IndexDefinition
    live: LiveIndex
    feature_set: FeatureSet
    follower: Callable[[Change], None]
    indexed: bool = True


class Index:
    def __init__(self, kept: StoredIndex, slot: BuildFolder, house: IndexContext) -> None:
        self.definition = kept.definition
        self.last_used = time.monotonic()
        self._created, self._slot, self._house = kept.set_created, slot, house
        self._standing = BuildSchedule(slot.facts(), kept.definition.target_recall)
        if failure := slot.failure():
            self._standing.failed(failure)
        self._timer: asyncio.TimerHandle | None = None
        self._job = next((job.id for job in house.jobs.list(KIND, self.subject)), "")
        self._open: OpenedIndex | None = None
        self._starting: asyncio.Task[None] | None = None
        self._building: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # of opening, installing and closing
        self._spawned: set[asyncio.Task[None]] = set()
        self._gone = self._lost = False

    @property
    def subject(self) -> str:
        return f"{self.definition.set}/{self.definition.name}"

    async def opened(self) -> OpenedIndex:
        """Caught up with its set. Whatever is wrong with its files, it answers: exactly, over the set, until it is built anew."""
        self.last_used = time.monotonic()
        if self._open is not None and not self._lost:
            return self._open
        # A caller that leaves does not stop the loading: the set is followed by then.
        return await asyncio.shield(asyncio.ensure_future(self._opened()))

    async def build(self, *, anew: bool) -> None:
        """Start a job, unless one is under way or about to be."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(anew))
            self._starting.add_done_callback(self._started)
        await asyncio.shield(self._starting)

    async def _start(self, anew: bool) -> None:
        opened = await self.opened()
        order, held, small = await asyncio.to_thread(self._order, opened.feature_set, anew)
        if self._gone:
            raise self._dropped()
        if self._building:
            return
        job = self._house.jobs.start(KIND, self.subject, CALL, order.arguments(), small=small)
        self._job = job.id
        self._building = asyncio.create_task(self._see_through(job, held))

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting = None

    def _order(self, feature_set: FeatureSet, anew: bool) -> tuple[BuildJob, ReadResult, bool]:
        """What the job is given, what keeps the version that it reads from being pruned, and whether it is a small one."""
        held = feature_set.read(Selection(taps=(), columns=()))
        described = feature_set.describe()
        dataset = Dataset(described.path, held.version, described.tap_columns[self.definition.tap.tap.name])
        threads = max(1, self._house.threads // 2) if self._house.busy() else self._house.threads
        tap = self.definition.tap.tap
        small = tap.granularity is Granularity.ITEM and described.items * tap.dim <= SMALL
        return BuildJob(str(self._slot.folder), dataset, threads, anew), held, small

    async def settled(self) -> None:
        """When the job that is under way, if any, has ended and its build is installed."""
        if self._building:
            await asyncio.wait([self._building])

    async def described(self) -> IndexDescription:
        """Never "building" when the job has ended: who watched it to its end sees what came of it."""
        if self._building and not self._house.jobs.get(self._job).active:
            await self.settled()
        return self._described(await asyncio.to_thread(self._items))

    def consider(self) -> None:
        """Build by oneself where much changed since the build, or the last one failed; not at once after the last one."""
        if self._open is None or self._building or self._starting:
            return
        wait = self._standing.due(self._open.live)
        if not wait:
            self._spawn(self.build(anew=False))
        elif wait < math.inf and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait, self._reconsider)

    def _reconsider(self) -> None:
        self._timer = None
        self.consider()

    async def unload(self) -> None:
        """Out of memory; the next search loads it again. Searches under way end on what they have."""
        async with self._turn:
            if self._open:
                await asyncio.to_thread(self._open.feature_set.remove_listener, self._open.follower)
                self._open = None

    async def drop(self) -> None:
        """End its build, and follow the set no more. Its files are left."""
        self._gone = True
        if self._building:
            await self._house.jobs.cancel(self._job)
        await self.stop()

    async def stop(self) -> None:
        self._gone = True
        if self._timer:
            self._timer.cancel()
        if self._starting:  # callers wait for it: it is not cancelled, and ends by itself since the index is gone
            await asyncio.wait([self._starting])
        tasks = [*self._spawned, *([self._building] if self._building else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.unload()

    def _dropped(self) -> NotFound:
        return NotFound(f"the index {self.subject} was dropped", remedy="create it anew")

    async def _opened(self) -> OpenedIndex:
        async with self._turn:
            if self._open is not None and not self._lost:
                return self._open
            if self._gone:
                raise self._dropped()
            self._lost = False
            opened = self._open = await asyncio.to_thread(self._load, asyncio.get_running_loop())
        if self._standing.facts is None and not self._standing.error:
            self._spawn(self.build(anew=True))
        self.consider()
        return opened

    def _load(self, loop: asyncio.AbstractEventLoop) -> OpenedIndex:
        feature_set = self._house.sets.get(self.definition.set)
        if feature_set.describe().created != self._created:
            raise NotFound(f"the index {self.subject} was of another set of that name", remedy="drop it and create it anew")
        live = LiveIndex(self.definition, feature_set, self._house.threads)

        def follower(change: Change) -> None:
            live.apply(change)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self.consider)

        feature_set.add_listener(follower, self._lose)
        opened = OpenedIndex(self.definition, live, feature_set, follower)
        try:
            self._install(opened)
        except BaseException:
            feature_set.remove_listener(follower)
            raise
        return opened

    def _lose(self, error: BaseException) -> None:
        """In the set's commit thread: what is in memory missed a change. The next search loads it again."""
        self._lost = True

    def _install(self, opened: OpenedIndex) -> None:
        """In a thread: the newest build that is whole, or none."""
        built = self._slot.load(self._opener)
        if built is not None and built.facts.version > opened.feature_set.version:
            log.warning("index=%s is of a later version than its set: it will be built anew", self.subject)
            built = None
        self._standing.facts = None
        if built is None:
            return
        try:
            opened.live.install(built, opened.feature_set.keys()[1])
        except Exception:  # searches go on without it, and what is wrong with the set itself they will say
            log.exception("index=%s was loaded, but cannot be used: it will be built anew", self.subject)
            return
        self._standing.facts = built.facts
        self._slot.prune(built.facts)

    def _opener(self, facts: BuildFacts) -> Callable[[Path], VectorIndex]:
        index = self._house.kinds.index(facts.kind).index
        return lambda path: index.load(path, self.definition.metric)

    async def _see_through(self, job: Job, held: ReadResult) -> None:
        """`held` is only kept: a version is not pruned while somebody has blocks of it to read."""
        try:
            ended = await self._house.jobs.wait(job.id)
            await asyncio.to_thread(self._slot.sweep)  # a job that was killed leaves its scratch folder
            if ended.state is JobState.DONE and not self._gone:
                await self._take()
            else:
                await self._fail(ended)
        except Exception as error:
            log.exception("index=%s", self.subject)
            self._standing.failed(f"{type(error).__name__}: {error}")
        finally:
            self._building = None
        self.consider()

    async def _fail(self, ended: Job) -> None:
        """Its reason is kept for the next start, but for that of a job that ended with its server: that one begins again."""
        cancelled = ended.state is JobState.CANCELLED
        self._standing.failed("it was cancelled" if cancelled else ended.error, again=not cancelled)
        if not ended.interrupted:
            await asyncio.to_thread(self._slot.note_failure, self._standing.error)

    async def _take(self) -> None:
        """What the job published."""
        async with self._turn:
            if self._open:
                await asyncio.to_thread(self._install, self._open)
            else:
                self._standing.facts = await asyncio.to_thread(self._slot.facts)
        if self._standing.facts is None:
            raise TopworkError("what was built cannot be read", remedy="look into the server's log")
        self._standing.built(self._standing.facts)
        await asyncio.to_thread(self._slot.note_failure, "")

    def _spawn(self, build: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(build)
        self._spawned.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._spawned.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.warning("index=%s no build was started: %s", self.subject, error)
            self._standing.failed(str(error))

    def _items(self) -> int:
        """Rows of the set where no build is here to tell them; 0 where that takes more than a glance."""
        opened = self._open
        if opened is None or self._standing.facts is not None or self.definition.tap.tap.granularity is not Granularity.ITEM:
            return 0
        return len(opened.feature_set.keys()[1])

    def _waits(self) -> bool:
        """Whether its build waits for other jobs."""
        return self._building is not None and self._house.jobs.get(self._job).state is JobState.WAITING

    def _described(self, items: int) -> IndexDescription:
        facts, live = self._standing.facts, self._open and self._open.live
        return IndexDescription(
            definition=self.definition,
            state=self._standing.state(self._building is not None),
            detail=self._standing.detail(self._building is not None, self._waits()),
            facts=facts,
            version=live.version if live else facts.version if facts else 0,
            alive_rows=items or (live.alive_rows if live else facts.rows if facts else 0),
            fresh_rows=live.fresh_rows if live else 0,
            dead_rows=live.dead_rows if live else 0,
            memory=live.memory if live else 0,
            job=self._job,
        )
