"""Owns $TOPWORK_HOME/trainings: the latest training request of each head that was not dropped."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from topwork_server import atomic_store, json_records
from topwork_server.errors import DataLoss
from topwork_server.heads.head_types import HeadDefinition

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """A training: its definition, and the id of its job."""

    definition: HeadDefinition
    job: str


class TrainingLog:
    """Keeps all records in memory, so that a full disk loses the record of a training, not the training."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records = {training.definition.name: training for training in self._load()}

    def names(self) -> list[str]:
        return sorted(self._records)

    def get(self, name: str) -> TrainingRecord | None:
        return self._records.get(name)

    def add(self, training: TrainingRecord) -> None:
        """Add a record in memory; `save` writes it."""
        # Embedded descriptions may be large, and are not read again.
        self._records[training.definition.name] = replace(training, definition=replace(training.definition, described=()))

    def save(self, name: str) -> None:
        """Write a record atomically. It never raises."""
        try:
            atomic_store.make_folder(self._folder)
            json_records.write(self._path(name), asdict(self._records[name]))
        except OSError as error:
            log.warning("the record of the training of %s could not be written: %s", name, error)

    def remove(self, name: str) -> None:
        """Remove a record, if there is one."""
        self._records.pop(name, None)
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _load(self) -> list[TrainingRecord]:
        atomic_store.sweep(self._folder)
        found = [self._read(path) for path in sorted(self._folder.glob("*.json"))]
        return [training for training in found if training]

    def _read(self, path: Path) -> TrainingRecord | None:
        try:
            training = json_records.read(path, TrainingRecord)
        except (OSError, DataLoss) as error:
            log.warning("%s is no record of a training, and is left out: %s", path, error)
            return None
        return training if f"{training.definition.name}.json" == path.name else None
