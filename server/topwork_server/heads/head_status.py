"""Head status, from its files, its last training request and the job of that training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from topwork._display.excerpts import excerpt

from topwork_server.errors import NotFound, NotReady
from topwork_server.heads.head_store import HeadStore
from topwork_server.heads.head_types import Head, HeadDefinition
from topwork_server.heads.pretrained import pretrained_head, pretrained_heads
from topwork_server.heads.training_log import TrainingLog, TrainingRecord
from topwork_server.jobs.job_records import JobRecord, JobState
from topwork_server.jobs.manager import JobManager
from topwork_server.models.catalog import Catalog
from topwork_server.names import instead


class HeadState(StrEnum):
    TRAINING = "training"  # no head of that name serves yet
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class HeadDescription:
    """A head and its state.

    `head` is what serves, or None; `definition` is what it was, or is being, trained from. `job` is the latest training: None for
    heads that came with their encoder, and where its record has expired.
    """

    name: str
    state: HeadState
    detail: str = ""
    head: Head | None = None
    definition: HeadDefinition | None = None
    job: JobRecord | None = None
    bytes: int = 0

    @property
    def encoder(self) -> str:
        found = self.head or self.definition
        return found.encoder if found else ""


@dataclass(frozen=True, slots=True)
class StoredHeadState:
    """A head as the disk holds it. `damage` says why its files cannot be used."""

    name: str
    head: Head | None = None
    training: TrainingRecord | None = None
    bytes: int = 0
    damage: str = ""


def serving_head(described: HeadDescription) -> Head:
    """The head that serves. NotReady says why none does."""
    if described.head is None:
        training = described.state is HeadState.TRAINING
        how = "it is in training" if training else described.detail
        remedy = "wait for its job" if training else "train it again with replace, or drop it"
        raise NotReady(f"the head {described.name!r} does not serve: {how}", remedy=remedy)
    return described.head


class HeadStatus:
    """Combines the store, the training log, the catalog and the jobs into descriptions of heads."""

    def __init__(self, shelf: HeadStore, trainings: TrainingLog, catalogue: Catalog, jobs: JobManager) -> None:
        self._store, self._trainings, self._catalogue, self._jobs = shelf, trainings, catalogue, jobs

    def find(self, name: str) -> StoredHeadState:
        """Look a head up on the disk; it blocks. NotFound suggests similar names."""
        if "/" in name:
            kept = pretrained_head(self._catalogue, name)
            return _native(kept.head, kept.graph)
        training, trained = self._trainings.get(name), name in self._store.names()
        if not trained and training is None:
            raise self._unknown(name)
        return self._stored(name, training) if trained else StoredHeadState(name, None, training)

    def find_all(self) -> Iterator[StoredHeadState]:
        """Look up all heads; it blocks. The trained ones come first, by name, then those of encoders."""
        for name in self._trained_names():
            try:
                yield self.find(name)
            except NotFound:  # it was dropped in the meantime
                continue
        for _, native in sorted(pretrained_heads(self._catalogue).items()):
            yield _native(*native)

    def describe(self, found: StoredHeadState) -> HeadDescription:
        """Add the state of its job. It runs on the event loop, where jobs live."""
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

    def _job(self, training: TrainingRecord | None) -> JobRecord | None:
        try:
            return self._jobs.get(training.job) if training else None
        except NotFound:  # its record has expired
            return None

    def _trained_names(self) -> list[str]:
        return sorted({*self._store.names(), *self._trainings.names()})

    def _unknown(self, name: str) -> NotFound:
        names = [*self._trained_names(), *sorted(pretrained_heads(self._catalogue))]
        return NotFound(f"there is no head {excerpt(name)}", remedy=instead(name, names, "train it first"))


def _native(head: Head, graph: Path) -> StoredHeadState:
    return StoredHeadState(head.name, head, bytes=graph.stat().st_size)


def _state(found: StoredHeadState, job: JobRecord | None) -> tuple[HeadState, str]:
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


def _end(job: JobRecord | None) -> str:
    """Say why a training gave no head; "" where it did, or still may."""
    if job and job.state is JobState.FAILED:
        return f"the last training failed: {job.error}"
    return "the last training was cancelled" if job and job.state is JobState.CANCELLED else ""
