"""One job's process, seen from the server: its order goes in, progress and an outcome come out; it can be stopped.

The child (`jobs.worker`) reads one JSON line from its stdin, which then stays open for as long as the server lives, and writes
JSON lines to its stdout: {"fraction", "message"} as it goes on, then {"result"} or {"error"}.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Any, TypeAlias

from topwork_server.blocking_calls import Report
from topwork_server.jobs.confinement import child_environment

Process: TypeAlias = "Popen[bytes]"

#: Seconds that a process is given to end by itself after SIGTERM.
GRACE = 3.0
#: Seconds that pipes are given to run dry after their process has ended: a grandchild may hold them.
LAST_WORDS = 1.0
LONGEST_LINE = 16 << 20
TAIL = 8192


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """The end of a job: `result` where it was done, else `error`. `stderr_tail` is the end of its stderr."""

    result: Mapping[str, Any] | None
    error: str = ""
    stderr_tail: str = ""


class JobProcess:
    """function(arguments, report) in a process of its own, at lower priority. `run` never raises for what the child does.

    The child's temporary files lie in `scratch`, which goes when it has ended, however it did.
    """

    def __init__(self, call: str, arguments: Mapping[str, Any], threads: int, report: Report, scratch: Path) -> None:
        order = {"call": call, "arguments": dict(arguments), "path": sys.path}
        self._order = json.dumps(order).encode() + b"\n"
        self._scratch = scratch
        self._environment = {**child_environment(), "OMP_NUM_THREADS": str(threads), "TMPDIR": str(scratch)}
        self._report = report
        self._answer: dict[str, Any] = {}
        self._tail = b""
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to the process and those that it started; `run` then returns."""
        self._stopping.set()

    async def run(self) -> JobOutcome:
        # -P: what lies in the server's working directory must not stand for a module of the same name.
        command = [sys.executable, "-P", "-m", "topwork_server.jobs.worker"]
        try:
            await asyncio.to_thread(self._scratch.mkdir, parents=True, exist_ok=True)
            # Not asyncio's: on uvloop it forks, of which gRPC and Lance complain. This starts the child without.
            process = await asyncio.to_thread(
                Popen, command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=self._environment, start_new_session=True
            )
        except OSError as error:
            return JobOutcome(None, f"its process could not be started: {error.strerror}")
        try:
            return await self._attend(process)
        finally:
            await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)

    async def _attend(self, process: Process) -> JobOutcome:
        stopper = asyncio.create_task(self._stop_when_asked(process))
        talks = [asyncio.create_task(talk(process)) for talk in (self._hand_over, self._listen, self._overhear)]
        await _gone(process)
        _signal_all(process, signal.SIGKILL)  # what it started and left behind
        await asyncio.wait(talks, timeout=LAST_WORDS)
        for task in (stopper, *talks):
            task.cancel()
        await asyncio.gather(stopper, *talks, return_exceptions=True)
        assert process.stdin is not None
        with suppress(OSError):  # what a child that died at once never read
            process.stdin.close()
        return self._outcome(process.wait())

    def _outcome(self, status: int | None) -> JobOutcome:
        stderr_tail = self._tail.decode("utf-8", "replace").strip()
        if "result" in self._answer:
            return JobOutcome(self._answer["result"], stderr_tail=stderr_tail)
        return JobOutcome(None, self._answer.get("error") or _death(status, stderr_tail), stderr_tail)

    async def _stop_when_asked(self, process: Process) -> None:
        await self._stopping.wait()
        _signal_all(process, signal.SIGTERM)
        await asyncio.sleep(GRACE)
        _signal_all(process, signal.SIGKILL)

    async def _hand_over(self, process: Process) -> None:
        """Write the order to the child's stdin, which stays open: its end tells the child that the server died."""
        assert process.stdin is not None
        with suppress(OSError):  # a child that died at once
            await asyncio.to_thread(_write, process.stdin, self._order)

    async def _listen(self, process: Process) -> None:
        async with _reading(process.stdout) as reader:
            async for line in reader:
                message = json.loads(line)
                if "fraction" in message:
                    self._report(message["fraction"], message["message"])
                else:
                    self._answer = message

    async def _overhear(self, process: Process) -> None:
        async with _reading(process.stderr) as reader:
            while part := await reader.read(1 << 16):
                self._tail = (self._tail + part)[-TAIL:]


def _write(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(data)
    pipe.flush()


@asynccontextmanager
async def _reading(pipe: IO[bytes] | None) -> AsyncIterator[asyncio.StreamReader]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(LONGEST_LINE, loop)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), pipe)
    try:
        yield reader
    finally:
        transport.close()


async def _gone(process: Process) -> None:
    """Wait until it has ended; its number stays its own, for those of its group are still to be signaled."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def watch() -> None:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=watch, daemon=True).start()
    await ended.wait()


def _signal_all(process: Process, number: signal.Signals) -> None:
    """Signal the process and those that it started; its group bears its number for as long as one of them lives."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _death(status: int | None, stderr_tail: str) -> str:
    """Describe how a process ended that gave no reason, with the last line of its stderr."""
    last = stderr_tail.rpartition("\n")[2]
    words = f": {last}" if last else ""
    if status is None or status >= 0:
        return f"its process ended with status {status}{words}"
    name = signal.Signals(-status).name
    starved = "; the machine may have run out of memory" if name == "SIGKILL" else ""
    return f"its process was killed by signal {-status} ({name}){starved}{words}"
