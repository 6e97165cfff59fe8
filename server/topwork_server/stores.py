"""What a server keeps under its home and works on: sets, the feature cache, indexes, heads, jobs; and the lock on it all."""

from __future__ import annotations

import asyncio

from topwork_server.catalogue import Catalog
from topwork_server.config import Config
from topwork_server.engine import Engine
from topwork_server.heads.heads import HeadManager
from topwork_server.indexes.desk import SearchExecutor
from topwork_server.indexes.indexes import IndexManager
from topwork_server.indexes.live_recall import LiveRecallSampler
from topwork_server.ingest.cache import FeatureCache
from topwork_server.ingest.ingest import IngestPipeline
from topwork_server.int8 import unfinished
from topwork_server.jobs import JobManager
from topwork_server.lock import HomeLock
from topwork_server.plugins import PluginRegistry
from topwork_server.sets.scrub import ChecksumScrub
from topwork_server.sets.sets import FeatureSets


class ServerState:
    """Made on the running loop. StartError where another server has the home."""

    def __init__(self, catalogue: Catalog, config: Config, plugins: PluginRegistry, engine: Engine) -> None:
        home, busy = config.home, engine.garage.busy
        self.lock = HomeLock(home)
        self.lock.acquire()
        unfinished.sweep(home / "encoders", catalogue)
        self.jobs = JobManager(home / "jobs", config.threads)
        self.sets = FeatureSets(home / "sets")
        self.scrub = ChecksumScrub(self.sets, busy)
        self.scrub.start()
        self.ingest = IngestPipeline(self.sets, engine, catalogue, FeatureCache(home / "cache", config.feature_cache))
        self.indexes = IndexManager(home / "indexes", self.sets, self.jobs, plugins, config.threads, busy, config.idle_seconds)
        self.desk = SearchExecutor(config.threads, busy)
        self.live_recall = LiveRecallSampler(self.desk)
        self.heads = HeadManager(home, self.sets, self.jobs, plugins, engine, catalogue, config.threads)

    async def close(self) -> None:
        """Requests must have ended before."""
        await self.live_recall.close()
        await self.desk.close()
        await self.indexes.close()
        await self.jobs.close()
        await self.heads.close()
        await self.ingest.close()
        await asyncio.to_thread(self.scrub.close)
        await asyncio.to_thread(self.sets.close)
        self.lock.release()
