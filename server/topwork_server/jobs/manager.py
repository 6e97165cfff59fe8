"""Long work in processes of their own: progress, cancel, crash, restart. Owns $TOPWORK_HOME/jobs."""

from __future__ import annotations

import asyncio
import builtins
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from topwork_server.access.caller import caller_or_none
from topwork_server.config import usable_cores
from topwork_server.errors import DataLoss, NotFound, Unavailable
from topwork_server.jobs.job_process import JobOutcome, JobProcess
from topwork_server.jobs.job_records import JobRecord, JobRecords, JobState
from topwork_server.telemetry import OFF as NO_TELEMETRY
from topwork_server.telemetry import Telemetry

#: Records of so many jobs are kept, the newest.
KEPT = 200
#: Where less than this fraction was done since the first report, the time that is left is not guessed at.
TELLING = 0.01
WAITING, STARTING = "waiting for another job", "starting"
#: What a job that did not answer had published before its process ended, as it would have returned it; None for nothing.
Published: TypeAlias = Callable[[JobRecord], Mapping[str, Any] | None]
#: Jobs of one queue wait for one another: their kind, and whether they are small.
JobQueue: TypeAlias = tuple[str, bool]
log = logging.getLogger(__name__)


class _Run:
    """A job that has not ended, and its watchers."""

    def __init__(
        self,
        job: JobRecord,
        queue: JobQueue,
        call: str,
        arguments: Mapping[str, Any],
        threads: int,
        scratch: Path,
        telemetry: Telemetry,
    ) -> None:
        self.job, self.queue = job, queue
        self._record_end = telemetry.job(job.kind, job.id, job.subject)
        self.changed = asyncio.Event()
        self.stopped: tuple[JobState, str] | None = None  # how it ends, and why, where it was stopped
        self.work = JobProcess(call, arguments, threads, self._report, scratch)
        self.began = False
        self._first: tuple[float, float] | None = None  # when it first reported, and how far it was: before, its process started
        self._done_at = 0.0

    def begin(self) -> None:
        self.began = True
        self.tell(replace(self.job, state=JobState.RUNNING, message=STARTING))

    def now(self) -> JobRecord:
        """The job with the time that is left, from now."""
        return replace(self.job, seconds_left=max(0.0, self._done_at - time.monotonic())) if self._done_at else self.job

    def tell(self, job: JobRecord) -> None:
        """Wake the watchers; each then sees the latest state."""
        self.job = job
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def end(self, job: JobRecord) -> None:
        self._done_at = 0.0
        self._record_end(job.state.value, job.error)
        self.tell(job)

    def _report(self, fraction: float, message: str) -> None:
        if self.job.state is JobState.RUNNING:
            now = time.monotonic()
            self._first = self._first or (now, fraction)
            elapsed, gained = now - self._first[0], fraction - self._first[1]
            self._done_at = now + elapsed * (1 - fraction) / gained if gained >= TELLING and fraction < 1 else 0.0
            self.tell(replace(self.job, fraction=fraction, message=message))


class JobManager:
    """All jobs of one server; made and used on its event loop.

    A job is function(arguments, report) -> mapping, in a process of its own at niceness 10 with OMP_NUM_THREADS=`threads`;
    arguments and result are JSON. Of a kind, `at_once` run at a time and the rest wait in line; small ones have a line of their
    own, so that none of them waits for a large one.
    """

    def __init__(self, folder: Path, threads: int | None = None, at_once: int = 1, telemetry: Telemetry = NO_TELEMETRY) -> None:
        self._records = JobRecords(folder)
        self._threads = threads or usable_cores()
        self._at_once, self._telemetry = at_once, telemetry
        self._runs: dict[str, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns: defaultdict[JobQueue, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(at_once))
        self._ended = {job.id: job for job in self._records.load()}
        self._last = max((int(id, 36) for id in self._ended), default=0)
        self._closed = False
        self._published: dict[str, Published] = {}
        self._cut_off = [job.id for job in self._ended.values() if job.state is JobState.RUNNING]
        for job in self._ended.values():
            if job.active:
                when = "while it ran" if job.state is JobState.RUNNING else "before its turn came"
                self._keep(_interrupted(replace(job, ended=time.time()), f"the server ended {when}"))
        self._prune()

    def recognize(self, kinds: Iterable[str], published: Published) -> None:
        """Call `published`, which may block, for each job of these kinds that ends without an answer, also those that ended with
        the last server: what was published is done, however its process ended."""
        self._published |= dict.fromkeys(kinds, published)
        for job in [self._ended[id] for id in self._cut_off if id in self._ended]:
            if job.kind in kinds and (result := published(job)) is not None:
                self._keep(_done(job, result))

    def start(self, kind: str, subject: str, call: str, arguments: Mapping[str, Any], *, small: bool = False) -> JobRecord:
        """Start a job and return at once; `call` is "module:function". Unavailable after `close`."""
        if self._closed:
            raise Unavailable("the server is stopping", remedy="try again in a moment, or at another address")
        queue = (kind, small)
        waits = sum(run.queue == queue for run in self._runs.values()) >= self._at_once
        state, message = (JobState.WAITING, WAITING) if waits else (JobState.RUNNING, STARTING)
        caller = caller_or_none()
        owner = caller.name if caller else ""
        job = JobRecord(self._new_id(), kind, subject, time.time(), state, message=message, owner=owner)
        scratch = self._records.scratch(job.id)
        run = self._runs[job.id] = _Run(job, queue, call, arguments, self._threads, scratch, self._telemetry)
        self._records.save(job)
        task = asyncio.create_task(self._see_through(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    def get(self, id: str) -> JobRecord:
        """Return a job. NotFound where there is no such job, or no more."""
        run = self._runs.get(id)
        if run is not None:
            return run.now()
        if id in self._ended:
            return self._ended[id]
        raise NotFound(f"there is no job {id!r}", remedy=f"list the jobs: the newest {KEPT} are kept")

    def check(self, id: str) -> None:
        """Raise DataLoss where the record of that job is damaged."""
        if error := self._records.damaged.get(id):
            raise DataLoss(error.message, remedy=error.remedy)

    def list(self, kind: str = "", subject: str = "") -> builtins.list[JobRecord]:
        """List the jobs, newest first."""
        jobs = [*self._ended.values(), *(run.now() for run in self._runs.values())]
        wanted = [job for job in jobs if kind in ("", job.kind) and subject in ("", job.subject)]
        return sorted(wanted, key=lambda job: job.id, reverse=True)

    async def watch(self, id: str) -> AsyncGenerator[JobRecord, None]:
        """The job as it stands, then again at each change, until it has ended. A slow watcher sees the latest state only."""
        job, run = self.get(id), self._runs.get(id)
        while run is not None and run.job.active:
            changed = run.changed
            yield run.now()
            await changed.wait()
        yield job if run is None else run.job

    async def wait(self, id: str) -> JobRecord:
        """The job when it has ended."""
        run = self._runs.get(id)
        while run is not None and run.job.active:
            await run.changed.wait()
        return self.get(id) if run is None else run.job

    async def cancel(self, id: str) -> JobRecord:
        """End a job's process; return when that is gone. A job that has ended stays as it is."""
        job, run = self.get(id), self._runs.get(id)
        if run is None:
            return job
        self._stop(run, JobState.CANCELLED, "")
        return await self.wait(id)

    async def close(self) -> None:
        """End all processes; their jobs are FAILED, and say that the server stopped."""
        self._closed = True
        for run in list(self._runs.values()):
            when = "while it ran" if run.began else "before its turn came"
            self._stop(run, JobState.FAILED, f"the server stopped {when}")
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _stop(self, run: _Run, state: JobState, error: str) -> None:
        if run.stopped is None:
            run.stopped = state, error
        run.work.stop()
        if not run.began:
            self._end(run, self._record_of_stopped(run))

    async def _see_through(self, run: _Run) -> None:
        async with self._turns[run.queue]:
            if run.stopped is not None:
                return  # while it waited, and has ended
            run.begin()
            self._end(run, self._record_of_finished(run, await self._outcome(run)))

    async def _outcome(self, run: _Run) -> JobOutcome:
        try:
            outcome = await run.work.run()
            if outcome.result is None and (published := self._published.get(run.job.kind)):
                return replace(outcome, result=await asyncio.to_thread(published, run.job))
            return outcome
        except Exception as error:
            log.exception("job=%s", run.job.id)
            return JobOutcome(None, f"{type(error).__name__}: {error}")

    def _record_of_stopped(self, run: _Run) -> JobRecord:
        """Return the record of a job that was stopped."""
        assert run.stopped is not None
        state, error = run.stopped
        return _interrupted(run.job, error) if state is JobState.FAILED else replace(run.job, state=state, error=error)

    def _record_of_finished(self, run: _Run, outcome: JobOutcome) -> JobRecord:
        if outcome.result is not None:
            return _done(run.job, outcome.result)
        if run.stopped is not None:
            return self._record_of_stopped(run)
        words = f"{run.job.kind} of {run.job.subject} failed: {outcome.error}"
        log.warning("job=%s %s", run.job.id, "\n".join(filter(None, [words, outcome.stderr_tail])))
        return replace(run.job, state=JobState.FAILED, error=outcome.error)

    def _end(self, run: _Run, job: JobRecord) -> None:
        job = replace(job, ended=time.time())
        self._runs.pop(job.id, None)
        self._keep(job)
        self._prune()
        run.end(job)

    def _keep(self, job: JobRecord) -> None:
        self._ended[job.id] = job
        self._records.save(job)

    def _prune(self) -> None:
        for id in sorted(self._ended)[:-KEPT]:
            del self._ended[id]
            self._records.forget(id)

    def _new_id(self) -> str:
        """Milliseconds since 1970 in eight digits of base 36: later jobs sort behind earlier ones, over restarts too."""
        self._last = max(self._last + 1, int(time.time() * 1000))
        return _base36(self._last)


def _done(job: JobRecord, result: Mapping[str, Any]) -> JobRecord:
    return replace(job, state=JobState.DONE, fraction=1.0, message="", error="", interrupted=False, result=result)


def _interrupted(job: JobRecord, error: str) -> JobRecord:
    return replace(job, state=JobState.FAILED, error=error, interrupted=True)


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits.rjust(8, "0")
