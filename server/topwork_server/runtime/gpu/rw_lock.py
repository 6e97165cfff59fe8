"""Reader-writer lock around CUDA. While a CUDA graph is captured, no other thread of this process may call CUDA: its allocations
and copies would fail, and so would the capture (onnxruntime captures in CUDA's global mode). Callers of CUDA are readers; a
capture is the writer, and is skipped where a reader stays inside for long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CaptureLock:
    """A lock of readers and writers; writers go first, so that a capture does not wait forever."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = self._lasting_readers = 0
        self._exclusive = False
        self._waiting = 0

    @contextmanager
    def shared(self, *, lasting: bool = False) -> Iterator[None]:
        """Hold the lock as a reader; `lasting` for seconds, as opening a session takes."""
        with self._changed:
            self._changed.wait_for(lambda: not self._exclusive and not self._waiting)
            self._readers += 1
            self._lasting_readers += lasting
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._lasting_readers -= lasting
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Hold the lock as the writer; False, without the lock, while a lasting reader is inside, since others would wait
        behind."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: self._lasting_readers or not (self._exclusive or self._readers))
            self._waiting -= 1
            mine = not self._lasting_readers
            self._exclusive = self._exclusive or mine
            self._changed.notify_all()
        try:
            yield mine
        finally:
            with self._changed:
                self._exclusive = self._exclusive and not mine
                self._changed.notify_all()


#: One a process: CUDA's rule holds for all sessions and GPUs.
CAPTURE_LOCK = CaptureLock()
