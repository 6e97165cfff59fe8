"""Processes that work for this one, and end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from topwork_server.errors import Unavailable
from topwork_server.jobs.confinement import child_environment
from topwork_server.jobs.parent_watch import CONFINED


def python(module: str, memory: int = 0) -> list[str]:
    """Return the command of a module in a process that ends with this one, for `ChildProcesses.run`; with `memory`, which is in
    bytes, in one that is confined to it, and has no network. -P: what lies in the working directory must not stand for a module
    of the same name."""
    confined = [f"{CONFINED}{memory}"] if memory else []
    return [sys.executable, "-P", "-m", "topwork_server.jobs.parent_watch", *confined, module]


@dataclass(frozen=True)
class ChildExit:
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


class ChildProcesses:
    """The child processes of a server, started from any thread. Of its environment they have what `confinement` names."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._closed = False

    def run(self, command: Sequence[str], seconds: float | None = None) -> ChildExit:
        """Start a command and wait for it, so many seconds at most. Unavailable once `close` was called."""
        child, held = self._start(command)
        late = False
        try:
            with child:
                try:
                    out, err = child.communicate(timeout=seconds)
                except subprocess.TimeoutExpired:
                    late = True
                    _kill(child)
                    out, err = child.communicate()
                except BaseException:
                    _kill(child)
                    raise
        finally:
            os.close(held)
            with self._lock:
                self._running.discard(child)
        self._check()
        return ChildExit(child.returncode, out, err, late)

    def close(self) -> None:
        """Kill all, and start no more."""
        with self._lock:
            self._closed = True
            for child in self._running:
                _kill(child)

    def _start(self, command: Sequence[str]) -> tuple[subprocess.Popen[str], int]:
        """The child, and the end of its stdin that is held open while this process lives: see `parent_watch.py`."""
        pipe = subprocess.PIPE
        with self._lock:
            self._check()
            read, held = os.pipe()
            try:
                # In a session of its own, so that Ctrl-C in the server's terminal drains the server and leaves the child to it.
                child = subprocess.Popen(
                    command, stdin=read, stdout=pipe, stderr=pipe, text=True, env=child_environment(), start_new_session=True
                )
            except BaseException:
                os.close(held)
                raise
            finally:
                os.close(read)
            self._running.add(child)
        return child, held

    def _check(self) -> None:
        if self._closed:
            raise Unavailable("the server is stopping", remedy="try again when it is back")


def _kill(child: subprocess.Popen[str]) -> None:
    """Kill a child and those that it started: its group bears its number."""
    with suppress(ProcessLookupError, PermissionError):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
