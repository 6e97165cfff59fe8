"""Writes and searches of one server beside in-process FAISS on the same index, and beside embedded stores, in one run:

    python -m benchmarks.search [--rows 100000] [--kind auto] [--rounds 3] [--seconds 4] [--peers PYTHON hnswlib ...] [--json]

Requests hold one query, a batch of 64, or 1,000 (large). Vectors are clustered, 384 wide, of unit length; queries are drawn
from the same clusters and are not among them. Every side answers with recall at 10 of 0.95 or more, measured here against
exact search. The server, FAISS and the peers take turns, round by round, and ratios are taken within a round: shared machines
change their speed from minute to minute. All sides share this machine's cores. PYTHON is an environment that has the peers
(`make bench-search` makes one).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from topwork import AsyncClient, Client
from topwork_server.config import default_home

from benchmarks.inputs import Clustered
from benchmarks.measure import Figures, concurrent_loop, median_ratio, medians, show, table, turns
from benchmarks.processes import Worker, scratch_home, server
from benchmarks.search_peers import SIZES, K, queries_per_second, recall_of

SET, CALLERS, CEILING = "benchmark-search", 64, "faiss in process"
#: Seconds that a peer may take to build its index.
BUILD = 3600


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kind", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--peers", nargs="+", default=[], metavar="PYTHON PEER")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    data = Clustered(asked.rows)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data.save(scratch)
        home = stack.enter_context(scratch_home(default_home()))
        address, _ = stack.enter_context(server(home))
        client = stack.enter_context(Client(address, timeout=3600))
        facts = prepare(client, data, asked.kind)
        [index] = (home / "indexes" / SET).glob("*/builds/*/index.bin")
        peers = {CEILING: Worker("search_peers", "faiss", *files(scratch, "faiss"), str(index), str(facts["effort"]))}
        python, *names = asked.peers or [""]
        peers |= {name: Worker("search_peers", name, *files(scratch, name), python=python) for name in names}
        for worker in peers.values():
            stack.enter_context(worker)
        built = {name: worker.ask("built", patience=BUILD) for name, worker in peers.items()}
        report(facts, built, figures(client, address, data, peers, asked), asked.json)
    return 0


def files(scratch: Path, peer: str) -> list[str]:
    """A folder for the peer, and the inputs."""
    (scratch / peer).mkdir()
    return [str(scratch / peer), *(str(scratch / f"{name}.npy") for name in ("vectors", "queries", "truth"))]


def prepare(client: Client, data: Clustered, kind: str) -> dict[str, Any]:
    """Write the vectors and build the index; what both took."""
    began = time.monotonic()
    client.write(SET, vectors=data.vectors, ids=[f"row-{i}" for i in range(data.rows)])
    written = time.monotonic() - began
    began = time.monotonic()
    index = client.create_index(SET, kind=kind)
    return {
        "rows": data.rows,
        "write rows/s": data.rows / written,
        "set bytes/row": client.set(SET).bytes / data.rows,
        "index": index.built,
        "build s": time.monotonic() - began,
        "index bytes/row on disk": index.disk_bytes / data.rows,
        "index bytes/row in memory": index.memory_bytes / data.rows,
        "effort": index.effort,
        "recall": recall_of(positions(client, data.queries), data.truth),
    }


def positions(client: Client, queries: Any) -> Any:
    """Return (n, K) positions of what the server finds."""
    found = client.search(SET, vectors=queries, k=K, columns=())
    return np.array([[int(i.removeprefix("row-")) for i in hits.ids] for hits in found])


def figures(
    client: Client, address: str, data: Clustered, peers: dict[str, Worker], asked: argparse.Namespace
) -> dict[str, Figures]:
    """Medians over the rounds, and of their ratios to in-process FAISS."""

    def search(part: Any) -> Any:
        return client.search(SET, vectors=part, k=K, columns=())

    works: dict[str, Any] = {
        f"{name}, {size}": partial(worker.ask, size, seconds=asked.seconds)
        for name, worker in peers.items()
        for size in (SIZES if name == CEILING else ("single", "batch"))
    }
    works |= {f"topwork, {size}": partial(queries_per_second, search, data.queries, size, asked.seconds) for size in SIZES}
    works[f"topwork, {CALLERS} callers"] = lambda: asyncio.run(many_callers(address, data, asked.seconds))
    seen = turns(works, asked.rounds)
    return {name: medians(records) | {"of faiss": of_ceiling(name, seen)} for name, records in seen.items()}


def of_ceiling(name: str, seen: dict[str, list[Figures]]) -> float:
    size = name.rpartition(" ")[2]
    ceiling = seen[f"{CEILING}, {size if size in SIZES else 'batch'}"]
    return median_ratio([record["qps"] for record in seen[name]], [record["qps"] for record in ceiling])


async def many_callers(address: str, data: Clustered, seconds: float) -> Figures:
    """Measure as `queries_per_second` does, with many callers at once with one query a request."""
    async with AsyncClient(address) as client:

        async def call(number: int) -> None:
            first = number % len(data.queries)
            await client.search(SET, vectors=data.queries[first : first + 1], k=K, columns=())

        await call(0)
        found = await concurrent_loop(call, CALLERS, seconds)
        return {"qps": found.pop("per_s"), **found}


def report(facts: dict[str, Any], built: dict[str, Any], found: dict[str, Figures], as_json: bool) -> None:
    if as_json:
        print(json.dumps({**facts, "built": built, "figures": found}))
        return
    show(facts | built)
    columns = ("qps", "p50_ms", "p99_ms", "of faiss")
    print(table(["", "queries/s", "p50 ms", "p99 ms", "of faiss"], [[n, *(f[c] for c in columns)] for n, f in found.items()]))


if __name__ == "__main__":
    sys.exit(main())
