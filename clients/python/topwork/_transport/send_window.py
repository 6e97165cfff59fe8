"""How much of a write is on its way at a time: as fast as the server is, so that acknowledgements come every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds of the server's work in a chunk, and in all that is on its way.
CHUNK, AHEAD = 3.0, 20.0
#: Items of the smallest chunk; chunks on their way before the first answer has come.
FEWEST, FIRST = 4, 4


class SendWindow:
    """`items` are those of the largest chunk. On the thread that reads answers, but for `limit` and `window`."""

    def __init__(self, items: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._items, self._clock = items, clock
        self._seconds: float | None = None  # of one item, smoothed
        self._since: float | None = None

    def sent(self) -> None:
        """A chunk goes out. Time in which none is on its way is not the server's."""
        if self._since is None:
            self._since = self._clock()

    def answered(self, items: int, *, idle: bool) -> None:
        """A chunk of so many items was answered; `idle`: no other is on its way."""
        now = self._clock()
        if self._since is not None and items:
            each = (now - self._since) / items
            self._seconds = each if self._seconds is None else (self._seconds + each) / 2
        self._since = None if idle else now

    def limit(self) -> int:
        """Items of the next chunk."""
        if not self._seconds:
            return self._items
        return max(FEWEST, min(self._items, int(CHUNK / self._seconds)))

    def window(self, most: int) -> int:
        """Chunks that may be on their way."""
        if self._seconds is None:
            return min(most, FIRST)
        return max(2, min(most, int(AHEAD / max(self._seconds * self.limit(), 1e-9))))
