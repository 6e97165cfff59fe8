"""Writes and searches of one server beside in-process FAISS on the same index, and beside embedded stores, in one run:

    python -m benchmarks.search [--rows 100000] [--kind auto] [--rounds 3] [--seconds 4] [--peers PYTHON hnswlib ...] [--json]

Requests hold one query, a batch of 64, or 1,000 (large). Vectors are clustered, 384 wide, of unit length; queries are drawn
from the same clusters and are not among them. Everybody answers with recall at 10 of 0.95 or more, measured here against
exact search. The server, FAISS and the peers take turns, round by round, and ratios are taken within a round: machines that
are shared change their speed from minute to minute. All sides share this machine's cores. PYTHON is an environment that has
the peers (`make bench-search` makes one).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from topwork import AsyncClient, Client
from topwork_server.commands.demo import server
from topwork_server.config import default_home

from benchmarks.inputs import Clustered
from benchmarks.peers_search import SIZES, recall_of

SET, K, CALLERS = "benchmark-search", 10, 64


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
    with tempfile.TemporaryDirectory() as scratch, server(default_home(), lambda *words: None) as address:
        data.save(Path(scratch))
        with Client(address, timeout=3600) as client:
            facts = prepare(client, data, asked.kind)
            try:
                figures = rounds(client, address, data, asked, Path(scratch), facts)
            finally:
                client.drop_set(SET)
    report(facts | figures, asked.json)
    return 0


def prepare(client: Client, data: Clustered, kind: str) -> dict[str, Any]:
    """Write the vectors and build the index; what both took."""
    if SET in [found.name for found in client.sets()]:
        client.drop_set(SET)
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
    """(n, K) positions of what the server finds."""
    found = client.search(SET, vectors=queries, k=K, columns=())
    return np.array([[int(i.removeprefix("row-")) for i in hits.ids] for hits in found])


def rounds(
    client: Client, address: str, data: Clustered, asked: argparse.Namespace, scratch: Path, facts: dict[str, Any]
) -> dict[str, Any]:
    """The medians of every figure, and of its ratio to in-process FAISS."""
    index = default_home() / "indexes" / SET
    [build] = sorted(index.glob("*/builds/*/index.bin"))
    ceiling = [sys.executable, "-m", "benchmarks.search_ceiling", str(build), str(scratch / "queries.npy"), str(facts["effort"])]
    python, *names = asked.peers or [""]
    commands = {"faiss in process": ceiling}
    for name in names:
        folder = scratch / name
        folder.mkdir()
        files = [str(scratch / f"{what}.npy") for what in ("vectors", "queries", "truth")]
        commands[name] = [python, str(Path(__file__).with_name("peers_search.py")), name, *files, str(folder)]
    seen: dict[str, list[dict[str, float]]] = {}
    made: dict[str, Any] = {}
    with all_of(commands, made) as ask:
        for _ in range(asked.rounds):
            for name, size in itertools.product(commands, ("single", "batch")):
                seen.setdefault(f"{name}, {size}", []).append(ask(name, f"{size} {asked.seconds}"))
            seen.setdefault("faiss in process, large", []).append(ask("faiss in process", f"large {asked.seconds}"))
            for many, count in SIZES.items():
                seen.setdefault(f"topwork, {many}", []).append(one_caller(client, data, count, asked.seconds))
            seen.setdefault(f"topwork, {CALLERS} callers", []).append(asyncio.run(many_callers(address, data, asked.seconds)))
    return {"made": made, "figures": {name: summary(name, of, seen) for name, of in seen.items()}}


def summary(name: str, of: list[dict[str, float]], seen: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    size = name.rpartition(" ")[2]
    ceiling = seen[f"faiss in process, {size if size in SIZES else 'batch'}"]
    middle = {key: statistics.median(one[key] for one in of) for key in of[0]}
    return middle | {"of faiss": statistics.median(a["qps"] / b["qps"] for a, b in zip(of, ceiling, strict=True))}


@contextmanager
def all_of(commands: dict[str, list[str]], made: dict[str, Any]) -> Iterator[Any]:
    """Start each program in turn, keep what it says of itself in `made`, and yield a function that asks one of them a line."""
    running: dict[str, subprocess.Popen[str]] = {}

    def answer(name: str) -> Any:
        stdout = running[name].stdout
        assert stdout is not None
        for line in stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{name} ended without an answer")

    def ask(name: str, line: str) -> Any:
        stdin = running[name].stdin
        assert stdin is not None
        print(line, file=stdin, flush=True)
        return answer(name)

    try:
        for name, command in commands.items():
            running[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            made[name] = answer(name)
        yield ask
    finally:
        for process in running.values():
            process.terminate()
            process.wait(60)


def one_caller(client: Client, data: Clustered, size: int, seconds: float) -> dict[str, float]:
    """Queries a second of one caller with `size` queries a request, and p50 and p99 of a request in ms."""
    from benchmarks.peers_search import timed

    return timed(lambda part: client.search(SET, vectors=part, k=K, columns=()), data.queries, size, seconds)


async def many_callers(address: str, data: Clustered, seconds: float) -> dict[str, float]:
    """As `one_caller`, of many at once with one query a request."""
    times: list[float] = []
    turn = itertools.cycle(range(len(data.queries)))
    async with AsyncClient(address) as client:
        await client.search(SET, vectors=data.queries[:1], k=K, columns=())
        began = time.perf_counter()

        async def call() -> None:
            while (started := time.perf_counter()) < began + seconds:
                i = next(turn)
                await client.search(SET, vectors=data.queries[i : i + 1], k=K, columns=())
                times.append(time.perf_counter() - started)

        await asyncio.gather(*(call() for _ in range(CALLERS)))
        rate = len(times) / (time.perf_counter() - began)
    return {"qps": rate, "p50_ms": float(np.percentile(times, 50)) * 1e3, "p99_ms": float(np.percentile(times, 99)) * 1e3}


def report(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    figures, made = found.pop("figures"), found.pop("made")
    for key, value in found.items():
        print(f"{key:>28}  {value:,.4g}" if isinstance(value, float) else f"{key:>28}  {value}")
    for name, facts in made.items():
        print(f"{name:>28}  {', '.join(f'{k} {v:,.4g}' if isinstance(v, float) else f'{k} {v}' for k, v in facts.items())}")
    print(f"\n{'':>28}  {'queries/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'of faiss':>8}")
    for name, f in figures.items():
        print(f"{name:>28}  {f['qps']:10,.0f} {f['p50_ms']:8.2f} {f['p99_ms']:8.2f} {f['of faiss']:8.2f}")


if __name__ == "__main__":
    sys.exit(main())
