"""What a server does with more than it can compute, and who waits for whom:

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
from typing import Any

import grpc
import numpy as np
import psutil
from topwork.v1 import encoders_pb2 as pb
from topwork.v1 import types_pb2
from topwork_server.commands.demo import server
from topwork_server.config import default_home

from benchmarks import inputs
from benchmarks.bare_http2 import Connection, connect

TIMES = (0.5, 1.0, 2.0, 5.0, 10.0)
CALLERS = 64
WARM = 1.0
CODES = {-1: "reset", **{code.value[0]: code.name for code in grpc.StatusCode}}
#: Characters: of short texts and of long ones.
SHORT, LONG = 60, 600


@dataclass
class Tally:
    """Seconds of the answered and of the refused, between `began` and `ended`."""

    began: float
    ended: float
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    async def call(self, send: Callable[[], Awaitable[Any]], due: float) -> None:
        try:
            await send()
            self.end("OK", due)
        except grpc.aio.AioRpcError as error:
            self.end(error.code().name, due)

    def end(self, code: str, due: float) -> None:
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
            **{f"p{q}_ms": quantile(self.answered, q) for q in (50, 99)},
            **{f"refusal_p{q}_ms": quantile(self.refused, q) for q in (50, 99)},
        }


def quantile(seconds: Sequence[float], q: int) -> float:
    return 1e3 * float(np.percentile(seconds, q)) if seconds else float("nan")


class Caller:
    """One connection, and requests that are ready to be sent."""

    def __init__(self, address: str, encoder: str, texts: Sequence[str], priority: str = "PRIORITY_NORMAL") -> None:
        # Without this, all of a process's channels to one address share a connection.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        self.channel = grpc.aio.insecure_channel(address, options)
        self._embed = self.channel.unary_unary("/topwork.v1.Encoders/Embed")
        self._settings = pb.EmbedSettings(encoder=encoder, priority=priority)
        self._requests = itertools.cycle(
            [pb.EmbedRequest(settings=self._settings, items=[types_pb2.Item(text=t)]).SerializeToString() for t in texts]
        )
        self._texts = texts

    async def one(self) -> None:
        await self._embed(next(self._requests), timeout=60)

    async def closed(self, callers: int, tally: Tally) -> None:
        async def loop() -> None:
            while (now := time.perf_counter()) < tally.ended:
                await tally.call(self.one, now)

        await asyncio.gather(*(loop() for _ in range(callers)))

    async def opened(self, rate: float, tally: Tally) -> None:
        chance, running, due = random.Random(0), set[asyncio.Task[None]](), time.perf_counter()
        while due < tally.ended:
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            running.add(task := asyncio.create_task(tally.call(self.one, due)))
            task.add_done_callback(running.discard)
            due += chance.expovariate(rate)
        await asyncio.gather(*running)

    async def stream(self, tally: Tally, chunk: int = 64) -> None:
        """A bulk stream that never waits for replies; each answered chunk counts as so many."""
        call = self.channel.stream_stream("/topwork.v1.Encoders/EmbedStream", pb.EmbedStreamRequest.SerializeToString)

        async def messages() -> AsyncIterator[pb.EmbedStreamRequest]:
            yield pb.EmbedStreamRequest(settings=self._settings)
            texts = itertools.cycle(self._texts)
            while time.perf_counter() < tally.ended:
                items = [types_pb2.Item(text=next(texts)) for _ in range(chunk)]
                yield pb.EmbedStreamRequest(items=pb.Items(items=items))

        replies = call(messages())
        async for _ in replies:
            if (now := time.perf_counter()) > tally.ended:
                replies.cancel()
                break
            if now >= tally.began:
                tally.answered += [now - tally.began] * chunk


class Flood:
    """Requests of some texts each, over a connection that costs little."""

    def __init__(self, connection: Connection, requests: Sequence[bytes]) -> None:
        self.connection, self._requests = connection, itertools.cycle(requests)

    @classmethod
    async def of(cls, address: str, encoder: str, texts: Sequence[str], items: int) -> Flood:
        settings, source = pb.EmbedSettings(encoder=encoder), itertools.cycle(texts)
        batches = [[types_pb2.Item(text=text) for text in itertools.islice(source, items)] for _ in texts]
        requests = [pb.EmbedRequest(settings=settings, items=batch).SerializeToString() for batch in batches]
        return cls(await connect(address, "/topwork.v1.Encoders/Embed"), requests)

    async def closed(self, callers: int, tally: Tally) -> None:
        async def loop() -> None:
            while (now := time.perf_counter()) < tally.ended:
                tally.end(CODES[await self._one()], now)

        await asyncio.gather(*(loop() for _ in range(callers)))

    async def opened(self, rate: float, tally: Tally) -> None:
        chance, due = random.Random(0), time.perf_counter()
        while due < tally.ended:
            await asyncio.sleep(max(0.0, min(due, tally.ended) - time.perf_counter()))
            while due <= time.perf_counter() and due < tally.ended:
                self.connection.send(next(self._requests), partial(_ended, tally, due))
                due += chance.expovariate(rate)
        while self.connection.open:
            await asyncio.sleep(0.01)

    def _one(self) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.connection.send(next(self._requests), future.set_result)
        return future


def _ended(tally: Tally, due: float, code: int) -> None:
    tally.end(CODES[code], due)


class Bench:
    def __init__(self, address: str, encoder: str, seconds: float, process: psutil.Process) -> None:
        self._address, self._encoder, self._seconds, self._process = address, encoder, seconds, process
        self.texts = inputs.sentences()
        self.short = [text for text in self.texts if len(text) <= SHORT]
        self.long = [(text * (1 + LONG // len(text)))[:LONG] for text in self.texts[:200]]

    @asynccontextmanager
    async def caller(self, texts: Sequence[str], priority: str = "PRIORITY_NORMAL") -> AsyncIterator[Caller]:
        made = Caller(self._address, self._encoder, texts, priority)
        await made.one()
        yield made
        await made.channel.close()

    def tally(self) -> Tally:
        now = time.perf_counter()
        return Tally(now + WARM, now + WARM + self._seconds)

    async def overload(self, queue: int, items: int) -> dict[str, Any]:
        flood = await Flood.of(self._address, self._encoder, self.texts, items)
        callers = max(8, CALLERS // items)  # more would be refused: the queue is small here
        await flood.closed(callers, self.tally())  # the encoder is loaded, and shapes are met for the first time
        await flood.closed(callers, peak := self.tally())
        capacity = peak.summary()["answered_per_s"]
        rows = [{"times": 0.0, **peak.summary()}]
        for times in TIMES:
            before, own = self._cpu(), time.process_time()
            await flood.opened(times * capacity, tally := self.tally())
            found = {"times": times, **tally.summary()}
            found["goodput"] = found["answered_per_s"] / capacity
            found["bound_ms"] = 1e3 * queue / items / found["answered_per_s"]
            found["server_cpu_s"], found["client_cpu_s"] = self._cpu() - before, time.process_time() - own
            rows.append(found)
        flood.connection.close()
        return {"capacity_per_s": capacity, "items": items, "callers": callers, "rates": rows}

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    async def shares(self, capacity: float) -> dict[str, Any]:
        """What one caller with one short text at a time meets."""
        found = {}
        async with self.caller(self.short) as one, self.caller(self.texts) as other, self.caller(self.long) as long:
            flood = capacity * 2
            found["alone"] = await self._beside(one)
            found["beside a bulk stream"] = await self._beside(one, other.stream)
            found["beside 64 callers"] = await self._beside(one, lambda tally: other.closed(CALLERS, tally))
            found["beside a flood of 2x"] = await self._beside(one, lambda tally: other.opened(flood, tally))
            found["beside 16 callers of long texts"] = await self._beside(one, lambda tally: long.closed(16, tally))
            both = Caller(self._address, self._encoder, [])
            both.channel, both._embed = long.channel, long._embed
            both._requests = one._requests
            found["the same on their connection"] = await self._beside(both, lambda tally: long.closed(16, tally))
            async with self.caller(self.short, "PRIORITY_HIGH") as high:
                found["HIGH beside a flood of 2x"] = await self._beside(high, lambda tally: other.opened(flood, tally))
                found["HIGH beside a bulk stream"] = await self._beside(high, other.stream)
        return found

    async def _beside(self, one: Caller, others: Callable[[Tally], Awaitable[None]] | None = None) -> dict[str, Any]:
        mine, theirs = self.tally(), self.tally()
        await asyncio.gather(one.closed(1, mine), *([others(theirs)] if others else []))
        return {**mine.summary(), "others_per_s": theirs.summary()["answered_per_s"]}


async def measure(asked: argparse.Namespace, address: str) -> dict[str, Any]:
    (process,) = [p for p in psutil.Process().children() if "serve" in p.cmdline()]
    bench = Bench(address, asked.encoder, asked.seconds, process)
    found: dict[str, Any] = {"encoder": asked.encoder, "provider": asked.provider, "queue": asked.queue}
    found |= await bench.overload(asked.queue, asked.items)
    if not asked.no_shares:
        found["shares"] = await bench.shares(found["capacity_per_s"])
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
    parser.add_argument("--home", default=str(default_home()))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    flags = ("--queue", str(asked.queue), "--provider", asked.provider)
    with server(asked.home, lambda *words: None, *flags) as address:
        found = asyncio.run(measure(asked, address))
    print(json.dumps(found)) if asked.json else report(found)


if __name__ == "__main__":
    main()
