"""Bytes of messages that are under way: how many may come in at a time, and how many may be in work.

A message cannot be measured before it is there: a gzipped one of 60 kB is 60 MiB a moment later, in gRPC's own threads. So few
are let in at a time, each counted as the largest that there may be until it has come. One that is there is counted by its bytes
until its request is answered; where they are too many it waits a moment, and is then refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from topwork_server.errors import Overloaded

#: Of one message, both ways; gRPC refuses a larger request by itself with RESOURCE_EXHAUSTED.
MAX_MESSAGE = 64 << 20
#: A message of fewer bytes is not counted: what bounds those is the number of requests.
COUNTED = 64 << 10
#: So many may come in, however many bytes are in work: small requests are answered beside large ones.
LEAST = 2
#: Seconds that a message has to come in before another takes its turn: the first of a call comes with it, a further one of a
#: stream when its caller likes.
FIRST, FURTHER = 0.1, 0.02
#: Seconds that a message waits for room before it is refused: of a single request, and of a stream, whose caller can wait.
PATIENCE, PATIENCE_OF_STREAMS = 2.0, 30.0


class MessageBudget:
    """Used on one event loop. `on_large` hears of each message that was counted and is done."""

    def __init__(self, limit: int, on_large: Callable[[int], None] = lambda size: None) -> None:
        self.limit = max(limit, MAX_MESSAGE)
        self.used = self.waiting = 0  # bytes in work, and of messages that wait for room
        self._on_large = on_large
        self._coming: OrderedDict[Hashable, float] = OrderedDict()  # by when their turn is over
        self._next_in: OrderedDict[Hashable, tuple[asyncio.Future[None], float]] = OrderedDict()
        self._for_room: OrderedDict[asyncio.Future[None], int] = OrderedDict()
        self._for_slack: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None

    async def turn(self, key: Hashable, seconds: float) -> None:
        """Wait until one more message may come in: that of `key`, until `came`."""
        if not self._next_in and self._has_turn():
            self._coming[key] = time.monotonic() + seconds
            return
        granted = asyncio.get_running_loop().create_future()
        self._next_in[key] = granted, seconds
        self._give_turns()
        try:
            await granted
        except asyncio.CancelledError:
            self._next_in.pop(key, None)
            self.came(key)
            raise

    def came(self, key: Hashable) -> None:
        """The message is there, or never will be."""
        if self._coming.pop(key, None) is not None and self._next_in:
            self._give_turns()

    async def slack(self) -> None:
        """Wait until half of the room is free: a stream that has messages in work need not read ahead."""
        while self.used > self.limit // 2:
            granted = asyncio.get_running_loop().create_future()
            self._for_slack.append(granted)
            await granted

    async def take(self, size: int, patience: float = PATIENCE) -> None:
        """Count a message until `release`. Overloaded where it finds no room in so many seconds, or too many wait already."""
        if size < COUNTED:
            return
        if not self._for_room and self._fits(size):
            self.used += size
            return
        if self.waiting + size > max(self.limit // 2, MAX_MESSAGE):
            self.refused(size)
            raise self._overloaded()
        await self._wait(size, patience)

    def release(self, size: int) -> None:
        """The counterpart of a `take` that did not raise."""
        if size < COUNTED:
            return
        self.used -= size
        self._on_large(size)
        self._give_room()
        if self._next_in:
            self._give_turns()
        if self._for_slack and self.used <= self.limit // 2:
            waiting, self._for_slack = self._for_slack, []
            for granted in waiting:
                if not granted.done():
                    granted.set_result(None)

    def refused(self, size: int) -> None:
        """A message was not taken, but it was there."""
        self._on_large(size)

    async def _wait(self, size: int, patience: float) -> None:
        granted = asyncio.get_running_loop().create_future()
        self._for_room[granted] = size
        self.waiting += size
        try:
            await asyncio.wait_for(asyncio.shield(granted), patience)
        except BaseException as error:
            if self._for_room.pop(granted, None) is None:  # granted and left in one turn of the loop
                self.release(size)
            else:
                self.waiting -= size
                self.refused(size)
                self._give_room()
            if isinstance(error, TimeoutError):
                raise self._overloaded() from None
            raise

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"messages of {self.used >> 20} MiB are in work, and {self.limit >> 20} MiB may be",
            remedy="come back later, send smaller messages, or serve with a larger --message-budget",
        )

    def _fits(self, size: int) -> bool:
        """Tell whether a message fits; one may always be in work."""
        return not self.used or self.used + size <= self.limit

    def _give_room(self) -> None:
        """Give room to those that wait, in their order."""
        while self._for_room:
            granted, size = next(iter(self._for_room.items()))
            if not self._fits(size):
                return
            del self._for_room[granted]
            self.waiting -= size
            self.used += size
            granted.set_result(None)

    def _has_turn(self) -> bool:
        return len(self._coming) < max(LEAST, (self.limit - self.used) // MAX_MESSAGE)

    def _give_turns(self) -> None:
        """Give turns to those that wait, in their order; a turn that is over counts no more."""
        now = time.monotonic()
        for key in [key for key, end in self._coming.items() if end <= now]:
            del self._coming[key]
        while self._next_in and self._has_turn():
            key, (granted, seconds) = self._next_in.popitem(last=False)
            if not granted.done():
                self._coming[key] = now + seconds
                granted.set_result(None)
        if self._timer is None and self._next_in:
            self._timer = asyncio.get_running_loop().call_later(FURTHER, self._again)

    def _again(self) -> None:
        self._timer = None
        self._give_turns()


class CountedBytes:
    """Bytes of one request, counted in the budget as they come, until `release`. Few are not counted, as of small messages."""

    def __init__(self, budget: MessageBudget) -> None:
        self._budget, self._taken = budget, list[int]()
        self.size = self._free = 0  # in all, and those that are not counted yet

    async def add(self, size: int) -> None:
        """Count so many more. Overloaded where they find no room."""
        self.size += size
        self._free += size
        if (taken := self._free) >= COUNTED:
            self._free = 0
            await self._budget.take(taken)
            self._taken.append(taken)

    def release(self) -> None:
        for size in self._taken:
            self._budget.release(size)
        self._taken.clear()
