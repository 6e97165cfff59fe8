"""The lock of one server a home: $TOPWORK_HOME/server.lock is locked for as long as its server lives, and holds its pid and
address.

The kernel lets go of the lock when the process ends, however it ends; a file that a dead server left is no obstacle.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from topwork_server.errors import StartError

NAME = "server.lock"
#: The file always has this size, so that one write replaces all of it and no reader finds half of it.
SIZE = 512
#: Seconds that a server which is about to end, or about to write its pid and address, is given.
PATIENCE = 1.0
PAUSE = 0.02

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
    """The server that has a home. `address` is empty until it listens; pid 0 where it could not say."""

    pid: int
    address: str = ""

    def __str__(self) -> str:
        listening = f" (listening on {self.address})" if self.address else ""
        return f"the server with pid {self.pid}{listening}" if self.pid else "another server"


class HomeLock:
    """`with HomeLock(home) as lock:` holds it; `lock.listening(address)` completes what others read in it. Children do not
    inherit it."""

    def __init__(self, home: Path, patience: float = PATIENCE) -> None:
        self._home = home
        self._patience = patience
        self._file = -1

    def acquire(self) -> None:
        """Take the lock. StartError names the server that has the home."""
        self._file = _open(self._home)
        deadline = time.monotonic() + self._patience
        while not _locked(self._file):
            if time.monotonic() >= deadline:
                holder = _read(self._file)
                self.release()
                raise StartError(
                    f"{self._home} is in use by {holder}", remedy="stop that server, or choose another folder with --home"
                )
            time.sleep(PAUSE)
        self._say(Holder(os.getpid()))

    def listening(self, address: str) -> None:
        self._say(Holder(os.getpid(), address))

    def release(self) -> None:
        """Safe to call again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> HomeLock:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def _say(self, holder: Holder) -> None:
        try:
            os.pwrite(self._file, json.dumps(asdict(holder)).encode().ljust(SIZE), 0)
        except OSError as error:  # the lock holds all the same
            log.warning("%s could not be written: %s", self._home / NAME, error.strerror)


def holder(home: Path) -> Holder | None:
    """The server that has the home, or None. Asking never keeps a server from starting for longer than its patience."""
    try:
        file = os.open(home / NAME, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return None if _locked(file, fcntl.LOCK_SH) else _read(file)
    finally:
        os.close(file)


def _open(home: Path) -> int:
    try:
        home.mkdir(parents=True, exist_ok=True)
        if (home / NAME).is_dir():  # damage: a lock is a file
            (home / NAME).rmdir()
        return os.open(home / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StartError(
            f"{home / NAME} cannot be written: {error.strerror}", remedy="choose another folder with --home or $TOPWORK_HOME"
        ) from error


def _locked(file: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        raise StartError(
            f"{NAME} cannot be locked: {error.strerror}", remedy="choose a folder on a local disk with --home"
        ) from error
    return True


def _read(file: int) -> Holder:
    try:
        record = json.loads(os.pread(file, SIZE, 0))
        return Holder(int(record["pid"]), str(record["address"]))
    except (ValueError, TypeError, KeyError):
        return Holder(0)
