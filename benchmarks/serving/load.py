"""The load generator: a process of its own, asynchronous, which measures one peer as its callers see it. Callers wait for their
row before they send the next item, or requests come at a fixed rate, or all items are streamed.

Run by the harness (`benchmarks/processes.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.measure import percentiles
from benchmarks.processes import answerer, cpu_seconds, questions
from benchmarks.serving import peers
from benchmarks.serving.parts import PARTS
from benchmarks.serving.peers import Item, Peer, Rows

Send = Callable[[Sequence[Item]], Awaitable[int]]
"""One request; the number of its rows."""

#: Seconds of a load before its clock starts.
WARM = 0.5
#: Seconds that the last requests of an open loop may take after the clock has stopped, before they are given up.
STRAGGLERS = 1.0


@dataclass
class Tally:
    """The count of what was answered between `began` and `ended` (perf_counter seconds)."""

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

    def summary(self) -> dict[str, Any]:
        """Rates in rows and items a second; milliseconds. `due_per_s`: what an open loop asked for; `late_ms`: p99 of how
        late this process itself sent."""
        elapsed = self.ended - self.began
        found: dict[str, Any] = {"rows_per_s": self.rows / elapsed, "items_per_s": self.items / elapsed}
        if self.seconds:
            found |= percentiles(self.seconds, (50, 90, 99))
        if self.late:
            found |= {"due_per_s": self.due / elapsed, "late_ms": percentiles(self.late)["p99_ms"]}
        return found | {"requests": len(self.seconds), "errors": dict(self.errors)}


async def closed(send: Send, items: Sequence[Item], callers: int, size: int, tally: Tally) -> None:
    """Run a closed loop until `tally.ended`: every caller sends `size` items, waits for their rows, and sends the next."""
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
    """Run an open loop until `tally.ended`: single items come as a Poisson process, also while those before wait. Latency
    counts from the moment that a request was due."""
    chance, running = random.Random(0), set[asyncio.Task[None]]()
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


class Load:
    """The callers of one peer."""

    def __init__(self, peer: Peer, items: Sequence[Item], server_pids: list[int]) -> None:
        self._peer = peer
        self._items = items
        self._pids = server_pids

    async def answer(self, question: str, details: dict[str, Any]) -> Any:
        if question != "rows":
            return await self._measured(question, **details)
        rows = await self._rows(details["count"])
        np.save(details["path"], rows)
        return list(rows.shape)

    async def _rows(self, count: int) -> Rows:
        items, size = self._items[:count], min(8, self._peer.most_items)
        return np.concatenate([await self._peer.embed(items[i : i + size]) for i in range(0, len(items), size)])

    async def _send(self, items: Sequence[Item]) -> int:
        return len(await self._peer.embed(items))

    async def _measured(self, kind: str, seconds: float, **how: Any) -> dict[str, Any]:
        began = time.perf_counter() + (0.0 if kind == "streamed" else WARM)
        tally = Tally(began, began + seconds)
        clock = asyncio.create_task(self._cpu_at(began))
        load: Any = {"closed": closed, "open": opened, "streamed": streamed}[kind]
        await load(self._send, self._items, **how, tally=tally)
        server, client, started = await clock
        elapsed = time.perf_counter() - started
        cores = {"server_cores": cpu_seconds(self._pids) - server, "client_cores": time.process_time() - client}
        return tally.summary() | {name: spent / elapsed for name, spent in cores.items()}

    async def _cpu_at(self, moment: float) -> tuple[float, float, float]:
        """CPU seconds of the server and of this process at that moment, and the moment."""
        await asyncio.sleep(max(0.0, moment - time.perf_counter()))
        return cpu_seconds(self._pids), time.process_time(), time.perf_counter()


async def main(name: str, part: str, address: str, pids: str) -> None:
    answer = answerer()
    kind = peers.found()[name]
    assert issubclass(kind, Peer)
    peer = kind()
    load = Load(peer, PARTS[part].items(), [int(pid) for pid in pids.split(",") if pid])
    await peer.connect(address)
    loop = asyncio.get_running_loop()
    asked = questions()
    while (details := await loop.run_in_executor(None, next, asked, None)) is not None:
        try:
            answer(await load.answer(details.pop("question"), details))
        except Exception as error:
            answer(error)
    await peer.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
