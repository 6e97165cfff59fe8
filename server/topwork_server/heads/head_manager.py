"""All heads of a server: trained, described, reported on, dropped. The shelf has their files, jobs train them."""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from topwork_server.errors import AlreadyExists, InvalidInput, TopworkError
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.heads.export.merge import exported
from topwork_server.heads.fine_tuned_encoders import FineTunedEncoders
from topwork_server.heads.head_status import HeadDescription, HeadStatus, serving
from topwork_server.heads.head_store import HeadStore
from topwork_server.heads.head_types import HeadDefinition, TrainRequest
from topwork_server.heads.training.probe_request import ProbeRequest, definitions
from topwork_server.heads.training.request import TrainerKinds, TrainRequests, named
from topwork_server.heads.training_log import TrainingLog, TrainingRecord
from topwork_server.heads.version_pins import VersionPins
from topwork_server.inference.engine import Engine
from topwork_server.jobs.manager import Job, JobManager
from topwork_server.models.catalog import Catalog
from topwork_server.whole import whole

TRAIN, PROBE = "topwork_server.heads.training.training_job:train", "topwork_server.heads.training.layer_probe:probe"

log = logging.getLogger(__name__)


class HeadManager:
    """Made and used on the event loop; its blocking work is done in threads."""

    def __init__(
        self,
        home: Path,
        sets: FeatureSets,
        jobs: JobManager,
        trainers: TrainerKinds,
        engine: Engine,
        catalogue: Catalog,
        threads: int,
    ) -> None:
        self.shelf = HeadStore(home / "heads")
        self._home, self._sets, self._jobs, self._catalogue, self._threads = home, sets, jobs, catalogue, threads
        self._engine, self._trainers = engine, trainers
        self._wishes = TrainRequests(sets, engine, trainers)
        self._trainings = TrainingLog(home / "trainings")
        self._standing = HeadStatus(self.shelf, self._trainings, catalogue, jobs)
        self._pins = VersionPins(sets)
        self._tuned = FineTunedEncoders(self.shelf, sets, catalogue)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._learning: dict[str, asyncio.Task[None]] = {}  # by the name of the head
        self._probing: set[asyncio.Task[None]] = set()
        self.shelf.sweep()
        self._pins.put_right(self._learnt)
        self._tuned.sweep()

    async def train(self, wish: TrainRequest) -> HeadDescription:
        """Begins a training. NotFound, InvalidInput, NotReady or AlreadyExists where it cannot be."""
        name = named(wish)
        async with self._turn(name):
            await self._let_go(name)
            self._check_free(name, replace=wish.replace)
            definition = await self._wishes.definition(wish)
            await whole(self._begin(definition))
        return await self.get(name)

    async def get(self, name: str) -> HeadDescription:
        """NotFound names what is near."""
        return self._standing.described(await asyncio.to_thread(self._standing.find, name))

    async def list(self, encoder: str = "") -> builtins.list[HeadDescription]:
        """By name: trained, in training and failed; then those that came with encoders. `encoder` "" is all."""
        found = await asyncio.to_thread(lambda: [*self._standing.find_all()])
        described = [self._standing.described(one) for one in found]
        chosen = [one for one in described if encoder in ("", one.encoder)]
        if encoder and not chosen:
            await asyncio.to_thread(self._catalogue.spec, encoder)  # NotFound
        return chosen

    async def report(self, name: str) -> dict[str, Any]:
        """Of the head that serves. NotReady where none does yet, InvalidInput where it was not trained here."""
        described = await self.get(name)
        if serving(described).native:
            raise InvalidInput(f"{name} came with its encoder: it was not judged here", remedy="judge it with a set of your own")
        return await asyncio.to_thread(self.shelf.report, name)

    async def exported(self, name: str) -> tuple[bytes, str]:
        """Trunk and head as one ONNX file, and how to use it, in JSON. NotReady where the trunk is not here."""
        try:
            return await asyncio.to_thread(exported, serving(await self.get(name)), self.shelf, self._catalogue)
        except FileNotFoundError:  # dropped or replaced while its files were read
            return await asyncio.to_thread(exported, serving(await self.get(name)), self.shelf, self._catalogue)

    async def check_served(self, names: Sequence[str]) -> None:
        """NotFound, or NotReady where one of them does not serve yet."""
        for name in names:
            serving(await self.get(name))

    async def probe(self, wish: ProbeRequest) -> Job:
        """Begins one. Errors as `train` has them."""
        return await asyncio.shield(self._begin_probe(await definitions(wish, self._wishes, self._sets)))

    async def drop(self, name: str) -> None:
        """With its training, if one is under way, and with the encoder that was fine-tuned with it."""
        if "/" in name:
            await self.get(name)
            raise InvalidInput(f"{name!r} came with its encoder", remedy="it goes when the encoder does")
        async with self._turn(name):
            tuned = await asyncio.to_thread(self._droppable, name)
            await whole(self._drop(name, tuned))

    async def settled(self, name: str) -> HeadDescription:
        """When no training of it is under way."""
        if name in self._learning:
            await asyncio.wait({self._learning[name]})
        return await self.get(name)

    async def close(self) -> None:
        """Jobs must have ended before: what they held is let go."""
        pending = {*self._learning.values(), *self._probing}
        if pending:
            await asyncio.wait(pending)

    def _turn(self, name: str) -> asyncio.Lock:
        """Trainings and drops of one name begin one after another."""
        return self._turns.setdefault(name, asyncio.Lock())

    async def _let_go(self, name: str) -> None:
        """Of a training whose job has ended, what it held: callers hear of the end before that is let go."""
        learning, training = self._learning.get(name), self._trainings.get(name)
        if learning and training and not self._jobs.get(training.job).active:
            await asyncio.wait({learning})

    def _check_free(self, name: str, *, replace: bool) -> None:
        if name in self._learning:
            raise AlreadyExists(
                f"a head named {name!r} is in training", remedy="wait for it, cancel its job, or choose another name"
            )
        if not replace and name in self.shelf.names():
            raise AlreadyExists(f"there is a head named {name!r}", remedy="choose another name, ask for `replace`, or drop it")

    async def _begin(self, definition: HeadDefinition) -> None:
        name = definition.name
        await asyncio.to_thread(self._pins.hold, definition)
        try:
            # Kinds stand in lines of their own: who trains for a second does not wait for who tunes for an hour.
            kind = "tune" if self._trainers.trainer(definition.kind).tunes else "train"
            job = self._start(kind, name, TRAIN, definition=asdict(definition))
        except BaseException:
            await asyncio.to_thread(self._settle, name)
            raise
        self._trainings.add(TrainingRecord(definition, job.id))
        self._learning[name] = asyncio.create_task(self._see_through(name, job.id))

    def _start(self, kind: str, subject: str, call: str, **arguments: Any) -> Job:
        return self._jobs.start(kind, subject, call, {"home": str(self._home), "threads": self._threads, **arguments})

    async def _see_through(self, name: str, job: str) -> None:
        """Until a training has ended, however it does."""
        try:
            await asyncio.to_thread(self._trainings.save, name)
            await self._jobs.wait(job)
            await asyncio.to_thread(self._settle, name)
        finally:
            del self._learning[name]

    def _settle(self, name: str) -> None:
        """Never raises: what could not be put right is put right at the next start."""
        try:
            self._pins.settle(name, self._learnt(name))
            self._tuned.sweep(name)
        except TopworkError as error:
            log.warning("head=%s: what its training held is left: %s", name, error)

    def _learnt(self, name: str) -> HeadDefinition | None:
        """How the head that serves was learnt; None where none does. NotReady where its files are damaged."""
        return self.shelf.get(name).definition if name in self.shelf.names() else None

    async def _begin_probe(self, learnt: Sequence[HeadDefinition]) -> Job:
        pin = await asyncio.to_thread(self._pins.hold_all, learnt)
        try:
            subject = ",".join(one.set for one in learnt)
            job = self._start("probe", subject, PROBE, definitions=[asdict(one) for one in learnt])
        except BaseException:
            await asyncio.to_thread(self._pins.release, pin)
            raise
        task = asyncio.create_task(self._see_probe_through(job.id, pin))
        self._probing.add(task)
        task.add_done_callback(self._probing.discard)
        return job

    async def _see_probe_through(self, job: str, pin: str) -> None:
        await self._jobs.wait(job)
        await asyncio.to_thread(self._pins.release, pin)

    def _droppable(self, name: str) -> str:
        """The encoder that goes with it, or "". NotFound; NotReady where something stands on that encoder."""
        head = self._standing.find(name).head
        if head is None:
            return ""
        self._tuned.check_droppable(head)
        return head.tuned

    async def _drop(self, name: str, tuned: str) -> None:
        learning, training = self._learning.get(name), self._trainings.get(name)
        if learning and training:
            await self._jobs.cancel(training.job)
            await asyncio.wait({learning})
        await asyncio.to_thread(self._remove, name, tuned)
        if tuned:
            self._engine.unload(tuned)

    def _remove(self, name: str, tuned: str) -> None:
        if name in self.shelf.names():
            self.shelf.remove(name)
        self._trainings.remove(name)
        self._settle(name)
        if tuned:
            self._tuned.drop(tuned)
