"""The state of a job, and its record on disk: one JSON file a job in $TOPWORK_HOME/jobs, written atomically."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from topwork_server import atomic_store, json_records
from topwork_server.errors import DataLoss

SCRATCH = ".scratch"
#: Of a record that is damaged, behind its name.
ASIDE = ".damaged"

log = logging.getLogger(__name__)


class JobState(StrEnum):
    WAITING = "waiting"  # for another job; it has no process yet
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class JobRecord:
    """Long work as it stands. `fraction` is 0 to 1; times are seconds since 1970, `ended` 0 while it runs; `seconds_left` is an
    estimate, 0 where there is none; `result` is what a job that is DONE returned, `error` why one FAILED; `interrupted` says that
    it FAILED with its server, and not by itself; `owner` is the caller who started it, "" where there were no keys."""

    id: str
    kind: str
    subject: str
    created: float
    state: JobState = JobState.RUNNING
    fraction: float = 0.0
    message: str = ""
    ended: float = 0.0
    seconds_left: float = 0.0
    error: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    owner: str = ""

    @property
    def active(self) -> bool:
        """Tell whether it has not ended yet."""
        return self.state in (JobState.WAITING, JobState.RUNNING)


class JobRecords:
    """The files. A disk that is full, or a file that is damaged, costs the record and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.damaged: dict[str, DataLoss] = {}

    def load(self) -> list[JobRecord]:
        """Load all records, oldest first. What is no record is set aside, and named in `damaged`."""
        atomic_store.sweep(self._folder)
        for leftover in self._folder.glob(f"*{SCRATCH}"):  # of jobs that were killed with their server
            atomic_store.delete_if_possible(leftover)
        found = [self._read(path) for path in sorted(self._folder.glob("*.json"))]
        return [job for job in found if job is not None]

    def save(self, job: JobRecord) -> None:
        """Write a record. It never raises: a job goes on without one."""
        try:
            atomic_store.make_folder(self._folder)
            json_records.write(self._path(job.id), asdict(replace(job, seconds_left=0.0)))
        except OSError as error:
            log.warning("the record of job %s could not be written: %s", job.id, error)

    def scratch(self, id: str) -> Path:
        """The folder of a job's temporary files."""
        return (self._folder / f"{id}{SCRATCH}").absolute()

    def forget(self, id: str) -> None:
        self._path(id).unlink(missing_ok=True)

    def _path(self, id: str) -> Path:
        return self._folder / f"{id}.json"

    def _read(self, path: Path) -> JobRecord | None:
        try:
            int(path.stem, 36)  # an id
            return replace(json_records.read(path, JobRecord), id=path.stem)
        except (OSError, ValueError, DataLoss) as error:
            self._set_aside(path, error)
            return None

    def _set_aside(self, path: Path, error: Exception) -> None:
        aside, why = path.with_name(path.name + ASIDE), json_records.reason(error) if isinstance(error, DataLoss) else str(error)
        with suppress(OSError):  # else it is left, and reported again at the next start
            atomic_store.delete(aside)
            path.rename(aside)
        log.warning("%s is no record of a job, and is set aside as %s: %s", path, aside.name, why)
        self.damaged[path.stem] = DataLoss(
            f"the record of the job {path.stem!r} is damaged: {path}: {why}",
            remedy=f"put it back from a copy and start the server again; what was found there is {aside}",
        )


def damaged_records(folder: Path) -> list[str]:
    """List the records that were set aside."""
    return [f"{path} is a damaged record of a job (it was set aside: delete it)" for path in sorted(folder.glob(f"*{ASIDE}"))]
