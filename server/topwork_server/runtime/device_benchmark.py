"""Benchmark of devices on one graph, run in a process of its own:

    python -m topwork_server.runtime.device_benchmark ARTIFACT BATCHES.npz DEFAULT_TAP THREADS DEVICE...

so that the server neither keeps what they leave in memory nor dies with one of them. A device is written provider/precision.
Prints a JSON line {"trying": DEVICE} before it does anything with one, and in the end for each {"device", "parity" by tap,
"invariance" by tap, "samples_per_second"} or {"device", "error"}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from topwork_server.models.artifacts import MODEL, graph_for
from topwork_server.runtime.benchmark_batches import BenchmarkBatch, load_batches
from topwork_server.runtime.parity import difference
from topwork_server.runtime.providers import Device
from topwork_server.runtime.session import RunnableSession, Session
from topwork_server.runtime.session_factory import open_session
from topwork_server.types import Array

#: Seconds a device that are timed, and at least so many rounds: a device's time of a batch is its best.
SECONDS, ROUNDS = 0.7, 3


@dataclass
class DeviceTrial:
    """A device under measurement. By tap, `parity`: min_cosine and max_abs_error to the plain session; `invariance`: of its rows
    with batch-mates to those alone."""

    device: str
    parity: dict[str, dict[str, float]] = field(default_factory=dict)
    invariance: dict[str, float] = field(default_factory=dict)
    samples_per_second: float = 0.0
    error: str = ""


class DeviceBenchmark:
    """An artifact, the batches that are run through it, and the plain device's outputs. `tap` is the default one."""

    def __init__(self, folder: Path, batches: Sequence[BenchmarkBatch], tap: str, threads: int) -> None:
        self._folder, self._batches, self._tap, self._threads = folder, batches, tap, threads
        plain = Session(folder / MODEL, threads)
        self._taps = plain.outputs
        self._wanted = self._alone(plain, self._taps)
        plain.close()

    def trials(self, devices: Sequence[Device]) -> list[DeviceTrial]:
        """Yield one trial a device, in their order. Only the graph of the default tap is timed."""
        trials, sessions = [DeviceTrial(_name(device)) for device in devices], dict[int, RunnableSession]()
        for i, (trial, device) in enumerate(zip(trials, devices, strict=True)):
            _print_record({"trying": trial.device})
            try:
                sessions[i] = self._check_device(trial, device)
            except Exception as error:  # a device's failure is its record
                trial.error = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
        for i, rate in _rates(sessions, self._batches, self._tap).items():
            trials[i].samples_per_second = rate
        return trials

    def _check_device(self, trial: DeviceTrial, device: Device) -> RunnableSession:
        """Check both graphs on a device; that of the default tap stays open."""
        session = open_session(self._folder / MODEL, device, self._threads)
        self._check(trial, session, self._taps)
        graph = graph_for(self._folder, [self._tap], self._tap)
        if graph.name == MODEL:
            return session
        session.close()
        session = open_session(graph, device, self._threads)
        self._check(trial, session, [self._tap])
        return session

    def _check(self, trial: DeviceTrial, session: RunnableSession, taps: Sequence[str]) -> None:
        """Measure the parity of each tap over samples alone, and their invariance in batches."""
        alone = self._alone(session, taps)
        for tap in taps:
            pairs = [difference(_rows(a), _rows(b)) for a, b in zip(self._wanted[tap], alone[tap], strict=True)]
            worst = trial.parity.setdefault(tap, {"max_abs_error": 0.0, "min_cosine": 1.0})
            worst["max_abs_error"] = max(worst["max_abs_error"], *(error for error, _ in pairs))
            worst["min_cosine"] = min(worst["min_cosine"], *(cosine for _, cosine in pairs))
        for batch in self._batches:
            if len(batch.members) > 1:
                for tap, together in zip(taps, session.run(taps, batch.feeds), strict=True):
                    moved = [_moved(alone[tap][m], together[row]) for row, m in enumerate(batch.members)]
                    trial.invariance[tap] = min(trial.invariance.get(tap, 1.0), *moved)

    def _alone(self, session: RunnableSession, taps: Sequence[str]) -> dict[str, list[Array]]:
        """Run each sample alone: by tap, its outputs without the batch axis."""
        found = [session.run(taps, batch.feeds) for batch in self._batches if len(batch.members) == 1]
        return {tap: [outputs[i][0] for outputs in found] for i, tap in enumerate(taps)}


def _moved(alone: Array, together: Array) -> float:
    """Cosine between a sample's rows alone and in a batch, less the padding that it got there."""
    return difference(_rows(alone), _rows(together[: len(alone)] if alone.ndim == 2 else together))[1]


def _rows(output: Array) -> Array:
    return output.reshape(-1, output.shape[-1]).astype(np.float32)


def _rates(sessions: Mapping[int, RunnableSession], batches: Sequence[BenchmarkBatch], tap: str) -> dict[int, float]:
    """Samples a second of each session, measured in turns, so that other load on the machine falls on all of them."""
    best = {i: [float("inf")] * len(batches) for i in sessions}
    began, rounds = time.monotonic(), 0
    while rounds < ROUNDS or time.monotonic() - began < SECONDS * len(sessions):
        for i, session in sessions.items():
            for j, batch in enumerate(batches):
                best[i][j] = min(best[i][j], _seconds(session, batch, tap))
        rounds += 1
    samples = sum(len(batch.members) for batch in batches)
    return {i: samples / sum(times) for i, times in best.items()}


def _seconds(session: RunnableSession, batch: BenchmarkBatch, tap: str) -> float:
    began = time.perf_counter()
    session.run([tap], batch.feeds)
    return time.perf_counter() - began


def _name(device: Device) -> str:
    return f"{device.provider}/{device.precision}"


def _print_record(record: Mapping[str, Any]) -> None:
    print(json.dumps(record), flush=True)


def main(arguments: Sequence[str]) -> None:
    folder, batches, tap, threads, *devices = arguments
    chosen = [Device(provider, precision) for provider, _, precision in (device.partition("/") for device in devices)]
    for trial in DeviceBenchmark(Path(folder), load_batches(Path(batches)), tap, int(threads)).trials(chosen):
        _print_record(asdict(trial))


if __name__ == "__main__":
    main(sys.argv[1:])
