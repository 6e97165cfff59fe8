"""The one tree of errors, of the client and of the server. Each says what was wrong and, where one is known, the remedy.

The server sends the name of the class, and the client raises the same class. `topwork_server.errors` adds those that never leave
the server's process.

TopworkError                 any status that has no class below (INTERNAL, UNKNOWN ...)
├── InvalidInput             INVALID_ARGUMENT     also a ValueError; `item` is the position of the item to blame
├── NotFound                 NOT_FOUND            no encoder, tap, set, index, head or job of that name
├── NotReady                 FAILED_PRECONDITION  weights are not there, or a fingerprint does not match
├── AlreadyExists            ALREADY_EXISTS       the name is taken
├── Overloaded               RESOURCE_EXHAUSTED   the server's queue is full; retried before you see it
├── TooLarge                 RESOURCE_EXHAUSTED   this item or message can never fit
├── DiskFull                 RESOURCE_EXHAUSTED   the server's disk: nothing was written, what was there is as it was
├── DataLoss                 DATA_LOSS            a file on the server's disk is damaged: what it described cannot be used
├── DeadlineExceeded         DEADLINE_EXCEEDED    also a TimeoutError
├── Unavailable              UNAVAILABLE          also a ConnectionError; retried before you see it
├── Cancelled                CANCELLED
├── Unsupported              UNIMPLEMENTED        the server is older than this client, or is another server
├── Refused                  UNAUTHENTICATED, PERMISSION_DENIED
├── PluginFault              INTERNAL             a plugin of the server returned what its contract forbids
├── ExportFailed             INTERNAL             the server could not export the encoder
└── JobFailed                INTERNAL             a job that you waited for failed or was cancelled; `job` is how it stands
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

import grpc

from topwork._display.excerpts import shortened

if TYPE_CHECKING:
    from topwork.jobs import Job

E = TypeVar("E", bound="TopworkError")


class TopworkError(Exception):
    """Base of all. `remedy` says what the caller can do; `item` is the position of the item to blame; `retry_after` is the number
    of seconds after which the server asks to be called again, where it does."""

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    retry_after: float | None = None
    #: Of a command that it ends.
    exit_status: int = 1
    #: The server certainly did not begin what was asked, so that asking again cannot do it twice.
    untouched: bool = False
    #: No connection was made: nothing listens there, or there is no host of that name.
    unconnected: bool = False
    #: To ask again soon would bring the same: the server, or the client, has to be set up in another way.
    lasting: bool = False

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        item: int | None = None,
        code: grpc.StatusCode | None = None,
        retry_after: float | None = None,
    ) -> None:
        message = shortened(message)
        super().__init__(message)
        self.message = message
        self.remedy = shortened(remedy)
        self.item = item
        if code is not None:
            self.code = code
        if retry_after is not None:
            self.retry_after = retry_after

    @property
    def reason(self) -> str:
        """The name of its class in the tree above; for a class derived elsewhere, that of its base there."""
        return next(kind.__name__ for kind in type(self).__mro__ if kind.__module__ == __name__)

    def at(self: E, item: int | None) -> E:
        """A copy that blames the item at that position of the request, or the whole request."""
        moved = copy.copy(self)
        moved.item = item
        return moved

    def shifted(self: E, start: int) -> E:
        """The same error, where item 0 of what was sent is item `start` of what the caller passed."""
        if self.item is not None:
            self.item += start
        return self

    def __str__(self) -> str:
        place = "" if self.item is None else f"item {self.item}: "
        return f"{place}{self.message}" + (f" ({self.remedy})" if self.remedy else "")


class InvalidInput(TopworkError, ValueError):
    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(TopworkError):
    code = grpc.StatusCode.NOT_FOUND


class NotReady(TopworkError):
    code = grpc.StatusCode.FAILED_PRECONDITION


class AlreadyExists(TopworkError):
    code = grpc.StatusCode.ALREADY_EXISTS


class Overloaded(TopworkError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class TooLarge(TopworkError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DiskFull(TopworkError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DataLoss(TopworkError):
    code = grpc.StatusCode.DATA_LOSS


class DeadlineExceeded(TopworkError, TimeoutError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unavailable(TopworkError, ConnectionError):
    code = grpc.StatusCode.UNAVAILABLE


class Cancelled(TopworkError):
    code = grpc.StatusCode.CANCELLED


class Unsupported(TopworkError):
    code = grpc.StatusCode.UNIMPLEMENTED


class Refused(TopworkError):
    code = grpc.StatusCode.PERMISSION_DENIED


class PluginFault(TopworkError):
    code = grpc.StatusCode.INTERNAL


class ExportFailed(TopworkError):
    code = grpc.StatusCode.INTERNAL


class JobFailed(TopworkError):
    code = grpc.StatusCode.INTERNAL

    def __init__(self, job: Job) -> None:
        reason = f": {job.error}" if job.error else ""
        super().__init__(f"{job.kind} job {job.id} on {job.subject!r} {job.state}{reason}")
        self.job = job

    def __reduce__(self) -> tuple[type[JobFailed], tuple[Job]]:
        return type(self), (self.job,)
