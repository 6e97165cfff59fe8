"""A peer's server as a process of its own: started, waited for, ended with all its children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from benchmarks.processes import die_with_parent

REPOSITORY = Path(__file__).parents[3]
PATIENCE = 180.0
"""Seconds for a server to answer its first request."""


class Program:
    """A command in a session of its own, so that whatever it starts ends with it. Its output goes to a file."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            command, env=os.environ | environment, cwd=REPOSITORY, stdin=subprocess.DEVNULL,
            stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=die_with_parent,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, answers: Callable[[], object]) -> None:
        """Until `answers` no longer raises OSError. RuntimeError with the end of its output where it ends before, or takes too
        long."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            try:
                answers()
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise RuntimeError(f"{self._process.args!r} did not start:\n{self._said()}")

    def stop(self) -> None:
        """Ask all of its session to end, and end what has not after ten seconds."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return

    def _said(self, most: int = 3000) -> str:
        self._output.seek(0)
        return self._output.read()[-most:].decode("utf-8", "replace")


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port
