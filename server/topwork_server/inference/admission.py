"""Admission to an encoder's queue: a request that finds no room is refused at once, or waits its turn."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import TypeAlias

from topwork_server.errors import Overloaded
from topwork_server.types import Priority

#: A client may hold so many times what it leaves free, by its priority: however much one brings, there is room for another
#: (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998).
SHARE = {Priority.LOW: 1, Priority.NORMAL: 4, Priority.HIGH: 16}
#: A waiting client that holds nothing is admitted, however much it brings, while no more than this part is taken.
OPEN_SHARE = 7 / 8


#: Client and priority: each pair has a share of its own.
_Key: TypeAlias = tuple[Hashable, Priority]
_Waiter: TypeAlias = tuple[int, asyncio.Future[None]]


class AdmissionController:
    """Bounds the items in an encoder's queue. Clients that wait are admitted by turns, each in its own order."""

    def __init__(self, places: int, name: str) -> None:
        self._places, self._name = places, name
        self.taken = 0  # places that are held now
        self._held: Counter[_Key] = Counter()
        self._waiting: dict[_Key, deque[_Waiter]] = {}

    @asynccontextmanager
    async def reserve(
        self, count: int, *, wait: bool, client: Hashable = None, priority: Priority = Priority.NORMAL
    ) -> AsyncIterator[None]:
        """Hold places for `count` items. Overloaded at once where there is no room and the caller will not wait."""
        key = (client, priority)
        if wait:
            await self._wait_for_room(count, key)
        elif self._fits(count, key):
            self._grant(count, key)
        else:
            raise Overloaded(
                f"the queue of {self._name} is full: {self.taken} of {self._places} items are waiting",
                remedy="try again with back-off, or use a stream, which waits for room",
            )
        try:
            yield
        finally:
            self._release(count, key)

    def _fits(self, count: int, key: _Key) -> bool:
        left = self._places - self.taken - count
        return not self.taken or (left >= 0 and self._held[key] + count <= SHARE[key[1]] * (left + 1))

    def _grant(self, count: int, key: _Key) -> None:
        self.taken += count
        self._held[key] += count

    def _release(self, count: int, key: _Key) -> None:
        self.taken -= count
        self._held[key] -= count
        if not self._held[key]:
            del self._held[key]
        self._admit_waiting()

    async def _wait_for_room(self, count: int, key: _Key) -> None:
        waiter = count, asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(waiter)
        self._admit_waiting()
        try:
            await waiter[1]
        except asyncio.CancelledError:
            if waiter[1].done() and not waiter[1].cancelled():  # admitted and cancelled in one turn of the loop
                self._release(count, key)
            else:
                self._dequeue(key, waiter)
                self._admit_waiting()
            raise

    def _admit_waiting(self) -> None:
        """Admit one request of each client, and repeat while any is admitted."""
        admitted = True
        while admitted and self.taken < self._places:
            admitted = False
            for key in list(self._waiting):
                waiter = self._waiting[key][0]
                if self._may_enter(waiter[0], key):
                    admitted = True
                    self._dequeue(key, waiter)
                    if not waiter[1].done():
                        self._grant(waiter[0], key)
                        waiter[1].set_result(None)

    def _may_enter(self, count: int, key: _Key) -> bool:
        return self._fits(count, key) or (not self._held[key] and self.taken <= self._places * OPEN_SHARE)

    def _dequeue(self, key: _Key, waiter: _Waiter) -> None:
        """Remove a waiter; its client goes to the end of the turns."""
        waiters = self._waiting.pop(key, deque())
        if waiter in waiters:
            waiters.remove(waiter)
        if waiters:
            self._waiting[key] = waiters
