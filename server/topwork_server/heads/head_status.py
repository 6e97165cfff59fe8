"""How a head stands: what is on the shelf, what was asked of its latest training, and what became of that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from topwork_server.errors import NotFound, NotReady
from topwork_server.excerpts import excerpt
from topwork_server.heads.head_store import HeadStore
from topwork_server.heads.head_types import Head, HeadDefinition
from topwork_server.heads.pretrained import pretrained_head, pretrained_heads
from topwork_server.heads.training_log import TrainingLog, TrainingRecord
from topwork_server.jobs.manager import Job, JobManager, JobState
from topwork_server.models.catalog import Catalog
from topwork_server.suggestions import instead


class HeadState(StrEnum):
    TRAINING = "training"  # no head of that name serves yet
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class HeadDescription:
    """A head as it stands. `head` is what serves, None where nothing does; `definition` is how that was, or is, learnt. `job` is
    the latest training, None for heads that came with their encoder, and where its record is no longer kept."""

    name: str
    state: HeadState
    detail: str = ""
    head: Head | None = None
    definition: HeadDefinition | None = None
    job: Job | None = None
    bytes: int = 0

    @property
    def encoder(self) -> str:
        found = self.head or self.definition
        return found.encoder if found else ""


@dataclass(frozen=True, slots=True)
class StoredHeadState:
    """What the disk knows of a head. `damage` says why its files are not to be used."""

    name: str
    head: Head | None = None
    training: TrainingRecord | None = None
    bytes: int = 0
    damage: str = ""


def serving_head(described: HeadDescription) -> Head:
    """What serves. NotReady says why nothing does."""
    if described.head is None:
        training = described.state is HeadState.TRAINING
        how = "it is in training" if training else described.detail
        remedy = "wait for its job" if training else "train it again with replace, or drop it"
        raise NotReady(f"the head {described.name!r} does not serve: {how}", remedy=remedy)
    return described.head


class HeadStatus:
    def __init__(self, shelf: HeadStore, trainings: TrainingLog, catalogue: Catalog, jobs: JobManager) -> None:
        self._store, self._trainings, self._catalogue, self._jobs = shelf, trainings, catalogue, jobs

    def find(self, name: str) -> StoredHeadState:
        """Blocking. NotFound names what is near."""
        if "/" in name:
            kept = pretrained_head(self._catalogue, name)
            return _native(kept.head, kept.graph)
        training, trained = self._trainings.get(name), name in self._store.names()
        if not trained and training is None:
            raise self._unknown(name)
        return self._stored(name, training) if trained else StoredHeadState(name, None, training)

    def find_all(self) -> Iterator[StoredHeadState]:
        """Blocking. Those that were trained by name, then those that came with encoders."""
        for name in self._trained_names():
            try:
                yield self.find(name)
            except NotFound:  # it was dropped meanwhile
                continue
        for _, native in sorted(pretrained_heads(self._catalogue).items()):
            yield _native(*native)

    def describe(self, found: StoredHeadState) -> HeadDescription:
        """On the event loop, where jobs are."""
        head, training = found.head, found.training
        definition = head.definition if head else training.definition if training else None
        job = self._job(training)
        state, detail = _state(found, job)
        return HeadDescription(found.name, state, detail, head, definition, job, found.bytes)

    def _stored(self, name: str, training: TrainingRecord | None) -> StoredHeadState:
        try:
            return StoredHeadState(name, self._store.get(name), training, self._store.bytes(name))
        except NotReady as error:
            return StoredHeadState(name, None, training, damage=error.message)

    def _job(self, training: TrainingRecord | None) -> Job | None:
        try:
            return self._jobs.get(training.job) if training else None
        except NotFound:  # its record is among those that were dropped
            return None

    def _trained_names(self) -> list[str]:
        return sorted({*self._store.names(), *self._trainings.names()})

    def _unknown(self, name: str) -> NotFound:
        names = [*self._trained_names(), *sorted(pretrained_heads(self._catalogue))]
        return NotFound(f"there is no head {excerpt(name)}", remedy=instead(name, names, "train it first"))


def _native(head: Head, graph: Path) -> StoredHeadState:
    return StoredHeadState(head.name, head, bytes=graph.stat().st_size)


def _state(found: StoredHeadState, job: Job | None) -> tuple[HeadState, str]:
    if job and job.active and not found.head:
        return HeadState.TRAINING, ""
    if found.damage:
        return HeadState.FAILED, found.damage
    ended = _end(job)
    if not found.head:
        return HeadState.FAILED, ended or "its training left nothing that serves: train it again, or drop it"
    if job and ended and found.head.created < job.created:  # else it was published just before the server ended
        return HeadState.READY, f"{ended}; the head from before serves"
    return HeadState.READY, ""


def _end(job: Job | None) -> str:
    """Why a training gave no head; "" where it did, or may yet."""
    if job and job.state is JobState.FAILED:
        return f"the last training failed: {job.error}"
    return "the last training was cancelled" if job and job.state is JobState.CANCELLED else ""
