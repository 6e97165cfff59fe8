"""One tree of errors; each class holds its gRPC status. `services/interceptor.py` alone turns them into replies.

TopworkError                INTERNAL
├── InvalidInput            INVALID_ARGUMENT     the request is wrong: what, where, and what to send instead
├── NotFound                NOT_FOUND            no encoder, tap, set, index or job of that name
├── NotReady                FAILED_PRECONDITION  weights are not here, or a fingerprint does not match
├── AlreadyExists            ALREADY_EXISTS       the name is taken
├── Overloaded              RESOURCE_EXHAUSTED   the queue is full: come back later
├── TooLarge                RESOURCE_EXHAUSTED   this item, or this encoder, can never fit
├── DiskFull                RESOURCE_EXHAUSTED   nothing was written; what was there is as it was
├── DataLoss                DATA_LOSS            a file on the server's disk is damaged: what it described cannot be used
├── DeadlineExceeded          DEADLINE_EXCEEDED    the caller's time ran out while its work was queued
├── Unavailable             UNAVAILABLE          draining, or a worker is being restarted
├── PluginFault             INTERNAL             a plugin returned what its contract forbids
├── ExportFailed            INTERNAL             the export process failed; its last words are in the message
└── StartError              (exit 2)             the server cannot start: plugins, configuration, port
    └── PluginError                              a misspelt hook or a clash of names
"""

from __future__ import annotations

import errno

import grpc
from topwork._display.excerpts import shortened


class TopworkError(Exception):
    """Base of all. `remedy` says what the caller can do; `item` is the position of the item that is to blame; `retry_after` is
    in how many seconds it is worth to send the request again, of which nothing was begun."""

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    retry_after: float | None = None

    def __init__(self, message: str, *, remedy: str = "", item: int | None = None) -> None:
        message = shortened(message)
        super().__init__(message)
        self.message = message
        self.remedy = shortened(remedy)
        self.item = item

    @property
    def reason(self) -> str:
        """The name of its class in the tree above; of a class below one of these, that one's."""
        return next(kind.__name__ for kind in type(self).__mro__ if kind.__module__ == __name__)

    def at(self, item: int | None) -> TopworkError:
        """The same error, said of the item at that position of the request, or of the whole request."""
        return type(self)(self.message, remedy=self.remedy, item=item)

    def __str__(self) -> str:
        place = "" if self.item is None else f"item {self.item}: "
        return f"{place}{self.message}" + (f" ({self.remedy})" if self.remedy else "")


class InvalidInput(TopworkError):
    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(TopworkError):
    code = grpc.StatusCode.NOT_FOUND


class NotReady(TopworkError):
    code = grpc.StatusCode.FAILED_PRECONDITION


class AlreadyExists(TopworkError):
    code = grpc.StatusCode.ALREADY_EXISTS


class Overloaded(TopworkError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, *, remedy: str = "", item: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, remedy=remedy, item=item)
        self.retry_after = retry_after

    def at(self, item: int | None) -> Overloaded:
        return type(self)(self.message, remedy=self.remedy, item=item, retry_after=self.retry_after)


#: What the system and native libraries say where memory, threads or file handles are at an end.
_AT_AN_END = (
    *("can't start new thread", "bad_alloc", "bad allocation", "cannot allocate memory", "failed to map segment"),
    "too many open files",
)
_ERRNO_AT_AN_END = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)


def exhausted(error: BaseException) -> Overloaded | None:
    """What an error means that arose, or has a cause that arose, since the process has no memory, thread or file handle left;
    None for all others."""
    cause: BaseException | None = error
    seen: set[int] = set()  # an error may be its own cause
    while cause is not None and id(cause) not in seen and not _is_exhaustion(cause):
        seen.add(id(cause))
        cause = cause.__cause__
    if cause is None or id(cause) in seen:
        return None
    why = str(cause) or "out of memory"
    return Overloaded(f"the server has no room left for this request: {why}", remedy="send less at once, or try again later")


def _is_exhaustion(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _ERRNO_AT_AN_END):
        return True
    words = str(error).lower() if isinstance(error, RuntimeError | OSError | ImportError) else ""
    return any(said in words for said in _AT_AN_END)


class TooLarge(TopworkError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DiskFull(TopworkError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DataLoss(TopworkError):
    code = grpc.StatusCode.DATA_LOSS


class DeadlineExceeded(TopworkError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unavailable(TopworkError):
    code = grpc.StatusCode.UNAVAILABLE


class PluginFault(TopworkError):
    code = grpc.StatusCode.INTERNAL


class ExportFailed(TopworkError):
    code = grpc.StatusCode.INTERNAL


class StartError(TopworkError):
    """Ends the process with exit status 2."""


class PluginError(StartError):
    """A plugin that cannot be used: named, with its distribution."""
