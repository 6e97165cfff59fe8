"""Which encoders are in memory: loaded on first use, exported first where need be, unloaded when idle or when room is needed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from topwork_server import process_memory
from topwork_server.config import Config
from topwork_server.errors import NotReady, Overloaded, TooLarge
from topwork_server.inference.admission import AdmissionController
from topwork_server.inference.batcher import Backend, Batcher
from topwork_server.jobs.child_processes import ChildProcesses
from topwork_server.models import artifacts
from topwork_server.models.artifacts import Manifest
from topwork_server.models.catalog import Catalog, CatalogEntry, EncoderState
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.runtime import sample_inputs
from topwork_server.runtime.device_selection import ExecutionPlan, PlanSet
from topwork_server.runtime.device_survey import DeviceSurvey
from topwork_server.runtime.providers import candidates, everywhere
from topwork_server.runtime.session import RunnableSession
from topwork_server.runtime.session_factory import open_session
from topwork_server.types import Numerics, Tap

log = logging.getLogger(__name__)


@dataclass(eq=False)
class LoadedEncoder:
    """An encoder in memory."""

    encoder: Encoder
    manifest: Manifest
    batcher: Batcher
    room: AdmissionController
    choice: PlanSet
    users: int = 0
    last_used: float = field(default_factory=time.monotonic)

    @property
    def numerics(self) -> Numerics:
        """Of the default tap."""
        return self.numerics_of(0, [self.encoder.spec.default_tap])

    @property
    def bytes(self) -> int:
        """Of its weights, in each lane that is open."""
        return self.manifest.bytes * self.batcher.lanes_open

    def lane_of(self, taps: Sequence[Tap]) -> int:
        """Which of the batcher's lanes computes these taps. NotReady where no device does it well enough."""
        return self.choice.way_of([tap.name for tap in taps])

    def numerics_of(self, lane: int, taps: Sequence[str]) -> Numerics:
        return self.choice.ways[lane].numerics_of(taps)


class ModelCache:
    """Owns what is loaded. `on_health(name, serving)` is called from a worker's thread when it dies or is back."""

    def __init__(self, catalogue: Catalog, config: Config, on_health: Callable[[str, bool], None]) -> None:
        self._catalogue, self._config, self._on_health = catalogue, config, on_health
        self._children = ChildProcesses()
        self._survey = DeviceSurvey(candidates(config.provider), config.threads, self._children)
        self._measuring: set[str] = set()
        self._loaded: dict[str, LoadedEncoder] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._opening = asyncio.Lock()  # one at a time, so that two do not take the same room
        self._exporting: set[str] = set()
        self._failures: dict[str, str] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._memory_at_start = int(psutil.Process().memory_info().rss)

    @property
    def provider(self) -> str:
        """Those that may compute here, likely fastest first: "openvino or cpu"."""
        return " or ".join(dict.fromkeys(device.provider for device in self._survey.devices))

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[LoadedEncoder]:
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

    def live(self, name: str) -> tuple[str, str] | None:
        """("loaded" | "exporting" | "ready" | "failed", detail) where this process knows more than the disk does."""
        if name in self._loaded:
            return "loaded", "" if self._loaded[name].batcher.serving else "its worker is being restarted"
        if name in self._exporting:
            return "exporting", "its weights are being exported"
        if name in self._measuring:
            return "ready", "what each device here makes of it is being measured, once: 3 to 20 seconds"
        return ("failed", self._failures[name]) if name in self._failures else None

    def get(self, name: str) -> LoadedEncoder | None:
        return self._loaded.get(name)

    def choice(self, entry: CatalogEntry) -> PlanSet | None:
        """Which device computes what of an encoder here, in memory or not: None where that is not measured yet, no ways where no
        device does it."""
        if loaded := self._loaded.get(entry.spec.name):
            return loaded.choice
        if entry.folder is None or entry.manifest is None:
            return None
        try:
            return self._survey.kept(entry.folder, entry.manifest, entry.spec.default_tap)
        except NotReady:
            return PlanSet(())

    def busy(self) -> bool:
        """Whether any encoder computes now; from any thread."""
        return any(loaded.batcher.busy for loaded in list(self._loaded.values()))

    def unload(self, name: str) -> bool:
        """False where somebody uses it."""
        loaded = self._loaded.get(name)
        if loaded is None or loaded.users:
            return False
        del self._loaded[name]
        loaded.batcher.close()
        del loaded
        process_memory.give_back()
        log.info("unloaded %s", name)
        return True

    async def close(self) -> None:
        self._children.close()
        tasks = [*self._loading.values(), *([self._sweeper] if self._sweeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for loaded in self._loaded.values():
            await asyncio.to_thread(loaded.batcher.close)
        self._loaded.clear()

    async def _load(self, name: str) -> None:
        try:
            folder = await self._artifact(name)
            manifest = await asyncio.to_thread(Manifest.read, folder)
            encoder, choice = await asyncio.to_thread(self._examine, name, folder, manifest)
            async with self._opening:
                self._make_room(name, manifest.bytes)
                self._loaded[name] = await asyncio.to_thread(self._open, encoder, manifest, choice)
            self._failures.pop(name, None)
            log.info("loaded %s on %s", name, choice)
        except Exception as error:
            if not isinstance(error, NotReady | Overloaded):
                self._failures[name] = str(error)
            raise
        finally:
            del self._loading[name]
        self._sweeper = self._sweeper or asyncio.create_task(self._sweep())

    async def _artifact(self, name: str) -> Path:
        entry = await asyncio.to_thread(self._catalogue.entry, name)
        if entry.state is EncoderState.ABSENT:
            raise NotReady(f"the weights of {name} are not here", remedy=entry.detail)
        if entry.folder is not None:
            return entry.folder
        self._exporting.add(name)
        log.info("exporting %s", name)
        try:
            return await asyncio.to_thread(self._catalogue.export, name, children=self._children)
        finally:
            self._exporting.discard(name)

    def _examine(self, name: str, folder: Path, manifest: Manifest) -> tuple[Encoder, PlanSet]:
        """In a thread: checksums, the encoder's own files, its preprocessing of the kept examples, and what was measured of it
        here, or is measured now."""
        artifacts.verify(folder, manifest)
        spec = self._catalogue.spec(name)
        encoder = spec.encoder(spec, folder)
        sample_inputs.check(encoder, folder)
        self._measuring.add(name)
        try:
            return encoder, self._survey.of(encoder, folder, manifest)
        finally:
            self._measuring.discard(name)

    def _open(self, encoder: Encoder, manifest: Manifest, choice: PlanSet) -> LoadedEncoder:
        """In a thread: the sessions of the first lane."""
        name = encoder.spec.name
        lanes = [Backend(way.numerics, partial(self._sessions, encoder.folder, way)) for way in choice.ways]
        batcher = Batcher(encoder, lanes, partial(self._on_health, name))
        return LoadedEncoder(encoder, manifest, batcher, AdmissionController(self._config.queue, name), choice)

    def _sessions(self, folder: Path, way: ExecutionPlan) -> list[RunnableSession]:
        return [open_session(folder / way.graph, device, self._config.threads) for device in everywhere(way.device)]

    def _make_room(self, name: str, need: int) -> None:
        """Unload the longest idle until an artifact of `need` bytes fits in the budget. The sizes of artifacts are a hard bound;
        what the process really takes (weights, and the arenas that batches grew) is one as far as unloading helps."""
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
        """Bytes that the encoders take: what the process grew by, at least their artifacts."""
        grown = int(psutil.Process().memory_info().rss) - self._memory_at_start
        return max(grown, sum(loaded.bytes for loaded in self._loaded.values()))

    def _longest_idle(self) -> str | None:
        idle = [(loaded.last_used, name) for name, loaded in self._loaded.items() if not loaded.users]
        return min(idle)[1] if idle else None

    async def _sweep(self) -> None:
        """Unload what nobody has used for a while, and sooner where the budget is exceeded."""
        while True:
            await asyncio.sleep(min(self._config.idle_seconds / 4, 30.0))
            for name, loaded in list(self._loaded.items()):
                if not loaded.users and time.monotonic() - loaded.last_used > self._config.idle_seconds:
                    self.unload(name)
            if self._taken() > self._config.memory_budget and (idle := self._longest_idle()):
                self.unload(idle)
