"""Processes that a benchmark starts: servers, and workers that are asked over lines of JSON. All end with the benchmark, however
it ends.

`questions` and `answerer` are a worker's side and need the standard library alone."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

ROOT = Path(__file__).parents[1]
#: Seconds that a process has to end by itself before it is killed.
PATIENCE = 15
_PR_SET_PDEATHSIG = 1


class WorkerError(Exception):
    """A worker ended, was too slow, or reported an error."""


class Worker:
    """A module of the benchmarks that runs as a process: `ask` sends one question and waits for its answer."""

    def __init__(self, module: str, *arguments: str, python: str = sys.executable) -> None:
        self._name = module
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.process = start([python, "-m", f"benchmarks.{module}", *arguments], stdin=subprocess.PIPE)
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
            raise WorkerError(f"{self._name} ended with status {self.process.wait()} at {question}; its output is above")
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


def questions() -> Iterator[dict[str, Any]]:
    """The worker's side: what is asked, until the harness closes the pipe."""
    return (json.loads(line) for line in iter(sys.stdin.readline, ""))


def answerer() -> Callable[[Any], None]:
    """The worker's side: what sends an answer or an exception. All else that is printed to stdout goes to stderr from now on."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: Any) -> None:
        failed = isinstance(value, Exception)
        line = {"error": f"{type(value).__name__}: {value}"} if failed else {"answer": value}
        print(json.dumps(line), file=out, flush=True)

    return answer


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """A process in the repository's root and in a session of its own, so that Ctrl-C reaches the harness alone."""
    settings = {"stdout": subprocess.PIPE, "text": True, "cwd": ROOT, **options}
    return subprocess.Popen(command, preexec_fn=die_with_parent, start_new_session=True, **settings)


def start_server(home: Path, *flags: str, command: Sequence[str] = ()) -> tuple[subprocess.Popen[str], str]:
    """Start `topwork serve` on a free port; return it and its address. RuntimeError where it does not start."""
    serve = ["serve", "--json", "--listen", "127.0.0.1:0", "--http", "off", "--home", str(home), "--log-level", "warning", *flags]
    process = start([*(command or (sys.executable, "-m", "topwork.cli")), *serve])
    assert process.stdout is not None
    line = process.stdout.readline()
    started = json.loads(line) if line else {"message": "it ended without output"}
    if "address" not in started:
        process.wait()
        raise RuntimeError(f"topwork serve: {started['message']} {started.get('remedy', '')}")
    return process, started["address"]


@contextmanager
def server(home: Path, *flags: str, command: Sequence[str] = ()) -> Iterator[tuple[str, psutil.Process]]:
    """A server that runs until the block ends: its address and process."""
    import psutil

    process, address = start_server(home, *flags, command=command)
    try:
        yield address, psutil.Process(process.pid)
    finally:
        end_processes(tree([process.pid]))
        process.wait()


@contextmanager
def scratch_home(home: Path) -> Iterator[Path]:
    """An empty home with the encoders of `home`, so that a server may run beside another and leaves nothing behind."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("artifacts", "packages", "encoders"):
            if (home / name).exists():
                (Path(folder) / name).symlink_to((home / name).resolve())
        yield Path(folder)


def die_with_parent() -> None:
    """Ask for a signal in a child before it becomes its program: SIGTERM when the harness is gone, even if it was killed
    (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def tree(pids: Sequence[int]) -> list[psutil.Process]:
    """The processes and all their descendants that still live."""
    import psutil

    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU seconds of the processes and their descendants; of ended ones too where their parent has waited for them."""
    import psutil

    total = 0.0
    for process in tree(pids):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def end_processes(living: Sequence[psutil.Process]) -> None:
    """Terminate, and kill after PATIENCE; harmless to those that have ended."""
    import psutil

    for process in living:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _gone, stubborn = psutil.wait_procs(living, timeout=PATIENCE)
    for process in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=PATIENCE)
