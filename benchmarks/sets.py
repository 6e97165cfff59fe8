"""Writes of texts beside the encoder's ceiling, many small writers, and embeds beside a saturating search load, in one run:

    python -m benchmarks.sets [--rounds 3] [--seconds 5] [--rows 100000] [--json]

The feature cache is off, so that every text is encoded. Client, server and ceiling share this machine's cores and take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from topwork import AsyncClient, Client
from topwork_server.commands.demo import server
from topwork_server.config import default_home

from benchmarks import inputs
from benchmarks.processes import Worker
from benchmarks.serving.ceiling import ratio

ENCODER = "all-minilm-l6-v2"
TEXTS, VECTORS, SMALL = "benchmark-texts", "benchmark-vectors", "benchmark-small"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--saturate", nargs=2, metavar=("ADDRESS", "CALLERS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.saturate:
        saturate(asked.saturate[0], int(asked.saturate[1]), asked.rows)
    with server(default_home(), lambda *words: None, "--feature-cache", "0") as address, Client(address, timeout=3600) as client:
        try:
            found = {
                **texts(client, asked.rounds, asked.seconds),
                **small_writers(address, asked.seconds),
                **beside(client, address, asked),
            }
        finally:
            for name in {found.name for found in client.sets()} & {TEXTS, VECTORS, SMALL}:
                client.drop_set(name)
    if asked.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{key:>44}  {value:,.4g}" for key, value in found.items()))
    return 0


def texts(client: Client, rounds: int, seconds: float) -> dict[str, float]:
    """Texts that become stored features, a second, beside the graph in a process of its own with the best batches."""
    items = inputs.sentences()
    ids = [f"text-{i}" for i in range(len(items))]
    numerics = client.embed(ENCODER, items[:8]).numerics
    assert numerics is not None
    rates, ceilings = [], []
    for turn in range(rounds):
        with Worker("serving.ceiling", "text", f"{numerics.provider} {numerics.precision}") as ceiling:
            ceilings.append(max(ceiling.ask("best", seconds=seconds).values()))
        began = time.monotonic()
        client.write(f"{TEXTS}", encoder=ENCODER, items=[f"{turn}. {text}" for text in items], ids=ids)
        rates.append(len(items) / (time.monotonic() - began))
    began = time.monotonic()
    client.write(TEXTS, encoder=ENCODER, items=[f"{rounds - 1}. {text}" for text in items], ids=ids)
    return {
        "texts written/s": statistics.median(rates),
        "ceiling texts/s": statistics.median(ceilings),
        "written of ceiling": ratio(rates, ceilings),
        "the same texts again/s": len(items) / (time.monotonic() - began),
    }


def small_writers(address: str, seconds: float, writers: int = 32) -> dict[str, float]:
    """Writers of one vector at a time: how many writes a second, and how many share a commit."""
    times: list[float] = []

    async def all_of_them() -> int:
        async with AsyncClient(address) as client:
            await client.write(SMALL, vectors=np.ones((1, 384), np.float32), ids=["first"])
            before = (await client.set(SMALL)).version
            end = time.monotonic() + seconds

            async def one(number: int) -> None:
                count = 0
                while (began := time.monotonic()) < end:
                    await client.write(SMALL, vectors=np.ones((1, 384), np.float32), ids=[f"{number}-{count}"])
                    times.append(time.monotonic() - began)
                    count += 1

            await asyncio.gather(*(one(number) for number in range(writers)))
            return (await client.set(SMALL)).version - before

    commits = asyncio.run(all_of_them())
    return {
        f"{writers} small writers, writes/s": len(times) / seconds,
        "writes a commit": len(times) / commits,
        "small write p50 ms": float(np.percentile(times, 50)) * 1e3,
        "small write p99 ms": float(np.percentile(times, 99)) * 1e3,
    }


def beside(client: Client, address: str, asked: argparse.Namespace) -> dict[str, float]:
    """Embeds of one caller, alone and while batches of searches saturate the server."""
    data = inputs.Clustered(asked.rows)
    client.write(VECTORS, vectors=data.vectors, ids=[str(i) for i in range(asked.rows)])
    client.create_index(VECTORS)
    alone, loaded = [], []
    for _ in range(asked.rounds):
        alone.append(embeds(client, asked.seconds))
        with saturated(address, asked.rows):
            loaded.append(embeds(client, asked.seconds))
    names = ("p50 ms", "p99 ms")
    figures = {f"embed {name}, alone": statistics.median(a[i] for a in alone) for i, name in enumerate(names)}
    return figures | {f"embed {name}, beside searches": statistics.median(b[i] for b in loaded) for i, name in enumerate(names)}


def embeds(client: Client, seconds: float) -> tuple[float, float]:
    """p50 and p99 in ms of one caller who sends one text a request."""
    items = inputs.sentences()
    times: list[float] = []
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        client.embed(ENCODER, items[len(times) % len(items)])
        times.append(time.monotonic() - began)
    return float(np.percentile(times, 50)) * 1e3, float(np.percentile(times, 99)) * 1e3


@contextmanager
def saturated(address: str, rows: int, callers: int = 4) -> Iterator[None]:
    """Callers who send batch after batch of 256 searches, in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.sets", "--saturate", address, str(callers), "--rows", str(rows)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield
        finally:
            process.terminate()


def saturate(address: str, callers: int, rows: int) -> None:
    """Until it is ended. Says so when all have begun. At the lowest priority: callers elsewhere would take no core here."""
    os.nice(19)
    queries = inputs.Clustered(rows).queries[:256]
    begun = threading.Barrier(callers + 1)

    def call() -> None:
        with Client(address) as client:
            client.search(VECTORS, vectors=queries, k=10, columns=())
            begun.wait()
            while True:
                client.search(VECTORS, vectors=queries, k=10, columns=())

    for _ in range(callers):
        threading.Thread(target=call, daemon=True).start()
    begun.wait()
    print("begun", flush=True)
    signal.pause()


if __name__ == "__main__":
    sys.exit(main())
