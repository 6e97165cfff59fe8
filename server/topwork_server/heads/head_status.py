"""Head status: from the files of a head, its last training request and the job of that training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class HeadDescription:
    """A head as the disk holds it, with its latest training.

    `head` is what serves, or None. `damage` says why its files cannot be used. `job` is that of the latest training: None for
    heads that came with their encoder, where its record has expired, and before `HeadStatus.describe` adds it.
    """

    name: str
    head: Head | None = None
    training: TrainingRecord | None = None
    bytes: int = 0
    damage: str = ""
    job: JobRecord | None = None

    @property
    def definition(self) -> HeadDefinition | None:
        """The definition that the head was, or is being, trained from."""
        return self.head.definition if self.head else self.training.definition if self.training else None

    @property
    def encoder(self) -> str:
        found = self.head or self.definition
        return found.encoder if found else ""

    @property
    def encoders(self) -> tuple[str, ...]:
        """All encoders that it stands on, or will."""
        found = self.head or self.definition
        return tuple(source.encoder for source in found.sources) if found else ()

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """The set and the encoder of each of its sources, "" for none."""
        found = self.head or self.definition
        return tuple((source.set, source.encoder) for source in found.sources) if found else ()

    @property
    def state(self) -> HeadState:
        if self.head:
            return HeadState.READY
        return HeadState.TRAINING if self.job and self.job.active else HeadState.FAILED

    @property
    def detail(self) -> str:
        """Tell why nothing serves, or why the latest training gave no head; "" where all is well."""
        ended = _end(self.job)
        if self.head:
            return f"{ended}; the head from before serves" if ended else ""
        if self.state is HeadState.TRAINING:
            return ""
        return self.damage or ended or "its training left nothing that serves: train it again, or drop it"


def serving_head(described: HeadDescription) -> Head:
    """Return the head that serves. NotReady says why none does."""
    if described.head is None:
        training = described.state is HeadState.TRAINING
        how = "it is in training" if training else described.detail
        remedy = "wait for its job" if training else "train it again with replace, or drop it"
        raise NotReady(f"the head {described.name!r} does not serve: {how}", remedy=remedy)
    return described.head


class HeadStatus:
    """Combines the store, the training log, the catalog and the jobs into descriptions of heads."""

    def __init__(self, store: HeadStore, trainings: TrainingLog, catalog: Catalog, jobs: JobManager) -> None:
        self._store, self._trainings, self._catalog, self._jobs = store, trainings, catalog, jobs

    def find(self, name: str) -> HeadDescription:
        """Look a head up on the disk; it blocks. NotFound suggests similar names."""
        if "/" in name:
            stored = pretrained_head(self._catalog, name)
            return _pretrained(stored.head, stored.graph)
        training, trained = self._trainings.get(name), name in self._store.names()
        if not trained and training is None:
            raise self._unknown(name)
        return self._stored(name, training) if trained else HeadDescription(name, None, training)

    def find_all(self) -> Iterator[HeadDescription]:
        """Look up all heads; it blocks. The trained ones come first, by name, then those of encoders."""
        for name in self._trained_names():
            try:
                yield self.find(name)
            except NotFound:  # it was dropped in the meantime
                continue
        for _, found in sorted(pretrained_heads(self._catalog).items()):
            yield _pretrained(*found)

    def describe(self, description: HeadDescription) -> HeadDescription:
        """Add the job of its training. It runs on the event loop, where jobs live."""
        return replace(description, job=self._job(description.training))

    def _stored(self, name: str, training: TrainingRecord | None) -> HeadDescription:
        try:
            return HeadDescription(name, self._store.get(name), training, self._store.bytes(name))
        except NotReady as error:
            return HeadDescription(name, None, training, damage=error.message)

    def _job(self, training: TrainingRecord | None) -> JobRecord | None:
        try:
            return self._jobs.get(training.job) if training else None
        except NotFound:  # its record has expired
            return None

    def _trained_names(self) -> list[str]:
        return sorted({*self._store.names(), *self._trainings.names()})

    def _unknown(self, name: str) -> NotFound:
        names = [*self._trained_names(), *sorted(pretrained_heads(self._catalog))]
        return NotFound(f"there is no head {excerpt(name)}", remedy=instead(name, names, "train it first"))


def _pretrained(head: Head, graph: Path) -> HeadDescription:
    return HeadDescription(head.name, head, bytes=graph.stat().st_size)


def _end(job: JobRecord | None) -> str:
    """Say why a training gave no head; "" where it did, or still may."""
    if job and job.state is JobState.FAILED:
        return f"the last training failed: {job.error}"
    return "the last training was cancelled" if job and job.state is JobState.CANCELLED else ""
