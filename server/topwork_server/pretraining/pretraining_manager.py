"""All pretrainings of a server: starts them as jobs, and cleans up after them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from topwork_server.errors import AlreadyExists, TopworkError
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.jobs.job_records import JobRecord
from topwork_server.jobs.manager import JobManager
from topwork_server.models import unfinished
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.plugin_api.sources import PRETRAINING_REPORT
from topwork_server.pretraining import request as pretrain_request
from topwork_server.pretraining.corpus import CorpusFile, check_set, copy_set
from topwork_server.pretraining.request import PretrainRequest

KIND, PRETRAIN = "pretrain", "topwork_server.pretraining.pretraining_job:pretrain"

log = logging.getLogger(__name__)


class PretrainingManager:
    """Made and used on the event loop; its blocking work runs in threads."""

    def __init__(
        self, home: Path, sets: FeatureSets, jobs: JobManager, plugins: PluginRegistry, catalog: Catalog, threads: int
    ) -> None:
        self._home, self._sets, self._jobs, self._threads = home, sets, jobs, threads
        self._plugins, self._catalog = plugins, catalog
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}  # by the name of the encoder
        jobs.recognize((KIND,), self._published)

    async def check(self, request: PretrainRequest) -> None:
        """Raise the error of a request that cannot be, before its texts are read."""
        await self._check_free(request.name)
        await asyncio.to_thread(pretrain_request.check, request, self._catalog, self._plugins)
        if request.set:
            await asyncio.to_thread(check_set, self._sets, request.set)

    async def copy_set(self, request: PretrainRequest, path: Path) -> int:
        """Write the texts that a set keeps into a corpus file, and count them."""
        return await asyncio.to_thread(copy_set, self._sets, request.set, request.where, request.version, path)

    async def start(self, request: PretrainRequest, corpus: Path, count: int, release: Callable[[], None]) -> JobRecord:
        """Start the job. `release` is called when it has ended and no longer reads the corpus. Errors as of `check`."""
        await self.check(request)  # again: the upload took a while
        await asyncio.to_thread(pretrain_request.check_texts, request, CorpusFile(corpus, count), self._plugins)
        arguments = {
            "home": str(self._home),
            "request": asdict(request),
            "corpus": str(corpus.absolute()),
            "count": count,
            "threads": self._threads,
        }
        self._check_started(request.name)
        job = self._jobs.start(KIND, request.name, PRETRAIN, arguments)
        self._running[request.name] = job.id, asyncio.create_task(self._follow(request.name, job.id, release))
        return job

    async def close(self) -> None:
        """Release what the jobs held; they must have ended before."""
        if self._running:
            await asyncio.wait({task for _, task in self._running.values()})

    async def _check_free(self, name: str) -> None:
        """Raise AlreadyExists where an encoder of that name is being made. The cleanup after an ended job is waited for."""
        if name in self._running:
            job, task = self._running[name]
            if not self._jobs.get(job).active:
                await asyncio.wait({task})
        self._check_started(name)

    def _check_started(self, name: str) -> None:
        if name in self._running:
            raise AlreadyExists(
                f"an encoder {name!r} is being made", remedy="wait for it, cancel its job, or choose another name"
            )

    def _published(self, job: JobRecord) -> Mapping[str, Any] | None:
        """Return the report of a pretraining that finished its encoder, and did not tell. The name was free when it began."""
        unfinished.sweep(self._home / "encoders", self._catalog)
        if job.subject not in self._catalog.added():
            return None
        try:
            report = (self._home / "encoders" / job.subject / PRETRAINING_REPORT).read_text("utf-8")
            return dict(json.loads(report))
        except (OSError, ValueError):
            return None

    async def _follow(self, name: str, job: str, release: Callable[[], None]) -> None:
        """Clean up after a job, however it ends."""
        try:
            await self._jobs.wait(job)
            release()
            await asyncio.to_thread(unfinished.sweep, self._home / "encoders", self._catalog)
        except TopworkError as error:
            log.warning("encoder=%s: what its pretraining left is deleted at the next start: %s", name, error)
        finally:
            del self._running[name]
