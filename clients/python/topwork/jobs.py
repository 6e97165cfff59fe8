"""Long work on the server: builds of indexes, trainings of heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Job:
    """One piece of long work, as it stands.

    state         "waiting" (for another job of its kind), "running", "done", "failed" (`error` says why) or "cancelled"
    subject       what it works on, such as "birds/pooled"
    fraction      0 to 1; `message` says what it does now
    ended         None while it runs; times are UTC
    seconds_left  an estimate; None where there is none
    result        of a job that is done, where it has any: of a probe its table
    """

    id: str
    kind: str
    subject: str
    state: str
    fraction: float
    message: str
    created: datetime
    ended: datetime | None
    seconds_left: float | None
    error: str
    result: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    @property
    def running(self) -> bool:
        """Tell whether it has not ended yet; it may also be waiting for its turn."""
        return self.state in ("waiting", "running")


#: True for a bar on a terminal's stderr; a function of the Job at each change; or nothing.
JobProgress: TypeAlias = bool | Callable[[Job], object] | None
