"""Loads: callers who wait for their row before they send the next item, and requests that come at a fixed rate."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.serving.peers import Item

Send = Callable[[Sequence[Item]], Awaitable[int]]
"""One request; the number of its rows."""

#: Seconds that the last requests of an open loop may take after the clock has stopped, before they are given up.
STRAGGLERS = 1.0


@dataclass
class Tally:
    """What was answered between `began` and `ended` (perf_counter seconds)."""

    began: float = 0.0
    ended: float = 0.0
    rows: float = 0.0
    items: float = 0.0
    due: int = 0
    seconds: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def answered(self, sent: float, rows: int, items: int, whole: bool = False) -> None:
        """A request counts by the share of its time that lies between `began` and `ended`, or else large ones that come
        together would count too much or too little; `whole`: it counts if its answer came within, as its latency does."""
        now = time.perf_counter()
        within = self.began <= now <= self.ended
        share = float(within) if whole else max(0.0, min(now, self.ended) - max(sent, self.began)) / (now - sent)
        self.rows += rows * share
        self.items += items * share
        if within:
            self.seconds.append(now - sent)

    def failed(self, error: Exception) -> None:
        if self.began <= time.perf_counter() <= self.ended:
            self.errors[type(error).__name__] += 1


async def closed(send: Send, items: Sequence[Item], callers: int, size: int, tally: Tally) -> None:
    """Until `tally.ended`: every caller sends `size` items, waits for their rows, and sends the next."""
    start = itertools.count(0, size)

    async def call() -> None:
        while (sent := time.perf_counter()) < tally.ended:
            first = next(start)
            chosen = [items[(first + i) % len(items)] for i in range(size)]
            try:
                tally.answered(sent, await send(chosen), size)
            except Exception as error:
                tally.failed(error)
                await asyncio.sleep(0.01)  # a server that is gone must not be asked in a tight loop

    await asyncio.gather(*(call() for _ in range(callers)))


async def opened(send: Send, items: Sequence[Item], rate: float, tally: Tally) -> None:
    """Until `tally.ended`: single items come as a Poisson process, whatever becomes of those before. Latency counts from the
    moment that a request was due."""
    chance, running = random.Random(0), set()
    turn = itertools.cycle(items)

    async def call(due: float, item: Item) -> None:
        tally.late.append(time.perf_counter() - due)
        try:
            tally.answered(due, await send([item]), 1, whole=True)
        except Exception as error:
            tally.failed(error)

    due = time.perf_counter()
    while due < tally.ended:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tally.due += due >= tally.began
        running.add(task := asyncio.create_task(call(due, next(turn))))
        task.add_done_callback(running.discard)
        due += chance.expovariate(rate)
    await give_up(running)


async def give_up(running: set[asyncio.Task[None]]) -> None:
    if running:
        _done, late = await asyncio.wait(running, timeout=STRAGGLERS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


async def streamed(send: Send, items: Sequence[Item], copies: int, tally: Tally) -> None:
    """Whole calls of all items, one after another, until `tally.ended`; the clock stops with the last of them."""
    everything = list(items) * copies
    stop, tally.ended = tally.ended, float("inf")
    while True:
        sent = time.perf_counter()
        tally.answered(sent, await send(everything), len(everything))
        if time.perf_counter() >= stop:
            break
    tally.ended = time.perf_counter()
