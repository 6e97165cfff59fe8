"""The threads that commit, of all sets together: a bounded pool, whatever the number of sets."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

#: Commits wait for the disk more than they compute, so that there may be more of them than cores.
MOST_THREADS = 8
#: Seconds after which a thread that has nothing to do ends.
IDLE_SECONDS = 30.0


class DaemonPool:
    """Runs turns in the order in which they come. Threads start when they are needed and end when they are idle; they are
    daemons, so that a commit that hangs does not keep the process."""

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
        """Whether a turn waits for a thread."""
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
        """The next turn; None where none came in time, and the thread is to end."""
        with self._changed:
            self._idle += 1
            came = self._changed.wait_for(lambda: bool(self._tasks), self._idle_seconds)
            self._idle -= 1
            if came:
                return self._tasks.popleft()
            self._threads -= 1
            return None
