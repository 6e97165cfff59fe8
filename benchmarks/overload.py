"""Measures what a server does with more work than it can do, and how callers share it:

    python -m benchmarks.overload [--encoder all-minilm-l6-v2] [--provider auto] [--queue 256] [--seconds 6] [--items 1] [--json]

Overload: requests of so many texts (`--items`) come at fixed rates (open loop, Poisson) of 0.5 to 10 times what 64 callers get
at most. `goodput` is what was answered with rows, beside that peak; `bound` is what the queue's places take at the rate that was
answered. The generator is this process; it shares the machine's cores with the server, so it writes bare HTTP/2 frames that were
made beforehand, and parses no rows. Shares: one caller with short texts, alone and beside others: a bulk stream, 64 callers, a
flood of twice the capacity, long texts.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from topwork.v1 import encoders_pb2 as pb
from topwork.v1 import types_pb2
from topwork_server.config import default_home

from benchmarks import inputs
from benchmarks.bare_http2 import Connection, connect
from benchmarks.measure import percentiles
from benchmarks.processes import cpu_seconds, scratch_home, server

TIMES = (0.5, 1.0, 2.0, 5.0, 10.0)
CALLERS = 64
WARM = 1.0
CODES = {-1: "reset", **{code.value[0]: code.name for code in grpc.StatusCode}}
#: Characters: of short texts and of long ones.
SHORT, LONG = 60, 600
#: Texts of a message of the bulk stream.
CHUNK = 64


@dataclass
class Tally:
    """Seconds of the answered and of the refused, between `began` and `ended`."""

    began: float
    ended: float
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    def end(self, due: float, status: int) -> None:
        code = CODES[status]
        seconds = {"OK": self.answered, "RESOURCE_EXHAUSTED": self.refused}.get(code)
        if seconds is None:
            self.failed[code] += 1
        elif self.began <= (now := time.perf_counter()) <= self.ended:
            seconds.append(now - due)

    def summary(self) -> dict[str, Any]:
        took = self.ended - self.began
        return {
            "answered_per_s": len(self.answered) / took,
            "refused_per_s": len(self.refused) / took,
            "failed": dict(self.failed),
            **percentiles(self.answered),
            **{f"refusal_{name}": value for name, value in percentiles(self.refused).items()},
        }


class Caller:
    """A connection that costs little, and requests of `items` texts each that were made beforehand."""

    def __init__(self, connection: Connection, settings: pb.EmbedSettings, texts: Sequence[str], items: int) -> None:
        self.connection, source = connection, itertools.cycle(texts)
        batches = [[types_pb2.Item(text=text) for text in itertools.islice(source, items)] for _ in texts]
        requests = [pb.EmbedRequest(settings=settings, items=batch).SerializeToString() for batch in batches]
        self._requests = itertools.cycle(requests)

    async def closed(self, callers: int, tally: Tally) -> None:
        """Callers that each wait for their row before they send again."""

        async def loop() -> None:
            while (now := time.perf_counter()) < tally.ended:
                tally.end(now, await self._one())

        await asyncio.gather(*(loop() for _ in range(callers)))

    async def opened(self, rate: float, tally: Tally) -> None:
        """Send `rate` requests a second, answered or not."""
        chance, due = random.Random(0), time.perf_counter()
        while due < tally.ended:
            await asyncio.sleep(max(0.0, min(due, tally.ended) - time.perf_counter()))
            while due <= time.perf_counter() and due < tally.ended:
                self.connection.send(next(self._requests), partial(tally.end, due))
                due += chance.expovariate(rate)
        while self.connection.open:
            await asyncio.sleep(0.01)

    def _one(self) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.connection.send(next(self._requests), future.set_result)
        return future


async def stream(address: str, settings: pb.EmbedSettings, texts: Sequence[str], tally: Tally) -> None:
    """A bulk stream that never waits for replies; each answered chunk counts as its texts."""

    async def messages() -> AsyncIterator[pb.EmbedStreamRequest]:
        yield pb.EmbedStreamRequest(settings=settings)
        source = itertools.cycle(texts)
        while time.perf_counter() < tally.ended:
            yield pb.EmbedStreamRequest(items=pb.Items(items=[types_pb2.Item(text=next(source)) for _ in range(CHUNK)]))

    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream("/topwork.v1.Encoders/EmbedStream", pb.EmbedStreamRequest.SerializeToString)
        replies = call(messages())
        async for _ in replies:
            if (now := time.perf_counter()) > tally.ended:
                replies.cancel()
                break
            if now >= tally.began:
                tally.answered += [now - tally.began] * CHUNK


class Run:
    """A server under loads."""

    def __init__(self, address: str, encoder: str, seconds: float, pid: int) -> None:
        self._address, self._encoder, self._seconds, self._pid = address, encoder, seconds, pid
        self.texts = inputs.sentences()
        self.short = [text for text in self.texts if len(text) <= SHORT]
        self.long = [(text * (1 + LONG // len(text)))[:LONG] for text in self.texts[:200]]

    def settings(self, priority: str = "PRIORITY_NORMAL") -> pb.EmbedSettings:
        return pb.EmbedSettings(encoder=self._encoder, priority=priority)

    @asynccontextmanager
    async def caller(self, texts: Sequence[str], items: int = 1, priority: str = "PRIORITY_NORMAL") -> AsyncIterator[Caller]:
        connection = await connect(self._address, "/topwork.v1.Encoders/Embed")
        yield Caller(connection, self.settings(priority), texts, items)
        connection.close()

    def tally(self) -> Tally:
        now = time.perf_counter()
        return Tally(now + WARM, now + WARM + self._seconds)

    async def overload(self, queue: int, items: int) -> dict[str, Any]:
        callers = max(8, CALLERS // items)  # more would be refused: the queue is small here
        async with self.caller(self.texts, items) as flood:
            await flood.closed(callers, self.tally())  # the encoder is loaded, and shapes are met for the first time
            await flood.closed(callers, peak := self.tally())
            capacity = peak.summary()["answered_per_s"]
            if not capacity:
                raise SystemExit(f"no request was answered within {self._seconds:g} s: ask for more --seconds")
            rows = [{"times": 0.0, **peak.summary()}]
            for times in TIMES:
                before, own = cpu_seconds([self._pid]), time.process_time()
                await flood.opened(times * capacity, tally := self.tally())
                found = {"times": times, **tally.summary()}
                found["goodput"] = found["answered_per_s"] / capacity
                answered = found["answered_per_s"]
                found["bound_ms"] = 1e3 * queue / items / answered if answered else float("nan")
                found["server_cpu_s"], found["client_cpu_s"] = cpu_seconds([self._pid]) - before, time.process_time() - own
                rows.append(found)
        return {"capacity_per_s": capacity, "items": items, "callers": callers, "rates": rows}

    async def shares(self, capacity: float) -> dict[str, Any]:
        """Measure what one caller with one short text at a time meets."""
        bulk = partial(stream, self._address, self.settings(), self.texts)
        async with (
            self.caller(self.short) as one,
            self.caller(self.short, priority="PRIORITY_HIGH") as high,
            self.caller(self.texts) as other,
            self.caller(self.long) as long,
        ):
            flood = partial(other.opened, capacity * 2)
            same = Caller(long.connection, self.settings(), self.short, 1)
            return {
                "alone": await self._beside(one),
                "beside a bulk stream": await self._beside(one, bulk),
                "beside 64 callers": await self._beside(one, partial(other.closed, CALLERS)),
                "beside a flood of 2x": await self._beside(one, flood),
                "beside 16 callers of long texts": await self._beside(one, partial(long.closed, 16)),
                "the same on their connection": await self._beside(same, partial(long.closed, 16)),
                "HIGH beside a flood of 2x": await self._beside(high, flood),
                "HIGH beside a bulk stream": await self._beside(high, bulk),
            }

    async def _beside(self, one: Caller, others: Callable[[Tally], Awaitable[None]] | None = None) -> dict[str, Any]:
        mine, theirs = self.tally(), self.tally()
        await asyncio.gather(one.closed(1, mine), *([others(theirs)] if others else []))
        return {**mine.summary(), "others_per_s": theirs.summary()["answered_per_s"]}


async def measured(asked: argparse.Namespace, address: str, pid: int) -> dict[str, Any]:
    run = Run(address, asked.encoder, asked.seconds, pid)
    found: dict[str, Any] = {"encoder": asked.encoder, "provider": asked.provider, "queue": asked.queue}
    found |= await run.overload(asked.queue, asked.items)
    if not asked.no_shares:
        found["shares"] = await run.shares(found["capacity_per_s"])
    return found


def report(found: dict[str, Any]) -> None:
    peak = f"{found['callers']} callers get {found['capacity_per_s']:.0f} requests a second, of {found['items']} texts each"
    print(f"{found['encoder']} on {found['provider']}: {peak}")
    print("   rate answered/s goodput refused/s     p50     p99   bound refusal p50     p99  ms    server, client CPU s")
    for row in found["rates"][1:]:
        print(
            f"{row['times']:6}x {row['answered_per_s']:9.0f} {row['goodput']:7.2f} {row['refused_per_s']:9.0f}"
            f" {row['p50_ms']:7.1f} {row['p99_ms']:7.1f} {row['bound_ms']:7.0f} {row['refusal_p50_ms']:11.1f}"
            f" {row['refusal_p99_ms']:7.1f} {row['server_cpu_s']:18.1f} {row['client_cpu_s']:5.1f} {row['failed'] or ''}"
        )
    if "shares" not in found:
        return
    print("\none caller with short texts        answered/s  p50 ms  p99 ms  others/s")
    for name, row in found["shares"].items():
        line = f"{name:34} {row['answered_per_s']:10.1f} {row['p50_ms']:7.1f} {row['p99_ms']:7.1f} {row['others_per_s']:9.0f}"
        print(line, row["failed"] or "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--encoder", default="all-minilm-l6-v2")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--queue", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--items", type=int, default=1, help="texts a request")
    parser.add_argument("--no-shares", action="store_true", help="overload alone")
    parser.add_argument("--home", type=Path, default=default_home())
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    flags = ("--queue", str(asked.queue), "--provider", asked.provider)
    with scratch_home(asked.home) as home, server(home, *flags) as (address, process):
        found = asyncio.run(measured(asked, address, process.pid))
    print(json.dumps(found)) if asked.json else report(found)


if __name__ == "__main__":
    main()
