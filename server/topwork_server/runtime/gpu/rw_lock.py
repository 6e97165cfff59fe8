"""While a CUDA graph is captured, nobody else of this process may call CUDA: allocations and copies of other threads would fail
the capture, and fail themselves (onnxruntime captures in CUDA's global mode). Many pass at once; who captures passes alone, or
does without where somebody stays inside for long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CaptureLock:
    """A lock of readers and writers; writers go first, so that a capture does not wait for ever."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = self._lasting = 0
        self._alone = False
        self._waiting = 0

    @contextmanager
    def shared(self, *, lasting: bool = False) -> Iterator[None]:
        """`lasting`: for seconds, as opening a session takes."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._waiting)
            self._inside += 1
            self._lasting += lasting
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._lasting -= lasting
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """False where somebody stays inside for long: others would wait behind who waits for him."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: self._lasting or not (self._alone or self._inside))
            self._waiting -= 1
            mine = not self._lasting
            self._alone = self._alone or mine
            self._changed.notify_all()
        try:
            yield mine
        finally:
            with self._changed:
                self._alone = self._alone and not mine
                self._changed.notify_all()


#: One a process: CUDA's rule holds for all sessions and GPUs.
GATE = CaptureLock()
