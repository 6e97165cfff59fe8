"""The two that are compared: a GPU's session as the server uses it, and torch in fp16, compiled. Both with the same batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from topwork_server.runtime.gpu.gpu_session import GpuSession
from topwork_server.runtime.gpu.io_binding import key_of
from topwork_server.types import Array

#: One call computes some items, and returns how many.
Work = Callable[[], int]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Pace:
    """`warm` calls, which compile and capture, do not count; then so many rounds of so many seconds."""

    seconds: float
    warm: int
    rounds: int = 3


def rates(works: Mapping[str, Work], pace: Pace) -> dict[str, float]:
    """Items a second: medians over rounds in which all take turns."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        for _ in range(pace.warm):
            work()
    for _ in range(pace.rounds):
        for name, work in works.items():
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < pace.seconds:
                count += work()
            found[name].append(count / (time.perf_counter() - began))
    return {name: round(statistics.median(values), 1) for name, values in found.items()}


def latencies(work: Work, pace: Pace) -> dict[str, float]:
    for _ in range(2 * pace.warm):
        work()
    times, end = [], time.perf_counter() + pace.seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return {f"p{p} ms": round(1e3 * float(np.percentile(times, p)), 3) for p in (50, 99)}


def from_host(session: GpuSession, tap: str, batches: Sequence[Feeds], pool: ThreadPoolExecutor) -> Work:
    """Rows of batches that lie in the host's memory, as many in flight as the session has workers."""

    def one(feeds: Feeds) -> int:
        return len(session.run([tap], feeds)[0])

    return lambda: sum(pool.map(one, batches))


def on_device(session: GpuSession, tap: str, feeds: Feeds) -> Work:
    """The graph alone: its inputs and outputs stay on the device."""
    slot = session._slots.acquire(key_of(session.buckets.padded({n: a.shape for n, a in feeds.items()}), [tap]))
    slot.fill(feeds)
    rows = len(next(iter(feeds.values())))

    def work() -> int:
        session._launcher.submit(session._compute, slot).result()
        return rows

    return work


class Torch:
    """The same net in torch: fp16 and compiled on a GPU; on a CPU (which only tries this script out) neither."""

    def __init__(self, net: Any, device: str, mode: str) -> None:
        import torch

        self._torch: Any = torch
        self._device, self._half = device, device != "cpu"
        self._net: Any = net.to(device).eval()
        if self._half:
            kinds = {type(part) for part in net.modules()}
            layouts = {torch.nn.Conv2d: torch.channels_last, torch.nn.Conv3d: torch.channels_last_3d}
            for layout in (layouts[kind] for kind in kinds & set(layouts)):
                net = net.to(memory_format=layout)
            self._net = torch.compile(net.half(), mode=mode)

    def _tensor(self, array: Array, *, pinned: bool = False) -> Any:
        tensor = self._torch.from_numpy(array)
        return tensor.pin_memory() if pinned and self._half else tensor

    def _moved(self, tensor: Any) -> Any:
        moved = tensor.to(self._device, non_blocking=True)
        if self._half and moved.is_floating_point():
            moved = moved.half()
            layout = {4: self._torch.channels_last, 5: self._torch.channels_last_3d}.get(moved.ndim)
            moved = moved.contiguous(memory_format=layout) if layout else moved
        return moved

    def _done(self) -> None:
        if self._half:
            self._torch.cuda.synchronize()

    def on_device(self, feeds: Feeds) -> Work:
        tensors = [self._moved(self._tensor(array)) for array in feeds.values()]

        def work() -> int:
            with self._torch.inference_mode():
                self._net(*tensors)
            self._done()
            return len(tensors[0])

        return work

    def from_host(self, batches: Sequence[Feeds]) -> Work:
        pinned = [[self._tensor(array, pinned=True) for array in feeds.values()] for feeds in batches]

        def work() -> int:
            with self._torch.inference_mode():
                rows = [self._net(*(self._moved(tensor) for tensor in tensors)).clone() for tensors in pinned]
                found = [row.cpu() for row in rows]
            return sum(len(row) for row in found)

        return work


def matmul_peak(device: str, size: int) -> float:
    """TFLOP/s of one large product of fp16 matrices (fp32 on a CPU), by torch: what the device reaches in fact."""
    import torch

    kind = torch.float32 if device == "cpu" else torch.float16
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(5):
            a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - began) / 5)
    return 2 * size**3 / best / 1e12
