"""All heads of a server: train, describe, report on, export and drop them."""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from topwork.heads import LabelShift
from topwork.report import Report

from topwork_server.access.caller import current_caller
from topwork_server.access.passes import HeadPass, head_pass, require, sees_sources, server_pass
from topwork_server.blocking_calls import shielded
from topwork_server.errors import AlreadyExists, InvalidInput, TopworkError
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.heads.evaluation.label_shift import label_shift
from topwork_server.heads.export.merge import export_head
from topwork_server.heads.fine_tuned_encoders import FineTunedEncoders
from topwork_server.heads.head_status import HeadDescription, HeadStatus, serving_head
from topwork_server.heads.head_store import HeadStore
from topwork_server.heads.head_types import HeadDefinition, TrainRequest
from topwork_server.heads.training.head_names import head_name, head_names
from topwork_server.heads.training.probe_request import ProbeRequest, definitions
from topwork_server.heads.training.request import TrainerKinds, TrainRequests
from topwork_server.heads.training_log import TrainingLog, TrainingRecord
from topwork_server.heads.version_pins import VersionPins
from topwork_server.inference.engine import Engine
from topwork_server.jobs.job_records import JobRecord
from topwork_server.jobs.manager import JobManager
from topwork_server.models.catalog import Catalog
from topwork_server.types import Array

#: Kinds of jobs.
FIT, TUNE = "train", "tune"
TRAIN, PROBE = "topwork_server.heads.training.training_job:train", "topwork_server.heads.training.layer_probe:probe"

log = logging.getLogger(__name__)


class HeadManager:
    """Starts trainings and probes as jobs, and keeps the files of heads in a HeadStore.

    It is created and used on the event loop; its blocking work runs in threads.
    """

    def __init__(
        self,
        home: Path,
        sets: FeatureSets,
        jobs: JobManager,
        trainers: TrainerKinds,
        engine: Engine,
        catalog: Catalog,
        threads: int,
    ) -> None:
        self.store = HeadStore(home / "heads")
        self._home, self._sets, self._jobs, self._catalog, self._threads = home, sets, jobs, catalog, threads
        self._engine, self._trainers = engine, trainers
        self._requests = TrainRequests(sets, engine, trainers, catalog)
        self._trainings = TrainingLog(home / "trainings")
        self._status = HeadStatus(self.store, self._trainings, catalog, jobs)
        self._pins = VersionPins(sets)
        self._fine_tuned = FineTunedEncoders(self.store, sets, catalog)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._running: dict[str, asyncio.Task[None]] = {}  # by the name of the head
        self._probing: set[asyncio.Task[None]] = set()
        self.store.sweep()
        self._pins.sweep(self._served_definition)
        self._fine_tuned.sweep()
        jobs.recognize((FIT, TUNE), self._published)

    async def train(self, request: TrainRequest) -> HeadDescription:
        """Start a training. NotFound, InvalidInput, NotReady or AlreadyExists where it cannot be."""
        name = head_name(request)
        async with self._lock(name):
            await self._await_ended_job(name)
            for each in head_names(request):
                self._check_free(each, replace=request.replace)
            definition = await self._requests.definition(request)
            await shielded(self._start_training(definition))
        return await self.get(server_pass(HeadPass, name))

    async def pass_for(self, name: str) -> HeadPass:
        """Check that the current caller may use a head. Refused (PERMISSION_DENIED) where it is of sets or encoders that the
        caller may not use; of callers who may use all, nothing is looked up."""
        if not current_caller().is_scoped:
            return head_pass(name, tuple)
        return await asyncio.to_thread(head_pass, name, lambda: self._status.find(name).sources)

    async def get(self, name: HeadPass) -> HeadDescription:
        """Describe a head. NotFound suggests similar names."""
        return self._status.describe(await asyncio.to_thread(self._status.find, require(name, HeadPass)))

    async def list(self, encoder: str = "") -> builtins.list[HeadDescription]:
        """List heads that the caller may use, by name: the trained, the training and the failed ones, then those of encoders.
        `encoder` "" lists those of all."""
        found = await asyncio.to_thread(lambda: [*self._status.find_all()])
        described = [self._status.describe(one) for one in found if sees_sources(one.sources)]
        chosen = [one for one in described if not encoder or encoder in one.encoders]
        if encoder and not chosen:
            await asyncio.to_thread(self._catalog.spec, encoder)  # NotFound
        return chosen

    async def report(self, name: HeadPass) -> Report:
        """Read the report of a head that serves. InvalidInput where it was not trained here."""
        described = await self.get(name)
        if serving_head(described).pretrained:
            raise InvalidInput(
                f"{name} came with its encoder: it was not evaluated here", remedy="evaluate it with a set of your own"
            )
        return await asyncio.to_thread(self.store.report, name)

    def label_shift(self, name: str, counts: Array) -> LabelShift | None:
        """Compare recent predictions, (names,) counts, with the evaluation of a head; None where there is none to compare with,
        or too little. It blocks."""
        try:
            report = self.store.report(name)
        except TopworkError as error:
            log.warning("head=%s: its predictions are not compared with its evaluation: %s", name, error)
            return None
        return label_shift(report.names, counts, report.confusion) if report.confusion else None

    async def export(self, name: HeadPass) -> tuple[bytes, str]:
        """Export trunk and head as one ONNX file, with its model card in JSON. NotReady where the trunk is not here."""
        try:
            return await asyncio.to_thread(export_head, serving_head(await self.get(name)), self.store, self._catalog)
        except FileNotFoundError:  # dropped or replaced while its files were read
            return await asyncio.to_thread(export_head, serving_head(await self.get(name)), self.store, self._catalog)

    async def check_served(self, names: Sequence[HeadPass]) -> None:
        """Raise NotFound, or NotReady where one of the heads does not serve yet."""
        for name in names:
            serving_head(await self.get(name))

    async def probe(self, request: ProbeRequest) -> JobRecord:
        """Start a probe. The errors are those of `train`."""
        return await asyncio.shield(self._start_probe(await definitions(request, self._requests, self._sets)))

    async def drop(self, name: HeadPass) -> None:
        """Drop a head, its running training, and the encoder that was fine-tuned with it."""
        if "/" in name:
            await self.get(name)
            raise InvalidInput(f"{name!r} came with its encoder", remedy="it goes when the encoder does")
        async with self._lock(name):
            tuned = await asyncio.to_thread(self._encoder_to_drop, require(name, HeadPass))
            await shielded(self._drop(name, tuned))

    async def wait_until_trained(self, name: HeadPass) -> HeadDescription:
        """Wait until no training of the head is running, and describe it."""
        if name in self._running:
            await asyncio.wait({self._running[name]})
        return await self.get(name)

    async def close(self) -> None:
        """Release what the jobs held; they must have ended before."""
        pending = {*self._running.values(), *self._probing}
        if pending:
            await asyncio.wait(pending)

    def _lock(self, name: str) -> asyncio.Lock:
        """The lock under which trainings and drops of one name start."""
        return self._locks.setdefault(name, asyncio.Lock())

    async def _await_ended_job(self, name: str) -> None:
        """Wait for the cleanup of a training whose job has ended: callers hear of the end before it is done."""
        learning, training = self._running.get(name), self._trainings.get(name)
        if learning and training and not self._jobs.get(training.job).active:
            await asyncio.wait({learning})

    def _check_free(self, name: str, *, replace: bool) -> None:
        if name in self._running:
            raise AlreadyExists(
                f"a head named {name!r} is in training", remedy="wait for it, cancel its job, or choose another name"
            )
        if name in self.store.names():
            if not replace:
                raise AlreadyExists(f"there is a head named {name!r}", remedy="choose another name, `replace` it, or drop it")
            head_pass(name, lambda: self._status.find(name).sources)

    async def _start_training(self, definition: HeadDefinition) -> None:
        name = definition.name
        try:
            for one in definition.together:
                await asyncio.to_thread(self._pins.pin_training, one)
            # Each kind has a queue of its own, so that a training of a second does not wait for a fine-tuning of an hour.
            kind = TUNE if self._trainers.trainer(definition.kind).tunes else FIT
            job = self._start_job(kind, name, TRAIN, definition=asdict(definition))
        except BaseException:
            await asyncio.to_thread(self._release_all, definition)
            raise
        self._trainings.add(TrainingRecord(definition, job.id))
        following = asyncio.create_task(self._follow_training(definition, job.id))
        self._running |= {one.name: following for one in definition.together}

    def _start_job(self, kind: str, subject: str, call: str, **arguments: Any) -> JobRecord:
        return self._jobs.start(kind, subject, call, {"home": str(self._home), "threads": self._threads, **arguments})

    def _published(self, job: JobRecord) -> Mapping[str, Any] | None:
        """Return the result of a training that published its head, and did not tell."""
        self.store.finish(job.subject)
        try:
            head = self.store.get(job.subject)
        except TopworkError:
            return None
        return head.training_result() if head.created >= job.created else None

    async def _follow_training(self, definition: HeadDefinition, job: str) -> None:
        """Clean up after a training, however it ends."""
        try:
            await asyncio.to_thread(self._trainings.save, definition.name)
            await self._jobs.wait(job)
            await asyncio.to_thread(self._release_all, definition)
        finally:
            for one in definition.together:
                del self._running[one.name]

    def _release_all(self, definition: HeadDefinition) -> None:
        self.store.finish(definition.name)
        for one in reversed(definition.together):  # the encoder is the first's, and is looked at last
            self._release(one.name)

    def _release(self, name: str) -> None:
        """Release what a training held. It never raises: what is left is released at the next start."""
        try:
            self._pins.move_to_head(name, self._served_definition(name))
            self._fine_tuned.sweep(name)
        except TopworkError as error:
            log.warning("head=%s: what its training held is left: %s", name, error)

    def _served_definition(self, name: str) -> HeadDefinition | None:
        """The definition of the head that serves, or None. NotReady where its files are damaged."""
        return self.store.get(name).definition if name in self.store.names() else None

    async def _start_probe(self, probed: Sequence[HeadDefinition]) -> JobRecord:
        pin = await asyncio.to_thread(self._pins.pin_probe, probed)
        try:
            subject = ",".join(one.set for one in probed)
            job = self._start_job("probe", subject, PROBE, definitions=[asdict(one) for one in probed])
        except BaseException:
            await asyncio.to_thread(self._pins.release_probe, pin)
            raise
        task = asyncio.create_task(self._follow_probe(job.id, pin))
        self._probing.add(task)
        task.add_done_callback(self._probing.discard)
        return job

    async def _follow_probe(self, job: str, pin: str) -> None:
        await self._jobs.wait(job)
        await asyncio.to_thread(self._pins.release_probe, pin)

    def _encoder_to_drop(self, name: str) -> str:
        """The encoder to drop with the head, or "". NotFound; NotReady where that encoder is in use."""
        head = self._status.find(name).head
        if head is None:
            return ""
        self._fine_tuned.check_droppable(head)
        return head.tuned

    async def _drop(self, name: str, tuned: str) -> None:
        learning, training = self._running.get(name), self._trainings.get(name)
        if learning and training:
            await self._jobs.cancel(training.job)
            await asyncio.wait({learning})
        await asyncio.to_thread(self._remove, name, tuned)
        if tuned:
            self._engine.unload(tuned)

    def _remove(self, name: str, tuned: str) -> None:
        if name in self.store.names():
            self.store.remove(name)
        self._trainings.remove(name)
        self._release(name)
        if tuned:
            self._fine_tuned.drop(tuned)
