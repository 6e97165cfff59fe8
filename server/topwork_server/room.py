"""Places in an encoder's queue: who finds none is refused at once, or waits his turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from topwork_server.errors import Overloaded


class Room:
    """Places in an encoder's queue, in items. Who waits is served in order."""

    def __init__(self, places: int, name: str) -> None:
        self._places, self._name = places, name
        self._taken = 0
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def places(self, count: int, *, wait: bool) -> AsyncIterator[None]:
        """Overloaded at once where there is no room and the caller will not wait."""
        if wait:
            await self._wait(count)
        elif not self._free(count):
            raise Overloaded(
                f"the queue of {self._name} is full: {self._taken} of {self._places} items are waiting",
                remedy="try again with back-off, or use a stream, which waits for room",
            )
        else:
            self._taken += count
        try:
            yield
        finally:
            self._taken -= count
            self._admit()

    def _free(self, count: int) -> bool:
        return not self._line and (self._taken == 0 or self._taken + count <= self._places)

    async def _wait(self, count: int) -> None:
        if self._free(count):
            self._taken += count
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((count, admitted))
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():  # admitted and cancelled in one turn of the loop
                self._taken -= count
            self._line = deque(entry for entry in self._line if entry[1] is not admitted)
            self._admit()
            raise

    def _admit(self) -> None:
        while self._line and (self._taken == 0 or self._taken + self._line[0][0] <= self._places):
            count, admitted = self._line.popleft()
            if not admitted.done():
                self._taken += count
                admitted.set_result(None)
