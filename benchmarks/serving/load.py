"""The load generator: a process of its own, asynchronous, which measures one peer as its callers see it.

Run by the harness (`benchmarks/processes.py`).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import processes
from benchmarks.serving import loops, peers
from benchmarks.serving.loops import Tally
from benchmarks.serving.parts import PARTS
from benchmarks.serving.peers import Item, Peer, Rows

#: Seconds of a load before its clock starts.
WARM = 0.5


class Load:
    """One peer's callers."""

    def __init__(self, peer: Peer, items: Sequence[Item], server_pids: list[int]) -> None:
        self._peer = peer
        self._items = items
        self._pids = server_pids

    async def answer(self, asked: dict[str, Any]) -> Any:
        match asked["question"]:
            case "rows":
                rows = await self._rows(asked["count"])
                np.save(asked["path"], rows)
                return list(rows.shape)
            case "closed" | "open" | "streamed" as kind:
                return await self._measured(kind, asked)
            case other:
                raise ValueError(f"no question {other}")

    async def _rows(self, count: int) -> Rows:
        items, size = self._items[:count], 1 if self._peer.most_items == 1 else min(8, self._peer.most_items)
        return np.concatenate([await self._peer.embed(items[i : i + size]) for i in range(0, len(items), size)])

    async def _send(self, items: Sequence[Item]) -> int:
        return len(await self._peer.embed(items))

    async def _measured(self, kind: str, asked: dict[str, Any]) -> dict[str, Any]:
        warm = 0.0 if kind == "streamed" else asked.get("warm", WARM)
        began = time.perf_counter() + warm
        tally = Tally(began, began + asked["seconds"])
        clock = asyncio.create_task(self._cpu_at(began))
        if kind == "closed":
            await loops.closed(self._send, self._items, asked["callers"], asked["size"], tally)
        elif kind == "open":
            await loops.opened(self._send, self._items, asked["rate"], tally)
        else:
            await loops.streamed(self._send, self._items, asked["copies"], tally)
        server, client, seconds = self._cpu_since(await clock)
        return summary(tally) | {"server_cores": server / seconds, "client_cores": client / seconds}

    async def _cpu_at(self, moment: float) -> tuple[float, float, float]:
        await asyncio.sleep(max(0.0, moment - time.perf_counter()))
        return processes.cpu_seconds(self._pids), time.process_time(), time.perf_counter()

    def _cpu_since(self, before: tuple[float, float, float]) -> tuple[float, float, float]:
        """CPU seconds of the server and of this process, and the seconds in which they were used."""
        server, client, began = before
        return processes.cpu_seconds(self._pids) - server, time.process_time() - client, time.perf_counter() - began


def summary(tally: Tally) -> dict[str, Any]:
    """Rates in rows and items a second; milliseconds. `due_per_s`: what an open loop asked for; `late_ms`: p99 of how
    late this process itself sent."""
    elapsed = tally.ended - tally.began
    found: dict[str, Any] = {"rows_per_s": tally.rows / elapsed, "items_per_s": tally.items / elapsed}
    if tally.seconds:
        found |= {f"p{q}_ms": 1e3 * float(np.percentile(tally.seconds, q)) for q in (50, 90, 99)}
    if tally.late:
        found |= {"due_per_s": tally.due / elapsed, "late_ms": 1e3 * float(np.percentile(tally.late, 99))}
    return found | {"requests": len(tally.seconds), "errors": dict(tally.errors)}


async def main(name: str, part: str, address: str, pids: str) -> None:
    answer = processes.answerer()
    kind = peers.found()[name]
    assert issubclass(kind, Peer)
    peer = kind()
    load = Load(peer, PARTS[part].items(), [int(pid) for pid in pids.split(",") if pid])
    await peer.connect(address)
    loop = asyncio.get_running_loop()
    asked = processes.questions()
    while (question := await loop.run_in_executor(None, next, asked, None)) is not None:
        try:
            answer(await load.answer(question))
        except Exception as error:
            answer(error)
    await peer.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
