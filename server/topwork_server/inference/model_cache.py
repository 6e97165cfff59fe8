"""Encoders in memory: loaded on first use, exported first if need be, unloaded when idle or when memory is short."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from topwork_server import process_resources
from topwork_server.config import Config
from topwork_server.errors import ExportFailed, InvalidInput, NotReady, Overloaded, TooLarge
from topwork_server.inference.admission import AdmissionController
from topwork_server.inference.batcher import Backend, Batcher
from topwork_server.jobs.child_processes import ChildProcesses
from topwork_server.models import artifacts
from topwork_server.models.artifacts import Manifest
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import CatalogEntry, EncoderState
from topwork_server.models.chunk_taps import with_chunks
from topwork_server.plugin_api.chunk_options import ChunkOptions
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.plugin_api.options import declared_by
from topwork_server.runtime import sample_inputs
from topwork_server.runtime.device_selection import ExecutionPlan, PlanSet
from topwork_server.runtime.device_survey import DeviceSurvey
from topwork_server.runtime.providers import candidates, everywhere
from topwork_server.runtime.session import RunnableSession
from topwork_server.runtime.session_factory import open_session
from topwork_server.types import EncoderSpec, FingerprintedTap, Numerics, Role, Tap

log = logging.getLogger(__name__)


@dataclass(eq=False)
class LoadedTower:
    """One tower in memory, with a queue and sessions of its own; most encoders have one."""

    encoder: Encoder
    manifest: Manifest
    batcher: Batcher
    admission: AdmissionController
    plans: PlanSet
    weights: int

    @property
    def taps(self) -> tuple[FingerprintedTap, ...]:
        """The taps of its graph, and chunks of their tokens."""
        return with_chunks(self.encoder.spec, self.manifest.taps)

    def tap(self, name: str) -> FingerprintedTap | None:
        """The tap of that name, where it has one."""
        return next((info for info in self.taps if info.tap.name == name), None)

    @property
    def bytes(self) -> int:
        """Bytes of its weights, without those of heads that it came with, in each backend that is open."""
        return self.weights * self.batcher.open_backends

    def backend_for(self, taps: Sequence[Tap]) -> int:
        """Index of the backend that computes these taps. NotReady where no device does it well enough."""
        return self.plans.plan_index_for([tap.name for tap in taps])

    def numerics_of(self, backend: int, taps: Sequence[str]) -> Numerics:
        return self.plans.plans[backend].numerics_of(taps)


@dataclass(eq=False)
class LoadedEncoder:
    """An encoder in memory. `taps` are those of all its towers."""

    spec: EncoderSpec
    taps: tuple[FingerprintedTap, ...]
    towers: tuple[LoadedTower, ...]
    users: int = 0
    last_used: float = field(default_factory=time.monotonic)

    @property
    def bytes(self) -> int:
        """Bytes of its weights, in each backend that is open."""
        return sum(tower.bytes for tower in self.towers)

    @property
    def queued_items(self) -> int:
        """Items that are in its queues, or computed now."""
        return sum(tower.admission.taken for tower in self.towers)

    @property
    def serving(self) -> bool:
        """False while a session that died is being reopened."""
        return all(tower.batcher.serving for tower in self.towers)

    @property
    def counters(self) -> Counter[str]:
        """The sums of its batchers' counters: a copy, since the workers go on counting."""
        return sum((Counter(dict(tower.batcher.counters)) for tower in self.towers), Counter())

    def role_options(self, role: Role, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the options of a request whose items play a role, of those that its caller set. A query is one chunk."""
        for tower in self.towers:
            options = tower.encoder.role_options(role, options)
        if role is Role.QUERY and issubclass(declared_by(self.spec), ChunkOptions):
            return {**options, "chunk_by": "text"}
        return options

    def close(self) -> None:
        for tower in self.towers:
            tower.batcher.close()


class ModelCache:
    """Loads and unloads encoders. `on_health(name, serving)` is called from a worker's thread when its session dies or is
    back."""

    def __init__(self, catalog: Catalog, config: Config, on_health: Callable[[str, bool], None]) -> None:
        self._catalog, self._config, self._on_health = catalog, config, on_health
        self._children = ChildProcesses()
        self._survey = DeviceSurvey(candidates(config.provider), config.threads, self._children)
        self._measuring: set[str] = set()
        self._loaded: dict[str, LoadedEncoder] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._opening = asyncio.Lock()  # one at a time, so that two do not take the same memory
        self._exporting: set[str] = set()
        self._failures: dict[str, str] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._memory_at_start = int(psutil.Process().memory_info().rss)

    @property
    def provider_names(self) -> str:
        """Providers that may compute here, likely fastest first: "openvino or cpu"."""
        return " or ".join(dict.fromkeys(device.provider for device in self._survey.devices))

    @asynccontextmanager
    async def acquire(self, name: str) -> AsyncIterator[LoadedEncoder]:
        """The encoder, kept in memory for as long as the context lasts."""
        while (loaded := self._loaded.get(name)) is None:
            if name not in self._loading:
                self._loading[name] = asyncio.create_task(self._load(name))
            # A caller that leaves does not stop the load: others may wait for it.
            await asyncio.shield(self._loading[name])
        loaded.users += 1
        try:
            yield loaded
        finally:
            loaded.users -= 1
            loaded.last_used = time.monotonic()

    def status(self, name: str) -> tuple[str, str] | None:
        """Return ("loaded" | "exporting" | "ready" | "failed", detail), where this process knows more than the disk does."""
        if name in self._loaded:
            return "loaded", "" if self._loaded[name].serving else "its worker is being restarted"
        if name in self._exporting:
            return "exporting", "its weights are being exported"
        if name in self._measuring:
            return "ready", "its speed and parity on each device here are being measured, once: 3 to 20 seconds"
        return ("failed", self._failures[name]) if name in self._failures else None

    @property
    def loaded(self) -> list[LoadedEncoder]:
        """The encoders in memory now."""
        return list(self._loaded.values())

    def get(self, name: str) -> LoadedEncoder | None:
        return self._loaded.get(name)

    def plans_of(self, entry: CatalogEntry) -> PlanSet | None:
        """The devices that compute a tower of an encoder here, in memory or not; None where that is not measured yet, no plans
        where no device does it."""
        if loaded := self._loaded.get(entry.spec.name):
            for tower in loaded.towers:
                if tower.encoder.spec.modality is entry.spec.modality:
                    return tower.plans
        if entry.folder is None or entry.manifest is None:
            return None
        try:
            return self._survey.stored_plans(entry.folder, entry.manifest, entry.spec.default_tap)
        except NotReady:
            return PlanSet(())

    def is_busy(self) -> bool:
        """True if any encoder computes now; from any thread."""
        return any(tower.batcher.busy for loaded in list(self._loaded.values()) for tower in loaded.towers)

    def unload(self, name: str) -> bool:
        """Drop an encoder from memory; False while it is in use."""
        loaded = self._loaded.get(name)
        if loaded is None or loaded.users:
            return False
        del self._loaded[name]
        loaded.close()
        del loaded
        process_resources.give_back()
        log.info("unloaded %s", name)
        return True

    async def close(self) -> None:
        self._children.close()
        tasks = [*self._loading.values(), *([self._sweeper] if self._sweeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for loaded in self._loaded.values():
            await asyncio.to_thread(loaded.close)
        self._loaded.clear()

    async def _load(self, name: str) -> None:
        try:
            entry = await self._ready_entry(name)
            assert entry.manifest is not None, "it is exported"
            towers = [(tower, *await asyncio.to_thread(self._verify_and_plan, tower)) for tower in entry.towers]
            async with self._opening:
                self._make_room(name, entry.weights_bytes)
                opened = await asyncio.to_thread(self._open_all, name, towers)
                self._loaded[name] = LoadedEncoder(entry.spec, entry.taps, opened)
            self._failures.pop(name, None)
            for tower in opened:
                log.info("loaded %s (%s) on %s", name, tower.encoder.spec.modality, tower.plans)
        except Exception as error:
            if not isinstance(error, NotReady | Overloaded):
                self._failures[name] = str(error)
            raise
        finally:
            del self._loading[name]
        self._sweeper = self._sweeper or asyncio.create_task(self._sweep())

    async def _ready_entry(self, name: str) -> CatalogEntry:
        """The encoder's entry, exported first if need be."""
        entry = await asyncio.to_thread(self._catalog.entry, name)
        if entry.state is EncoderState.ABSENT:
            raise NotReady(f"the weights of {name} are not here", remedy=entry.detail)
        if entry.folder is not None:
            return entry
        self._exporting.add(name)
        log.info("exporting %s", name)
        try:
            await asyncio.to_thread(self._catalog.export, name, children=self._children)
        except InvalidInput as error:  # of the weights: the request that asks for them is not to blame
            raise ExportFailed(f"{name} cannot be exported: {error.message}", remedy=error.remedy) from error
        finally:
            self._exporting.discard(name)
        return await asyncio.to_thread(self._catalog.entry, name)

    def _verify_and_plan(self, tower: CatalogEntry) -> tuple[Encoder, PlanSet]:
        """Verify checksums in a thread, open the encoder's own files, check its preprocessing of the stored examples, and read
        or measure its devices."""
        assert tower.folder is not None, "it is exported"
        assert tower.manifest is not None, "it is exported"
        artifacts.verify(tower.folder, tower.manifest)
        encoder = tower.spec.encoder(tower.spec, tower.folder)
        sample_inputs.check(encoder, tower.folder)
        self._measuring.add(tower.spec.name)
        try:
            return encoder, self._survey.plans_for(encoder, tower.folder, tower.manifest)
        finally:
            self._measuring.discard(tower.spec.name)

    def _open_all(self, name: str, towers: Sequence[tuple[CatalogEntry, Encoder, PlanSet]]) -> tuple[LoadedTower, ...]:
        """Open all towers, or none, in a thread."""
        opened: list[LoadedTower] = []
        try:
            for tower in towers:
                opened.append(self._open(name, *tower))
        except BaseException:
            for one in opened:
                one.batcher.close()
            raise
        return tuple(opened)

    def _open(self, name: str, tower: CatalogEntry, encoder: Encoder, plans: PlanSet) -> LoadedTower:
        """Open the sessions of a tower's first backend."""
        assert tower.manifest is not None, "it is exported"
        backends = [Backend(plan.numerics, partial(self._sessions, encoder.folder, plan)) for plan in plans.plans]
        batcher = Batcher(encoder, backends, partial(self._on_tower_health, name))
        return LoadedTower(
            encoder, tower.manifest, batcher, AdmissionController(self._config.queue, name), plans, tower.weights_bytes
        )

    def _on_tower_health(self, name: str, serving: bool) -> None:
        """Tell that a tower's session died, or that it is back and those of the other towers are there."""
        loaded = self._loaded.get(name)
        self._on_health(name, serving and (loaded is None or loaded.serving))

    def _sessions(self, folder: Path, plan: ExecutionPlan) -> list[RunnableSession]:
        return [open_session(folder / plan.graph, device, self._config.threads) for device in everywhere(plan.device)]

    def _make_room(self, name: str, need: int) -> None:
        """Unload the longest idle encoders until an artifact of `need` bytes fits in the budget. The sizes of artifacts are a
        hard bound; the process's real memory (weights, and the arenas that batches grew) is one as far as unloading helps."""
        budget = self._config.memory_budget
        if need > budget:
            raise TooLarge(
                f"{name} takes {need >> 20} MiB, and all encoders together may take {budget >> 20}",
                remedy="serve with a larger --memory-budget",
            )
        while self._taken() + need > budget and (idle := self._longest_idle()):
            self.unload(idle)
        if sum(loaded.bytes for loaded in self._loaded.values()) + need > budget:
            raise Overloaded(
                f"no memory for {name}: the encoders in use leave less than {need >> 20} MiB of the budget",
                remedy="try again later, or serve with a larger --memory-budget",
            )

    def _taken(self) -> int:
        """Bytes that the encoders take: the growth of the process, at least their artifacts."""
        grown = int(psutil.Process().memory_info().rss) - self._memory_at_start
        return max(grown, sum(loaded.bytes for loaded in self._loaded.values()))

    def _longest_idle(self) -> str | None:
        idle = [(loaded.last_used, name) for name, loaded in self._loaded.items() if not loaded.users]
        return min(idle)[1] if idle else None

    async def _sweep(self) -> None:
        """Unload encoders that were idle for a while, and sooner where the budget is exceeded."""
        while True:
            await asyncio.sleep(min(self._config.idle_seconds / 4, 30.0))
            for name, loaded in list(self._loaded.items()):
                if not loaded.users and time.monotonic() - loaded.last_used > self._config.idle_seconds:
                    self.unload(name)
            if self._taken() > self._config.memory_budget and (idle := self._longest_idle()):
                self.unload(idle)
