"""The disk usage of a set."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from topwork_server.regular_files import bytes_below

#: Seconds for which a count is good: a set under small writes has thousands of files, and each of its writers asks.
FRESH_SECONDS = 1.0


class DiskUsage:
    """Thread-safe; one thread counts at a time, and others take what was counted before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counting = threading.Lock()
        self._counted = float("-inf"), 0

    def bytes(self) -> int:
        """Return the bytes of all versions, as they were up to a second ago."""
        when, found = self._counted
        first = found == 0
        if time.monotonic() - when > FRESH_SECONDS and self._counting.acquire(blocking=first):
            try:
                found = bytes_below(self._folder)
                self._counted = time.monotonic(), found
            finally:
                self._counting.release()
        return found
