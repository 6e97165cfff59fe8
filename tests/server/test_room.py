from __future__ import annotations

import asyncio
import itertools
from collections.abc import Hashable
from contextlib import AsyncExitStack

import pytest
from topwork_server.errors import Overloaded
from topwork_server.inference.admission import AdmissionController
from topwork_server.types import Priority


class Guest:
    """Takes places until told to leave."""

    def __init__(
        self,
        room: AdmissionController,
        count: int,
        flow: Hashable = None,
        priority: Priority = Priority.NORMAL,
        *,
        wait: bool = False,
    ) -> None:
        self.inside = asyncio.Event()
        self._left = asyncio.Event()
        self.task = asyncio.create_task(self._stay(room, count, flow, priority, wait))

    async def _stay(self, room: AdmissionController, count: int, flow: Hashable, priority: Priority, wait: bool) -> None:
        async with room.places(count, wait=wait, flow=flow, priority=priority):
            self.inside.set()
            await self._left.wait()

    async def leave(self) -> None:
        self._left.set()
        await self.task


async def turns(count: int = 5) -> None:
    """Let everybody run who can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def fill(stack: AsyncExitStack, room: AdmissionController, flow: Hashable, priority: Priority = Priority.NORMAL) -> int:
    """How many single items a flow gets in."""
    for count in itertools.count():
        try:
            await stack.enter_async_context(room.places(1, wait=False, flow=flow, priority=priority))
        except Overloaded:
            return count
    raise AssertionError


def test_who_finds_no_room_is_refused_at_once_and_told_how_many_wait(runner: asyncio.Runner) -> None:
    async def go() -> None:
        room = AdmissionController(2, "letters")
        first, second = Guest(room, 1), Guest(room, 1)
        await turns()
        assert second.inside.is_set()
        with pytest.raises(Overloaded, match="letters is full: 2 of 2"):
            async with room.places(1, wait=False):
                pass
        await first.leave()
        async with room.places(1, wait=False):
            pass
        await second.leave()

    runner.run(go())


def test_what_is_larger_than_the_room_has_it_alone(runner: asyncio.Runner) -> None:
    async def go() -> None:
        room = AdmissionController(2, "letters")
        async with room.places(9, wait=False):
            with pytest.raises(Overloaded):
                async with room.places(1, wait=False, flow="other"):
                    pass

    runner.run(go())


def test_however_much_one_flow_brings_there_is_room_for_others(runner: asyncio.Runner) -> None:
    async def go() -> None:
        room = AdmissionController(100, "letters")
        async with AsyncExitStack() as stack:
            assert await fill(stack, room, "bulk") == 80
            assert await fill(stack, room, "caller") == 16
            assert await fill(stack, room, "another") == 4

    runner.run(go())


def test_a_stream_of_large_messages_leaves_room_too(runner: asyncio.Runner) -> None:
    async def go() -> None:
        room = AdmissionController(256, "letters")
        stream = [Guest(room, 64, "stream", wait=True) for _ in range(9)]
        await turns()
        assert sum(guest.inside.is_set() for guest in stream) == 3
        async with room.places(1, wait=False, flow="caller"):
            pass
        for guest in stream:
            await guest.inside.wait()
            await guest.leave()

    runner.run(go())


def test_each_priority_of_a_flow_has_a_share_of_its_own(runner: asyncio.Runner) -> None:
    async def go() -> None:
        room = AdmissionController(100, "letters")
        async with AsyncExitStack() as stack:
            assert await fill(stack, room, "one", Priority.LOW) == 50
            assert await fill(stack, room, "one", Priority.NORMAL) == 40
            assert await fill(stack, room, "one", Priority.HIGH) == 10

    runner.run(go())


def test_those_who_wait_come_in_by_turns(runner: asyncio.Runner) -> None:
    async def go() -> None:
        room = AdmissionController(10, "letters")
        full = Guest(room, 10, "full")
        await turns()
        a = [Guest(room, 4, "a", wait=True) for _ in range(3)]
        b = [Guest(room, 4, "b", wait=True) for _ in range(3)]
        await turns()
        assert not any(guest.inside.is_set() for guest in a + b)
        await full.leave()
        await turns()
        assert [guest.inside.is_set() for guest in a] == [True, False, False]
        assert [guest.inside.is_set() for guest in b] == [True, False, False]
        for guest in [*a, *b]:
            await guest.inside.wait()
            await guest.leave()

    runner.run(go())


def test_a_large_message_of_a_stream_is_not_starved_by_single_items(runner: asyncio.Runner) -> None:
    async def go() -> None:
        room = AdmissionController(16, "letters")
        singles = [Guest(room, 1, i) for i in range(16)]
        await turns()
        assert all(guest.inside.is_set() for guest in singles)
        stream = Guest(room, 12, "stream", wait=True)
        for i, guest in enumerate(singles[:2]):
            await guest.leave()
            await turns()
            singles.append(Guest(room, 1, f"new {i}"))
            await turns()
        for guest in singles[2:5]:
            await guest.leave()
        await asyncio.wait_for(stream.inside.wait(), 5)
        for guest in [stream, *singles[5:]]:
            await guest.leave()

    runner.run(go())


def test_who_waits_and_leaves_is_forgotten(runner: asyncio.Runner) -> None:
    async def go() -> None:
        room = AdmissionController(2, "letters")
        full = Guest(room, 2, "full")
        await turns()
        leaver, stayer = Guest(room, 2, "a", wait=True), Guest(room, 2, "a", wait=True)
        await turns()
        leaver.task.cancel()
        await asyncio.gather(leaver.task, return_exceptions=True)
        await full.leave()
        await asyncio.wait_for(stayer.inside.wait(), 5)
        await stayer.leave()
        async with room.places(2, wait=False):
            pass

    runner.run(go())


def test_who_is_admitted_and_cancelled_at_once_gives_its_places_back(runner: asyncio.Runner) -> None:
    async def go() -> None:
        room = AdmissionController(2, "letters")
        full = Guest(room, 2, "full")
        await turns()
        waiting = Guest(room, 2, "a", wait=True)
        await turns()
        full._left.set()
        await asyncio.sleep(0)  # full leaves, and admits it
        waiting.task.cancel()
        await asyncio.gather(full.task, waiting.task, return_exceptions=True)
        async with room.places(2, wait=False):
            pass

    runner.run(go())
