"""Writes of texts beside the encoder's ceiling, many small writers, and embeds beside a saturating search load, in one run:

    python -m benchmarks.sets [--rounds 3] [--seconds 5] [--rows 100000] [--json]

The feature cache is off, so that every text is encoded. Client, server and ceiling share this machine's cores and take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import numpy as np
from topwork import AsyncClient, Client
from topwork_server.config import default_home

from benchmarks import inputs
from benchmarks.measure import Figures, concurrent_loop, loop, median_ratio, medians, show
from benchmarks.processes import Worker, end_processes, scratch_home, server, start, tree

ENCODER = "all-minilm-l6-v2"
TEXTS, VECTORS, SMALL = "benchmark-texts", "benchmark-vectors", "benchmark-small"
WRITERS = 32


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
    with (
        scratch_home(default_home()) as home,
        server(home, "--feature-cache", "0") as (address, _),
        Client(address, timeout=3600) as client,
    ):
        found = texts(client, asked.rounds, asked.seconds) | small_writers(address, asked.seconds)
        show(found | beside(client, address, asked), asked.json)
    return 0


def texts(client: Client, rounds: int, seconds: float) -> Figures:
    """Texts that become stored features, a second, beside the graph in a process of its own with the best batches."""
    items = inputs.sentences()
    ids = [f"text-{i}" for i in range(len(items))]
    numerics = client.embed(ENCODER, items[:8]).numerics
    assert numerics is not None

    def written_per_s(turn: int) -> float:
        began = time.monotonic()
        client.write(TEXTS, encoder=ENCODER, items=[f"{turn}. {text}" for text in items], ids=ids)
        return len(items) / (time.monotonic() - began)

    rates, ceilings = [], []
    for turn in range(rounds):
        with Worker("serving.ceiling", "text", f"{numerics.provider} {numerics.precision}") as ceiling:
            ceilings.append(max(ceiling.ask("best", seconds=seconds).values()))
        rates.append(written_per_s(turn))
    return {
        "texts written/s": median(rates),
        "ceiling texts/s": median(ceilings),
        "written of ceiling": median_ratio(rates, ceilings),
        "the same texts again/s": written_per_s(rounds - 1),
    }


def small_writers(address: str, seconds: float) -> Figures:
    """Writers of one vector at a time: how many writes a second, and how many share a commit."""
    vector = np.ones((1, 384), np.float32)

    async def measured() -> tuple[Figures, int]:
        async with AsyncClient(address) as client:
            await client.write(SMALL, vectors=vector, ids=["first"])
            before = (await client.set(SMALL)).version
            found = await concurrent_loop(lambda i: client.write(SMALL, vectors=vector, ids=[str(i)]), WRITERS, seconds)
            info = await client.set(SMALL)
            return found | {"writes": info.items - 1}, info.version - before

    found, commits = asyncio.run(measured())
    return {
        f"{WRITERS} small writers, writes/s": found["per_s"],
        "writes a commit": found["writes"] / commits,
        "small write p50 ms": found["p50_ms"],
        "small write p99 ms": found["p99_ms"],
    }


def beside(client: Client, address: str, asked: argparse.Namespace) -> Figures:
    """Embeds of one caller with one text a request, alone and while batches of searches saturate the server."""
    client.write(VECTORS, vectors=inputs.Clustered(asked.rows).vectors, ids=[str(i) for i in range(asked.rows)])
    client.create_index(VECTORS)
    items = inputs.sentences()

    def embeds() -> Figures:
        return loop(lambda i: client.embed(ENCODER, items[i % len(items)]), asked.seconds)

    alone, loaded = [], []
    for _ in range(asked.rounds):
        alone.append(embeds())
        with saturated(address, asked.rows):
            loaded.append(embeds())
    found = {"alone": medians(alone), "beside searches": medians(loaded)}
    return {f"embed {q} ms, {name}": figures[f"{q}_ms"] for name, figures in found.items() for q in ("p50", "p99")}


@contextmanager
def saturated(address: str, rows: int, callers: int = 4) -> Iterator[None]:
    """Callers that send batch after batch of 256 searches, in a process of their own."""
    process = start([sys.executable, "-m", "benchmarks.sets", "--saturate", address, str(callers), "--rows", str(rows)])
    assert process.stdout
    try:
        process.stdout.readline()
        yield
    finally:
        end_processes(tree([process.pid]))
        process.wait()


def saturate(address: str, callers: int, rows: int) -> None:
    """Load the server until it is ended. Prints a line when all have begun. At the lowest priority: callers elsewhere would
    take no core here."""
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
