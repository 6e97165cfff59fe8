"""Throughput and latency of one server beside the ceiling, in one run:

    python -m benchmarks.serving [--rounds 3] [--seconds 8] [--json]

The ceiling is the same graph in a process of its own, with the best batching and nothing else: samples are prepared before
the clock starts, sorted by length, and cut into batches of the encoder's budget. The server, the ceiling and the callers (this
process) take turns, round by round. Figures are medians over the rounds; a ratio is taken within its round first, because
machines that are shared change their speed from minute to minute. Both sides share this machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from topwork import AsyncClient, Client
from topwork_server.config import default_home, usable_cores
from topwork_server.demo import server

from benchmarks import inputs

ENCODERS: dict[str, Callable[[], list[Any]]] = {"all-minilm-l6-v2": inputs.sentences, "resnet50-thin": inputs.jpegs}
CALLERS = (1, 64)


@dataclass
class Figures:
    """Medians are taken over these, a value a round."""

    ceiling: list[float] = field(default_factory=list)
    ceiling_single_ms: list[float] = field(default_factory=list)
    rate: dict[int, list[float]] = field(default_factory=lambda: {n: [] for n in CALLERS})
    p50: dict[int, list[float]] = field(default_factory=lambda: {n: [] for n in CALLERS})
    p99: dict[int, list[float]] = field(default_factory=lambda: {n: [] for n in CALLERS})
    streamed: list[float] = field(default_factory=list)
    least_cosine: float = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--ceiling", metavar="ENCODER", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ceiling:
        print(json.dumps(ceiling(asked.ceiling, asked.seconds)))
        return 0
    figures = {name: Figures() for name in ENCODERS}
    with server(default_home(), lambda *words: None) as address:
        for name, _round in itertools.product(ENCODERS, range(asked.rounds)):
            measure(figures[name], name, address, asked.seconds)
    report(figures, asked.json)
    return 0


def measure(figures: Figures, name: str, address: str, seconds: float) -> None:
    """One round of one encoder."""
    reference = measure_ceiling(name, seconds)
    figures.ceiling.append(reference["rate"])
    figures.ceiling_single_ms.append(reference["single_ms"])
    items = ENCODERS[name]()
    with Client(address) as client:
        rows = np.asarray(client.embed(name, items[:8]))
        began = time.monotonic()
        count = sum(len(client.embed(name, items)) for _ in range(max(1, 200 // len(items))))
        figures.streamed.append(count / (time.monotonic() - began))
    expected = np.array(reference["rows"], np.float32)
    cosines = (rows * expected).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(expected, axis=1)
    figures.least_cosine = min(figures.least_cosine, float(cosines.min()))
    for callers in CALLERS:
        times = asyncio.run(closed_loop(address, name, items, callers, seconds))
        figures.rate[callers].append(len(times) / seconds)
        figures.p50[callers].append(1e3 * float(np.percentile(times, 50)))
        figures.p99[callers].append(1e3 * float(np.percentile(times, 99)))


def measure_ceiling(name: str, seconds: float) -> Any:
    """`ceiling`, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serving", "--ceiling", name, "--seconds", str(seconds)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


async def closed_loop(address: str, name: str, items: list[Any], callers: int, seconds: float) -> list[float]:
    """Seconds of each request: every caller sends one item, waits for its row, and sends the next."""
    times: list[float] = []
    turn = itertools.count()
    async with AsyncClient(address) as client:
        await asyncio.gather(*(client.embed(name, items[:1]) for _ in range(callers)))
        end = time.monotonic() + seconds

        async def call() -> None:
            while (began := time.monotonic()) < end:
                await client.embed(name, [items[next(turn) % len(items)]])
                times.append(time.monotonic() - began)

        await asyncio.gather(*(call() for _ in range(callers)))
    return times


def ceiling(name: str, seconds: float) -> dict[str, Any]:
    """In process: items a second in best batches, milliseconds of one item at a time, and the rows of the first eight."""
    from topwork_server.artifacts import MODEL
    from topwork_server.catalogue import Catalogue
    from topwork_server.plugins import Plugins
    from topwork_server.sessions.session import Session
    from topwork_server.types import Picture, Text

    catalogue = Catalogue(Plugins.load(), default_home())
    entry = catalogue.entry(name)
    assert entry.folder is not None
    encoder = entry.spec.encoder(entry.spec, entry.folder)
    session = Session(entry.folder / MODEL, usable_cores())
    wrap = Text if isinstance(ENCODERS[name]()[0], str) else Picture
    samples = [s for item in ENCODERS[name]() for s in encoder.preprocess(wrap(item), encoder.options())]
    rows = [session.run([entry.spec.default_tap], encoder.collate([s]))[0][0].tolist() for s in samples[:8]]
    batches = [encoder.collate(batch) for batch in best_batches(encoder, samples)]
    singles = [encoder.collate([sample]) for sample in samples[:200]]
    return {"rate": _rate(session, batches, entry.spec.default_tap, seconds), "rows": rows,
            "single_ms": 1e3 / _rate(session, singles, entry.spec.default_tap, seconds / 2)}  # fmt: skip


def best_batches(encoder: Any, samples: list[Any]) -> list[list[Any]]:
    """Sorted by cost, cut where the next would pass the budget."""
    batches: list[list[Any]] = [[]]
    for sample in sorted(samples, key=encoder.cost):
        if batches[-1] and (len(batches[-1]) + 1) * encoder.cost(sample) > encoder.budget:
            batches.append([])
        batches[-1].append(sample)
    return batches


def _rate(session: Any, batches: list[dict[str, Any]], tap: str, seconds: float) -> float:
    session.run([tap], batches[0])
    began, count = time.monotonic(), 0
    order = np.random.default_rng(0).permutation(len(batches))
    for i in itertools.cycle(order):
        session.run([tap], batches[i])
        count += len(next(iter(batches[i].values())))
        if time.monotonic() - began > seconds:
            break
    return count / (time.monotonic() - began)


def ratio(measured: list[float], ceilings: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(measured, ceilings, strict=True)), 3)


def report(figures: dict[str, Figures], as_json: bool) -> None:
    middle = statistics.median
    lines = []
    for name, f in figures.items():
        lines.append({
            "encoder": name,
            "ceiling items/s": round(middle(f.ceiling), 1),
            "ceiling one at a time ms": round(middle(f.ceiling_single_ms), 2),
            "1 caller p50 ms": round(middle(f.p50[1]), 2),
            "1 caller p99 ms": round(middle(f.p99[1]), 2),
            "64 callers items/s": round(middle(f.rate[64]), 1),
            "64 callers of ceiling": ratio(f.rate[64], f.ceiling),
            "64 callers p50 ms": round(middle(f.p50[64]), 1),
            "64 callers p99 ms": round(middle(f.p99[64]), 1),
            "streamed items/s": round(middle(f.streamed), 1),
            "streamed of ceiling": ratio(f.streamed, f.ceiling),
            "least cosine": round(f.least_cosine, 7),
        })  # fmt: skip
    if as_json:
        print(json.dumps(lines))
        return
    for line in lines:
        print("\n".join(f"{key:>26}  {value}" for key, value in line.items()), end="\n\n")


if __name__ == "__main__":
    sys.exit(main())
