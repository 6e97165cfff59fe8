"""Processes of their own that are asked one thing at a time, over lines of JSON, and end with the harness whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import psutil

#: Seconds that a process has to end by itself before it is killed.
PATIENCE = 15
_PR_SET_PDEATHSIG = 1


class WorkerError(Exception):
    """A worker died, was too slow, or said what went wrong."""


class Worker:
    """A module of this package that runs as a process: `ask` sends one question and waits for its answer."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._name = module
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.serving.{module}", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent,
            start_new_session=True,  # Ctrl-C reaches the harness alone, which ends them in order
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, question: str, patience: float = 120, **details: Any) -> Any:
        """WorkerError after `patience` seconds without an answer."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"question": question, **details}) + "\n")
            self.process.stdin.flush()
            line = self._answers.get(timeout=patience)
        except queue.Empty:
            raise WorkerError(f"{self._name}: no answer to {question} in {patience:.0f} s") from None
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self._name} ended with status {self.process.wait()} at {question}; its words are above")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self._name}, {question}: {answer['error']}")
        return answer["answer"]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        end_processes(tree([self.process.pid]))
        self.process.wait()
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def questions(lines: IO[str]) -> Iterator[dict[str, Any]]:
    """The worker's side: what is asked, until the harness closes the pipe."""
    return (json.loads(line) for line in iter(lines.readline, ""))


def answerer() -> Callable[[Any], None]:
    """The worker's side: what sends an answer. Whatever else prints to stdout goes to stderr from now on."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: Any) -> None:
        failed = isinstance(value, Exception)
        said = {"error": f"{type(value).__name__}: {value}"} if failed else {"answer": value}
        print(json.dumps(said), file=out, flush=True)

    return answer


def die_with_parent() -> None:
    """In a child before it becomes its program: SIGTERM when the harness is gone, even if it was killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def tree(pids: Sequence[int]) -> list[psutil.Process]:
    """The processes and all that they began, which still live."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    """Of the processes and all that they began, those that have ended included where their parent has waited for them."""
    total = 0.0
    for process in tree(pids):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def end_processes(living: Sequence[psutil.Process]) -> None:
    """Asked first, killed after PATIENCE; harmless to those that have ended."""
    for process in living:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _gone, stubborn = psutil.wait_procs(living, timeout=PATIENCE)
    for process in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=PATIENCE)
