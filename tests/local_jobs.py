"""Jobs without processes: what a test holds, fails or cancels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from topwork_server.errors import NotFound, TopworkError, Unavailable
from topwork_server.jobs.job_records import JobRecord, JobState

#: Does a job's work in a thread, from its kind and its arguments, and returns its result.
Work = Callable[[str, Mapping[str, Any]], dict[str, Any]]


class LocalJobs:
    """`gate` holds those that start; `fail` is the error that they end with instead of working."""

    def __init__(self, work: Work) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail = ""
        self.started: list[tuple[str, dict[str, Any]]] = []
        self.small: list[bool] = []
        self.closed = False
        self._work = work
        self._jobs: dict[str, JobRecord] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, kind: str, subject: str, call: str, arguments: Mapping[str, Any], *, small: bool = False) -> JobRecord:
        if self.closed:
            raise Unavailable("the server is stopping")
        self.started.append((call, dict(arguments)))
        self.small.append(small)
        job = JobRecord(f"{len(self.started):08}", kind, subject, time.time())
        self._jobs[job.id] = job
        self._tasks[job.id] = asyncio.create_task(self._run(job.id, kind, arguments))
        return job

    async def _run(self, id: str, kind: str, arguments: Mapping[str, Any]) -> None:
        try:
            await self.gate.wait()
            if self.fail:
                raise TopworkError(self.fail)
            result = await asyncio.to_thread(self._work, kind, arguments)
            self._jobs[id] = replace(self._jobs[id], state=JobState.DONE, result=result)
        except asyncio.CancelledError:
            self._end(id, JobState.CANCELLED)
        except Exception as error:
            self._end(id, JobState.FAILED, str(error))

    def recognize(self, kinds: Iterable[str], published: Callable[[JobRecord], Mapping[str, Any] | None]) -> None:
        """Its jobs always answer."""

    def _end(self, id: str, state: JobState, error: str = "") -> None:
        self._jobs[id] = replace(self._jobs[id], state=state, error=error)

    def get(self, id: str) -> JobRecord:
        if id not in self._jobs:
            raise NotFound(f"there is no job {id!r}")
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

    async def close(self) -> None:
        self.closed = True
        for id, task in self._tasks.items():
            if not task.done():
                await self.cancel(id)
                self._end(id, JobState.FAILED, "the server stopped while it ran")
