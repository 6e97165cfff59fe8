"""Bounded pools of daemon threads: one for the commits of all sets, one that waits for the disk.

A flush costs milliseconds of waiting for any size, and flushing several files in parallel costs little more than one.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import TypeVar

from topwork_server import atomic_store

log = logging.getLogger(__name__)

#: Commits wait for the disk more than they compute, so that there may be more of them than cores.
MOST_THREADS = 8
#: Seconds after which a thread that has nothing to do ends.
IDLE_SECONDS = 30.0


class DaemonPool:
    """Threads that run turns in order. They start when they are needed and end when they are idle, and they are daemons: a commit
    that hangs does not keep the process."""

    def __init__(self, most: int = MOST_THREADS, idle_seconds: float = IDLE_SECONDS, name: str = "commits") -> None:
        self._most, self._idle_seconds, self._name = most, idle_seconds, name
        self._changed = threading.Condition()
        self._tasks: deque[Callable[[], None]] = deque()
        self._threads = self._idle = 0

    def submit(self, turn: Callable[[], None]) -> None:
        """Queue a turn, which never raises. RuntimeError where no thread is there for it, and none can be started."""
        with self._changed:
            self._tasks.append(turn)
            try:
                if len(self._tasks) > self._idle and self._threads < self._most:
                    self._start_thread()
            except RuntimeError:
                if not self._threads:
                    self._tasks.pop()
                    raise
            self._changed.notify()

    @property
    def waiting(self) -> bool:
        """Tell whether a turn waits for a thread."""
        return len(self._tasks) > self._idle

    def _start_thread(self) -> None:
        self._threads += 1
        try:
            threading.Thread(target=self._worker_loop, name=f"{self._name}-{self._threads}", daemon=True).start()
        except BaseException:
            self._threads -= 1
            raise

    def _worker_loop(self) -> None:
        while turn := self._next_task():
            try:
                turn()
            except BaseException:  # it answers for itself; this thread goes on to the others
                log.exception("a turn of commits failed")

    def _next_task(self) -> Callable[[], None] | None:
        """Wait for the next turn; None where none came in time, and the thread ends."""
        with self._changed:
            self._idle += 1
            came = self._changed.wait_for(lambda: bool(self._tasks), self._idle_seconds)
            self._idle -= 1
            if came:
                return self._tasks.popleft()
            self._threads -= 1
            return None


T = TypeVar("T")

#: For all sets together. They wait for the disk, or hash without the interpreter's lock.
_threads = DaemonPool(4, name="disk")


def sync(paths: Iterable[Path]) -> None:
    """Wait until those files or folders are on disk, and not only in the page cache."""
    run_parallel(sync_calls(paths))


def sync_calls(paths: Iterable[Path]) -> list[Callable[[], None]]:
    """Return the calls that `sync` makes."""
    return [partial(atomic_store.sync, path) for path in paths]


def run_parallel(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run independent calls in parallel and return their results; the first error is raised once all have ended. No call may
    come here itself: all threads could then wait for calls that wait for a thread."""
    futures = [Future[T]() for _ in calls]
    turns = [partial(_resolve, future, call) for future, call in zip(futures, calls, strict=True)]
    for turn in turns[1:]:
        try:
            _threads.submit(turn)
        except RuntimeError:  # no thread can be had
            turn()
    for turn in turns[:1]:
        turn()
    wait(futures)
    return [future.result() for future in futures]


def _resolve(future: Future[T], call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)
