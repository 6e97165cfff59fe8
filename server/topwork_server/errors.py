"""The errors of the server: the client's tree (see `topwork.errors`, which draws it), and those that end its own process.

Each class holds its gRPC status. `services/interceptor.py` alone turns an error into a reply.

TopworkError
└── StartError              (exit 2)             the server cannot start: plugins, configuration, port
    └── PluginError                              a misspelled hook or a clash of names
"""

from __future__ import annotations

import errno

from topwork.errors import (
    AlreadyExists,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    DiskFull,
    ExportFailed,
    InvalidInput,
    NotFound,
    NotReady,
    Overloaded,
    PluginFault,
    Refused,
    TooLarge,
    TopworkError,
    Unavailable,
    Unsupported,
)

__all__ = [
    "AlreadyExists",
    "Cancelled",
    "DataLoss",
    "DeadlineExceeded",
    "DiskFull",
    "ExportFailed",
    "InvalidInput",
    "NotFound",
    "NotReady",
    "Overloaded",
    "PluginError",
    "PluginFault",
    "Refused",
    "StartError",
    "TooLarge",
    "TopworkError",
    "Unavailable",
    "Unsupported",
    "exhausted",
]


class StartError(TopworkError):
    """Ends the process with exit status 2."""

    exit_status = 2


class PluginError(StartError):
    """A plugin that cannot be used: named, with its distribution."""


#: Messages of the system and of native libraries where memory, threads or file handles are at an end.
_AT_AN_END = (
    *("can't start new thread", "bad_alloc", "bad allocation", "cannot allocate memory", "failed to map segment"),
    "too many open files",
)
_ERRNO_AT_AN_END = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)


def exhausted(error: BaseException) -> Overloaded | None:
    """Return Overloaded for an error that arose, or has a cause that arose, since the process has no memory, thread or file
    handle left; None for all others."""
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
    if isinstance(error, TopworkError):  # some are an OSError too
        return False
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _ERRNO_AT_AN_END):
        return True
    text = str(error).lower() if isinstance(error, RuntimeError | OSError | ImportError) else ""
    return any(words in text for words in _AT_AN_END)
