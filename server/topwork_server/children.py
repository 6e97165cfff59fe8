"""Processes that work for this one, and end with it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from topwork_server.errors import Unavailable


def python(module: str) -> list[str]:
    """-P: what lies in the working directory must not stand for a module of the same name."""
    return [sys.executable, "-P", "-m", module]


@dataclass(frozen=True)
class Ended:
    """`status` is negative where a signal ended it; `late` where that was ours, since it took too long."""

    status: int
    out: str
    err: str
    late: bool = False

    @property
    def how(self) -> str:
        if self.late:
            return "took too long"
        return f"was killed by signal {-self.status}" if self.status < 0 else f"ended with status {self.status}"


class Children:
    """From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._closed = False

    def run(self, command: Sequence[str], seconds: float | None = None) -> Ended:
        """Start it and wait, so many seconds at most. Unavailable once `close` was called, whatever it said until then."""
        child = self._start(command)
        late = False
        try:
            with child:
                try:
                    out, err = child.communicate(timeout=seconds)
                except subprocess.TimeoutExpired:
                    late = True
                    child.kill()
                    out, err = child.communicate()
                except BaseException:
                    child.kill()
                    raise
        finally:
            with self._lock:
                self._running.discard(child)
        self._check()
        return Ended(child.returncode, out, err, late)

    def close(self) -> None:
        """Kill all, and start no more."""
        with self._lock:
            self._closed = True
            for child in self._running:
                child.kill()

    def _start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        with self._lock:
            self._check()
            # In a session of its own, so that Ctrl-C in the server's terminal drains the server and leaves the child to it.
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, start_new_session=True
            )
            self._running.add(child)
        return child

    def _check(self) -> None:
        if self._closed:
            raise Unavailable("the server is stopping", remedy="try again when it is back")
