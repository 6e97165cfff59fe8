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

from topwork_server.access.passes import SetPass, server_pass
from topwork_server.errors import NotFound, TopworkError
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Change, ReadResult, Selection
from topwork_server.indexes.build_rows import DatasetColumn
from topwork_server.indexes.build_schedule import BuildSchedule
from topwork_server.indexes.builder import BuildJob, IndexKinds
from topwork_server.indexes.index_store import BuildFolder, StoredIndex
from topwork_server.indexes.index_types import BuildFacts, IndexDefinition, IndexDescription
from topwork_server.indexes.live_index import LiveIndex
from topwork_server.jobs.job_records import JobRecord, JobState
from topwork_server.jobs.manager import JobManager
from topwork_server.plugin_api.vector_index import VectorIndex
from topwork_server.types import Granularity

KIND, CALL = "index", "topwork_server.indexes.builder:build"
#: Numbers up to which a build takes seconds, and does not wait for those that take minutes.
SMALL = 1 << 24
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IndexContext:
    """The parts that all indexes of a server share. `busy` says that encoders compute: builds then take fewer threads."""

    sets: FeatureSets
    jobs: JobManager
    kinds: IndexKinds
    threads: int
    busy: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class OpenedIndex:
    """An index in memory that follows its set; or, not `indexed`, the set itself, whose every row a search compares."""

    definition: IndexDefinition
    live: LiveIndex
    feature_set: FeatureSet
    follower: Callable[[Change], None] | None = None

    @property
    def indexed(self) -> bool:
        return self.follower is not None


class Index:
    def __init__(self, stored: StoredIndex, folder: BuildFolder, context: IndexContext) -> None:
        self.definition = stored.definition
        self.last_used = time.monotonic()
        self._created, self._folder, self._context = stored.set_created, folder, context
        self._schedule = BuildSchedule(folder.facts(), stored.definition.target_recall)
        if failure := folder.failure():
            self._schedule.failed(failure)
        self._timer: asyncio.TimerHandle | None = None
        self._job = next((job.id for job in context.jobs.list(KIND, self.subject)), "")
        self._open: OpenedIndex | None = None
        self._starting: asyncio.Task[None] | None = None
        self._building: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()  # of opening, installing and closing
        self._spawned: set[asyncio.Task[None]] = set()
        self._closed = self._stale = False

    @property
    def subject(self) -> str:
        return f"{self.definition.set}/{self.definition.name}"

    async def open(self) -> OpenedIndex:
        """Open the index, caught up with its set. With damaged files it searches the set exactly until it is built again."""
        self.last_used = time.monotonic()
        if self._open is not None and not self._stale:
            return self._open
        # A caller that leaves does not stop the loading: the set is followed by then.
        return await asyncio.shield(asyncio.ensure_future(self._load_once()))

    async def build(self, *, from_scratch: bool) -> None:
        """Start a job, unless one is under way or about to be."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(from_scratch))
            self._starting.add_done_callback(self._started)
        await asyncio.shield(self._starting)

    async def _start(self, from_scratch: bool) -> None:
        opened = await self.open()
        order, held, small = await asyncio.to_thread(self._build_job, opened.feature_set, from_scratch)
        if self._closed:
            raise self._dropped()
        if self._building:
            return
        job = self._context.jobs.start(KIND, self.subject, CALL, order.arguments(), small=small)
        self._job = job.id
        self._building = asyncio.create_task(self._watch_job(job, held))

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting = None

    def _build_job(self, feature_set: FeatureSet, from_scratch: bool) -> tuple[BuildJob, ReadResult, bool]:
        """Return the job's arguments, a reading that keeps its version from being pruned, and whether the job is a small one."""
        held = feature_set.read(Selection(taps=(), columns=()))
        described = feature_set.describe()
        dataset = DatasetColumn(described.path, held.version, described.tap_columns[self.definition.tap.tap.name])
        threads = max(1, self._context.threads // 2) if self._context.busy() else self._context.threads
        tap = self.definition.tap.tap
        small = tap.granularity is Granularity.ITEM and described.items * tap.dim <= SMALL
        return BuildJob(str(self._folder.folder), dataset, threads, from_scratch), held, small

    async def wait_for_build(self) -> None:
        """Wait until the job that is under way, if any, has ended and its build is installed."""
        if self._building:
            await asyncio.wait([self._building])

    async def describe(self) -> IndexDescription:
        """Describe the index. It is never "building" when its job has ended, so that a caller that waited for the job sees the
        result."""
        if self._building and not self._context.jobs.get(self._job).active:
            await self.wait_for_build()
        return self._description(await asyncio.to_thread(self._items))

    def build_if_due(self) -> None:
        """Start a build where much changed since the last one, or it failed; some time after it."""
        if self._open is None or self._building or self._starting:
            return
        wait = self._schedule.due(self._open.live)
        if not wait:
            self._spawn(self.build(from_scratch=False))
        elif wait < math.inf and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.build_if_due()

    async def unload(self) -> None:
        """Drop the index from memory; the next search loads it again. Searches under way end on what they have."""
        async with self._lock:
            if self._open and self._open.follower:
                await asyncio.to_thread(self._open.feature_set.remove_listener, self._open.follower)
            self._open = None

    async def drop(self) -> None:
        """End its build, and follow the set no more. Its files are left."""
        self._closed = True
        if self._building:
            await self._context.jobs.cancel(self._job)
        await self.stop()

    async def stop(self) -> None:
        self._closed = True
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
        return NotFound(f"the index {self.subject} was dropped", remedy="create it again")

    async def _load_once(self) -> OpenedIndex:
        async with self._lock:
            if self._open is not None and not self._stale:
                return self._open
            if self._closed:
                raise self._dropped()
            self._stale = False
            opened = self._open = await asyncio.to_thread(self._load, asyncio.get_running_loop())
        if self._schedule.facts is None and not self._schedule.error:
            self._spawn(self.build(from_scratch=True))
        self.build_if_due()
        return opened

    def _load(self, loop: asyncio.AbstractEventLoop) -> OpenedIndex:
        feature_set = self._context.sets.get(server_pass(SetPass, self.definition.set))
        if feature_set.describe().created != self._created:
            raise NotFound(f"the index {self.subject} was of another set of that name", remedy="drop it and create it again")
        live = LiveIndex(self.definition, feature_set, self._context.threads)

        def follower(change: Change) -> None:
            live.apply(change)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self.build_if_due)

        feature_set.add_listener(follower, self._on_missed_change)
        opened = OpenedIndex(self.definition, live, feature_set, follower)
        try:
            self._install(opened)
        except BaseException:
            feature_set.remove_listener(follower)
            raise
        return opened

    def _on_missed_change(self, error: BaseException) -> None:
        """Mark the index, in the set's commit thread, as one that missed a change. The next search loads it again."""
        self._stale = True

    def _install(self, opened: OpenedIndex) -> None:
        """Install the newest build that is whole, or none. Runs in a thread."""
        built = self._folder.load(self._opener)
        if built is not None and built.facts.version > opened.feature_set.version:
            log.warning("index=%s is of a later version than its set: it will be built again", self.subject)
            built = None
        self._schedule.facts = None
        if built is None:
            return
        try:
            opened.live.install(built, opened.feature_set.keys()[1])
        except Exception:  # searches go on without it, and what is wrong with the set itself they will say
            log.exception("index=%s was loaded, but cannot be used: it will be built again", self.subject)
            return
        self._schedule.facts = built.facts
        self._folder.prune(built.facts)

    def _opener(self, facts: BuildFacts) -> Callable[[Path], VectorIndex]:
        index = self._context.kinds.index(facts.kind).index
        return lambda path: index.load(path, self.definition.metric)

    async def _watch_job(self, job: JobRecord, held: ReadResult) -> None:
        """Wait for the job and install its build. `held` is only kept: a version with blocks left to read is not pruned."""
        try:
            ended = await self._context.jobs.wait(job.id)
            await asyncio.to_thread(self._folder.sweep)  # a job that was killed leaves its scratch folder
            if ended.state is JobState.DONE and not self._closed:
                await self._install_published()
            else:
                await self._fail(ended)
        except Exception as error:
            log.exception("index=%s", self.subject)
            self._schedule.failed(f"{type(error).__name__}: {error}")
        finally:
            self._building = None
        self.build_if_due()

    async def _fail(self, ended: JobRecord) -> None:
        """Note a failure, on disk too for the next start, unless the job ended with its server: that one begins again."""
        cancelled = ended.state is JobState.CANCELLED
        self._schedule.failed("it was cancelled" if cancelled else ended.error, again=not cancelled)
        if not ended.interrupted:
            await asyncio.to_thread(self._folder.note_failure, self._schedule.error)

    async def _install_published(self) -> None:
        """Install the build that the job published."""
        async with self._lock:
            if self._open:
                await asyncio.to_thread(self._install, self._open)
            else:
                self._schedule.facts = await asyncio.to_thread(self._folder.facts)
        if self._schedule.facts is None:
            raise TopworkError("what was built cannot be read", remedy="look into the server's log")
        self._schedule.built(self._schedule.facts)
        await asyncio.to_thread(self._folder.note_failure, "")

    def _spawn(self, build: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(build)
        self._spawned.add(task)
        task.add_done_callback(self._on_build_spawned)

    def _on_build_spawned(self, task: asyncio.Task[None]) -> None:
        self._spawned.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.warning("index=%s no build was started: %s", self.subject, error)
            self._schedule.failed(str(error))

    def _items(self) -> int:
        """Count the rows of a set without a build; 0 where items have several rows, since counting would read them."""
        opened = self._open
        if opened is None or self._schedule.facts is not None or self.definition.tap.tap.granularity is not Granularity.ITEM:
            return 0
        return len(opened.feature_set.keys()[1])

    def _is_queued(self) -> bool:
        """Tell whether its build waits for other jobs."""
        return self._building is not None and self._context.jobs.get(self._job).state is JobState.WAITING

    def _description(self, items: int) -> IndexDescription:
        facts, live = self._schedule.facts, self._open and self._open.live
        return IndexDescription(
            definition=self.definition,
            state=self._schedule.state(self._building is not None),
            detail=self._schedule.detail(self._building is not None, self._is_queued()),
            facts=facts,
            version=live.version if live else facts.version if facts else 0,
            alive_rows=items or (live.alive_rows if live else facts.rows if facts else 0),
            fresh_rows=live.fresh_rows if live else 0,
            dead_rows=live.dead_rows if live else 0,
            memory=live.memory if live else 0,
            job=self._job,
        )
