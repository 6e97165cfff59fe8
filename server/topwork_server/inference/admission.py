"""Places in an encoder's queue: who finds none is refused at once, or waits his turn."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import TypeAlias

from topwork_server.errors import Overloaded
from topwork_server.types import Priority

#: A flow may hold so many times what it leaves free, by its priority: however much one brings, there is room for another
#: (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998).
SHARE = {Priority.LOW: 1, Priority.NORMAL: 4, Priority.HIGH: 16}
#: A waiting flow that holds nothing is let in, whatever it brings, while no more than this part is taken.
OPEN = 7 / 8


#: Who shares, and at which priority: each has a share of its own.
_Key: TypeAlias = tuple[Hashable, Priority]
_Wish: TypeAlias = tuple[int, asyncio.Future[None]]


class AdmissionController:
    """Places in an encoder's queue, in items. Flows that wait are let in by turns, each in its own order."""

    def __init__(self, places: int, name: str) -> None:
        self._places, self._name = places, name
        self._taken = 0
        self._held: Counter[_Key] = Counter()
        self._waiting: dict[_Key, deque[_Wish]] = {}

    @asynccontextmanager
    async def places(
        self, count: int, *, wait: bool, flow: Hashable = None, priority: Priority = Priority.NORMAL
    ) -> AsyncIterator[None]:
        """Overloaded at once where there is no room and the caller will not wait."""
        key = (flow, priority)
        if wait:
            await self._wait(count, key)
        elif self._fits(count, key):
            self._take(count, key)
        else:
            raise Overloaded(
                f"the queue of {self._name} is full: {self._taken} of {self._places} items are waiting",
                remedy="try again with back-off, or use a stream, which waits for room",
            )
        try:
            yield
        finally:
            self._leave(count, key)

    def _fits(self, count: int, key: _Key) -> bool:
        left = self._places - self._taken - count
        return not self._taken or (left >= 0 and self._held[key] + count <= SHARE[key[1]] * (left + 1))

    def _take(self, count: int, key: _Key) -> None:
        self._taken += count
        self._held[key] += count

    def _leave(self, count: int, key: _Key) -> None:
        self._taken -= count
        self._held[key] -= count
        if not self._held[key]:
            del self._held[key]
        self._admit()

    async def _wait(self, count: int, key: _Key) -> None:
        wish = count, asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(wish)
        self._admit()
        try:
            await wish[1]
        except asyncio.CancelledError:
            if wish[1].done() and not wish[1].cancelled():  # admitted and cancelled in one turn of the loop
                self._leave(count, key)
            else:
                self._forget(key, wish)
                self._admit()
            raise

    def _admit(self) -> None:
        """One of each flow, and again while that lets somebody in."""
        admitted = True
        while admitted and self._taken < self._places:
            admitted = False
            for key in list(self._waiting):
                wish = self._waiting[key][0]
                if self._admits(wish[0], key):
                    admitted = True
                    self._forget(key, wish)
                    if not wish[1].done():
                        self._take(wish[0], key)
                        wish[1].set_result(None)

    def _admits(self, count: int, key: _Key) -> bool:
        return self._fits(count, key) or (not self._held[key] and self._taken <= self._places * OPEN)

    def _forget(self, key: _Key, wish: _Wish) -> None:
        """Its flow goes to the end of those that wait."""
        wishes = self._waiting.pop(key, deque())
        if wish in wishes:
            wishes.remove(wish)
        if wishes:
            self._waiting[key] = wishes
