"""A bound on the end of the process: it ends in time and releases its home, even where something hangs."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress


class ShutdownWatchdog:
    """A thread that is there from the start, since later there may be no memory or thread left to make one of.

    The kernel then closes what the process held: the lock on the home is free, and children see the end of their pipes and end.
    """

    def __init__(self, end: Callable[[int], object] = os._exit) -> None:
        self._end = end
        self._changed = threading.Condition()
        self._due, self._doing, self._status = math.inf, "", 1
        threading.Thread(target=self._watch, name="end-watch", daemon=True).start()

    def within(self, seconds: float, doing: str, status: int = 1) -> None:
        """End the process with that status where it has not ended, nor this was called again, in so many seconds."""
        with self._changed:
            self._due, self._doing, self._status = time.monotonic() + seconds, doing, status
            self._changed.notify_all()

    def _watch(self) -> None:
        with self._changed:
            while (left := self._due - time.monotonic()) > 0:
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
        with suppress(BaseException):  # without memory nothing can be written, and the process ends all the same
            self._say()
        self._end(self._status)

    def _say(self) -> None:
        """Past the log, of which a thread that hangs may hold the lock."""
        hanging = ", ".join(
            sorted(f"{thread.name}{_place(thread.ident)}" for thread in threading.enumerate() if self._other(thread))
        )
        line = f"ended by force: {self._doing} took too long; threads that were left: {hanging}\n"
        os.write(2, line.encode("utf-8", "replace"))

    def _other(self, thread: threading.Thread) -> bool:
        return thread is not threading.current_thread()


def _place(thread: int | None) -> str:
    frame = sys._current_frames().get(thread or 0)
    return f" (at {os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno})" if frame else ""
