"""Each door beside native gRPC; with --peers the clients of OpenAI and Triton, unmodified, at us and at infinity and Triton:

    python -m benchmarks.doors [--rounds 3] [--seconds 2] [--loads MiniLM,GloVe,ResNet] [--peers]

Doors take turns, round by round, and a ratio is taken within its round. Requests are bytes that were made beforehand, sent by a
process of its own (`door_load.py`). Beside what callers see is what the server spends on a request: CPU milliseconds of its
event loop, through which all doors go, and of all its threads. Word vectors cost next to nothing to compute, so that their
load shows what the doors cost.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from topwork_server.config import default_home, usable_cores

from benchmarks import inputs
from benchmarks.measure import Figures, median_ratio, medians, number, table, turns
from benchmarks.processes import Worker, cpu_seconds, scratch_home, server
from benchmarks.serving.comparison import running
from benchmarks.serving.parts import PARTS, model
from benchmarks.serving.peers import Peer, environments
from benchmarks.serving.peers.handlers import Triton
from benchmarks.serving.peers.sentence_encoders import MODEL, InfinityOptimum

MINILM, GLOVE, RESNET = "all-minilm-l6-v2", "glove-6b-50d", "resnet50-thin"
TEXTS = [f"a sentence about {thing}, of which there are many: {i}" for i, thing in enumerate(["birds", "the sea"] * 32)]
#: Sentences that are sent to the peers, of mixed length.
SENTENCES = 512
NATIVE = "native gRPC"


@dataclass(frozen=True)
class Load:
    """Requests of `size` items from so many callers: texts, or arrays where `texts` is empty."""

    name: str
    encoder: str
    size: int
    callers: int
    texts: Sequence[str] = ()

    def __str__(self) -> str:
        what = "text" if self.texts else "array"
        items, callers = (f"{n} {word}{'s' * (n > 1)}" for n, word in ((self.size, what), (self.callers, "caller")))
        return f"{self.name}, {items}, {callers}"


LOADS = (
    *(Load("MiniLM", MINILM, size, callers, TEXTS) for size, callers in ((1, 1), (1, 64), (64, 1), (64, 4))),
    *(Load("GloVe", GLOVE, size, callers, TEXTS) for size, callers in ((1, 64), (64, 4))),
    *(Load("ResNet", RESNET, 1, callers) for callers in (1, 4)),
)


class TritonBatched(Triton):
    """Triton with its dynamic batcher."""

    name = "triton-batched"
    batch = 64


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and shared memory go with it
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doors")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="of each load")
    parser.add_argument("--loads", default="MiniLM,GloVe,ResNet", help="names of loads, and none for peers alone")
    parser.add_argument("--peers", action="store_true", help="beside infinity and Triton, where `make bench-peers` has made them")
    asked = parser.parse_args()
    loads = [load for load in LOADS if load.name in asked.loads.split(",")]
    with scratch_home(default_home()) as home:
        if loads:
            _doors(home, loads, asked.rounds, asked.seconds)
        if asked.peers:
            _peers(home, asked.rounds, asked.seconds)
    return 0


def _doors(home: Path, loads: Sequence[Load], rounds: int, seconds: float) -> None:
    with server(home, "--shared-memory", "--http", http := free_address()) as (address, process), Worker("door_load") as worker:
        for load in loads:
            names = worker.ask(
                "open", kind="doors", address=address, http=http, encoder=load.encoder, texts=load.texts, size=load.size
            )
            sides = {name: partial(_measured, worker, process, load.callers, seconds, name) for name in names}
            _print(str(load), turns(sides, rounds), load.size, dict.fromkeys(names, NATIVE))


def _peers(home: Path, rounds: int, seconds: float) -> None:
    """Both clients, each beside our door for it."""
    texts = inputs.sentences()[:SENTENCES]
    with ExitStack() as stack:
        clients = _clients(home, stack)
        for size, callers in ((1, 1), (1, 64), (64, 4)):
            for one in clients:
                one.worker.ask("open", patience=300, texts=texts, size=size, **one.target)
            sides = {one.name: partial(_measured, one.worker, one.process, callers, seconds, "client") for one in clients}
            load = Load("MiniLM, unmodified clients", MINILM, size, callers, texts)
            _print(str(load), turns(sides, rounds), size, {one.name: one.beside for one in clients})


@dataclass(frozen=True)
class Client:
    """A client at a server: what `open` of the load generator is asked, and the peer that it is compared with."""

    name: str
    beside: str
    process: psutil.Process
    worker: Worker
    target: Mapping[str, Any]


def _clients(home: Path, stack: ExitStack) -> list[Client]:
    """The clients of the peers that are installed. Their servers run side by side, and compute when they are asked alone."""
    flags = ("--provider", "cpu", "--threads", str(usable_cores()), "--feature-cache", "0")
    address, ours = stack.enter_context(server(home, *flags, "--http", http := free_address()))
    found: list[Client] = []

    def add(name: str, beside: type[Peer], process: psutil.Process, python: str | Path, **target: Any) -> None:
        worker = stack.enter_context(Worker("door_load", python=str(python)))
        found.append(Client(name, beside.name, process, worker, target))

    def start(kind: type[Peer]) -> tuple[str, psutil.Process] | None:
        peer = kind()
        if why := peer.missing():
            print(f"{kind.name} is left out: {why}", file=sys.stderr)
            return None
        url = stack.enter_context(running(peer, model(PARTS["text"])))
        return url, psutil.Process(peer.pids()[0])

    if infinity := start(InfinityOptimum):
        url, process = infinity
        add(InfinityOptimum.name, InfinityOptimum, process, sys.executable, kind="openai", url=url, model=MODEL)
        add("Topwork, OpenAI", InfinityOptimum, ours, sys.executable, kind="openai", url=f"http://{http}/v1", model=MINILM)
    python = environments.python_of("pytriton")
    for peer in (Triton, TritonBatched):
        if triton := start(peer):
            url, process = triton
            theirs = {"model": "embed", "tensors": ["item", "row"], "wire": "http", "address": url.removeprefix("http://")}
            add(peer.name, Triton, process, python, kind="tritonclient", **theirs)
    if Triton().missing() is None:
        for wire, where in (("http", http), ("grpc", address)):
            mine = {"model": MINILM, "tensors": ["TEXT", "pooled"], "wire": wire, "address": where}
            add(f"Topwork, OIP {wire}", Triton, ours, python, kind="tritonclient", **mine)
    return found


def _measured(worker: Worker, process: psutil.Process, callers: int, seconds: float, name: str) -> Figures:
    """Measure what a door's callers see, and CPU milliseconds of the server a request."""
    loop, whole = _loop_seconds(process), cpu_seconds([process.pid])
    found: Figures = worker.ask("measure", patience=seconds + 120, name=name, callers=callers, seconds=seconds)
    spent = {"loop_ms": _loop_seconds(process) - loop, "cpu_ms": cpu_seconds([process.pid]) - whole}
    return found | {key: 1e3 * value / found["requests"] for key, value in spent.items()}


def _loop_seconds(process: psutil.Process) -> float:
    """CPU seconds of the process's first thread, which is that of the event loop."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/schedstat").read_text().split()[0]) / 1e9


def _print(title: str, measured: Mapping[str, Sequence[Figures]], size: int, beside: Mapping[str, str]) -> None:
    header = [title, "items/s", "p50 ms", "p99 ms", "ratio", "least to greatest", "loop ms", "server CPU ms"]
    lines = []
    for name, records in measured.items():
        mine, other = ([one["per_s"] for one in measured[which]] for which in (name, beside[name]))
        ratios = [a / b for a, b in zip(mine, other, strict=True)]
        spread = f"{number(min(ratios))} to {number(max(ratios))}"
        one = medians(records)
        shown = (one["p50_ms"], one["p99_ms"], median_ratio(mine, other), spread, one["loop_ms"], one["cpu_ms"])
        lines.append([name, one["per_s"] * size, *shown])
    print(f"{table(header, lines)}\nload average at the end {os.getloadavg()[0]:.1f}\n", flush=True)


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return f"127.0.0.1:{found.getsockname()[1]}"


if __name__ == "__main__":
    sys.exit(main())
