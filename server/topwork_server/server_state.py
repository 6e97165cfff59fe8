"""The state that a server keeps under its home: sets, the feature cache, indexes, heads, jobs; and the lock on it all."""

from __future__ import annotations

import asyncio

from topwork_server.config import Config
from topwork_server.feature_sets.scrub import ChecksumScrub
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.heads.head_manager import HeadManager
from topwork_server.home_lock import HomeLock
from topwork_server.indexes.executor import SearchExecutor
from topwork_server.indexes.index_manager import IndexManager
from topwork_server.indexes.live_recall import LiveRecallSampler
from topwork_server.inference.engine import Engine
from topwork_server.ingest.feature_cache import FeatureCache
from topwork_server.ingest.pipeline import IngestPipeline
from topwork_server.jobs.manager import JobManager
from topwork_server.models import artifacts, unfinished
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.pretraining.pretraining_manager import PretrainingManager
from topwork_server.telemetry import OFF, Telemetry


class ServerState:
    """Made on the running loop. StartError where another server has the home."""

    def __init__(
        self, catalog: Catalog, config: Config, plugins: PluginRegistry, engine: Engine, telemetry: Telemetry = OFF
    ) -> None:
        home, busy = config.home, engine.is_busy
        self.lock = HomeLock(home)
        self.lock.acquire()
        unfinished.sweep(home / "encoders", catalog)
        artifacts.sweep(home)
        self.jobs = JobManager(home / "jobs", config.threads, telemetry=telemetry)
        self.sets = FeatureSets(home / "sets")
        self.scrub = ChecksumScrub(self.sets, busy)
        self.scrub.start()
        self.ingest = IngestPipeline(self.sets, engine, catalog, FeatureCache(home / "cache", config.feature_cache))
        self.indexes = IndexManager(home / "indexes", self.sets, self.jobs, plugins, config.threads, busy, config.idle_seconds)
        self.search_executor = SearchExecutor(config.threads, busy)
        self.live_recall = LiveRecallSampler(self.search_executor)
        self.pretraining = PretrainingManager(home, self.sets, self.jobs, plugins, catalog, config.threads)
        self.heads = HeadManager(home, self.sets, self.jobs, plugins, engine, catalog, config.threads)

    async def close(self) -> None:
        """Requests must have ended before."""
        await self.live_recall.close()
        await self.search_executor.close()
        await self.indexes.close()
        await self.jobs.close()
        await self.heads.close()
        await self.pretraining.close()
        await self.ingest.close()
        await asyncio.to_thread(self.scrub.close)
        await asyncio.to_thread(self.sets.close)
        self.lock.release()
