"""A bound on the pixels that all threads together have decoded at a time: 100 bytes of WebP may hold a gigabyte of memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from topwork_server import check_caller

#: Pixels at a time: four of the largest pictures, each some 0.5 to 1 GiB while it is decoded, or 22 of 12 megapixels.
MOST = 2**28
#: Seconds after which a waiting thread asks again whether its caller is still there.
PATIENCE = 1.0


class PixelBudget:
    """Pixels that are in use. Who comes first goes first: many small pictures never keep a large one waiting."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._used = 0

    @contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """Hold so many pixels, once there is room for them. Raises where the caller leaves meanwhile."""
        with self._turn, self._changed:
            while self._used and self._used + pixels > MOST:
                check_caller()
                self._changed.wait(PATIENCE)
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()


BUDGET = PixelBudget()
