"""The disk usage of a set."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

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
                found = _bytes_below(str(self._folder))
                self._counted = time.monotonic(), found
            finally:
                self._counting.release()
        return found


def _bytes_below(folder: str) -> int:
    """Sum the files below a folder; one deleted meanwhile counts nothing."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                total += _bytes_below(entry.path) if entry.is_dir(follow_symlinks=False) else _size(entry)
    except FileNotFoundError:
        pass
    return total


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0
