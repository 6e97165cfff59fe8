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
        admission: AdmissionController,
        count: int,
        client: Hashable = None,
        priority: Priority = Priority.NORMAL,
        *,
        wait: bool = False,
    ) -> None:
        self.inside = asyncio.Event()
        self._left = asyncio.Event()
        self.task = asyncio.create_task(self._stay(admission, count, client, priority, wait))

    async def _stay(self, admission: AdmissionController, count: int, client: Hashable, priority: Priority, wait: bool) -> None:
        async with admission.reserve(count, wait=wait, client=client, priority=priority):
            self.inside.set()
            await self._left.wait()

    async def leave(self) -> None:
        self._left.set()
        await self.task


async def turns(count: int = 5) -> None:
    """Let every request run that can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def fill(
    stack: AsyncExitStack, admission: AdmissionController, client: Hashable, priority: Priority = Priority.NORMAL
) -> int:
    """Count the single items that a client gets in."""
    for count in itertools.count():
        try:
            await stack.enter_async_context(admission.reserve(1, wait=False, client=client, priority=priority))
        except Overloaded:
            return count
    raise AssertionError


def test_a_request_without_room_is_refused_at_once_and_told_how_many_wait(runner: asyncio.Runner) -> None:
    async def go() -> None:
        admission = AdmissionController(2, "letters")
        first, second = Guest(admission, 1), Guest(admission, 1)
        await turns()
        assert second.inside.is_set()
        with pytest.raises(Overloaded, match="letters is full: 2 of 2"):
            async with admission.reserve(1, wait=False):
                pass
        await first.leave()
        async with admission.reserve(1, wait=False):
            pass
        await second.leave()

    runner.run(go())


def test_what_is_larger_than_the_room_has_it_alone(runner: asyncio.Runner) -> None:
    async def go() -> None:
        admission = AdmissionController(2, "letters")
        async with admission.reserve(9, wait=False):
            with pytest.raises(Overloaded):
                async with admission.reserve(1, wait=False, client="other"):
                    pass

    runner.run(go())


def test_however_much_one_flow_brings_there_is_room_for_others(runner: asyncio.Runner) -> None:
    async def go() -> None:
        admission = AdmissionController(100, "letters")
        async with AsyncExitStack() as stack:
            assert await fill(stack, admission, "bulk") == 80
            assert await fill(stack, admission, "caller") == 16
            assert await fill(stack, admission, "another") == 4

    runner.run(go())


def test_a_stream_of_large_messages_leaves_room_too(runner: asyncio.Runner) -> None:
    async def go() -> None:
        admission = AdmissionController(256, "letters")
        stream = [Guest(admission, 64, "stream", wait=True) for _ in range(9)]
        await turns()
        assert sum(guest.inside.is_set() for guest in stream) == 3
        async with admission.reserve(1, wait=False, client="caller"):
            pass
        for guest in stream:
            await guest.inside.wait()
            await guest.leave()

    runner.run(go())


def test_each_priority_of_a_flow_has_a_share_of_its_own(runner: asyncio.Runner) -> None:
    async def go() -> None:
        admission = AdmissionController(100, "letters")
        async with AsyncExitStack() as stack:
            assert await fill(stack, admission, "one", Priority.LOW) == 50
            assert await fill(stack, admission, "one", Priority.NORMAL) == 40
            assert await fill(stack, admission, "one", Priority.HIGH) == 10

    runner.run(go())


def test_requests_that_wait_come_in_by_turns(runner: asyncio.Runner) -> None:
    async def go() -> None:
        admission = AdmissionController(10, "letters")
        full = Guest(admission, 10, "full")
        await turns()
        a = [Guest(admission, 4, "a", wait=True) for _ in range(3)]
        b = [Guest(admission, 4, "b", wait=True) for _ in range(3)]
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
        admission = AdmissionController(16, "letters")
        singles = [Guest(admission, 1, i) for i in range(16)]
        await turns()
        assert all(guest.inside.is_set() for guest in singles)
        stream = Guest(admission, 12, "stream", wait=True)
        for i, guest in enumerate(singles[:2]):
            await guest.leave()
            await turns()
            singles.append(Guest(admission, 1, f"new {i}"))
            await turns()
        for guest in singles[2:5]:
            await guest.leave()
        await asyncio.wait_for(stream.inside.wait(), 5)
        for guest in [stream, *singles[5:]]:
            await guest.leave()

    runner.run(go())


def test_a_request_that_waits_and_leaves_is_forgotten(runner: asyncio.Runner) -> None:
    async def go() -> None:
        admission = AdmissionController(2, "letters")
        full = Guest(admission, 2, "full")
        await turns()
        leaver, stayer = Guest(admission, 2, "a", wait=True), Guest(admission, 2, "a", wait=True)
        await turns()
        leaver.task.cancel()
        await asyncio.gather(leaver.task, return_exceptions=True)
        await full.leave()
        await asyncio.wait_for(stayer.inside.wait(), 5)
        await stayer.leave()
        async with admission.reserve(2, wait=False):
            pass

    runner.run(go())


def test_a_request_admitted_and_cancelled_at_once_gives_its_places_back(runner: asyncio.Runner) -> None:
    async def go() -> None:
        admission = AdmissionController(2, "letters")
        full = Guest(admission, 2, "full")
        await turns()
        waiting = Guest(admission, 2, "a", wait=True)
        await turns()
        full._left.set()
        await asyncio.sleep(0)  # full leaves, and admits it
        waiting.task.cancel()
        await asyncio.gather(full.task, waiting.task, return_exceptions=True)
        async with admission.reserve(2, wait=False):
            pass

    runner.run(go())
