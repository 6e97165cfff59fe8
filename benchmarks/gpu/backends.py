"""The two that are compared: a GPU's session as the server uses it, and torch in fp16, compiled. Both with the same networks and
batches."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from topwork_server.models.artifacts import MODEL, graph_for
from topwork_server.runtime.export import open_trunk
from topwork_server.runtime.gpu.gpu_session import GpuSession
from topwork_server.runtime.gpu.io_binding import key_of
from topwork_server.runtime.providers import Device
from topwork_server.runtime.session import Session
from topwork_server.types import Array

from benchmarks import models
from benchmarks.measure import loop, rate, turns

Feeds = dict[str, Array]
Work = Callable[[], int]
"""One call computes some items, and returns how many."""


@dataclass
class Run:
    """`warm` calls, which compile and capture, do not count; then come `rounds` of `seconds` for each figure."""

    home: Path
    device: Device
    seconds: float
    torch_mode: str

    @property
    def trial(self) -> bool:
        return self.device.provider == "cpu"

    @property
    def warm(self) -> int:
        return 1 if self.trial else 6

    def sizes(self, *of_a_gpu: int) -> tuple[int, ...]:
        return of_a_gpu[:1] if self.trial else of_a_gpu

    @property
    def torch_device(self) -> str:
        return "cpu" if self.trial else f"cuda:{self.device.index}"

    @cached_property
    def peak(self) -> float:
        return matmul_peak(self.torch_device, 1024 if self.trial else 8192)

    def rates(self, works: Mapping[str, Work]) -> dict[str, float]:
        """Items a second: medians over rounds in which all take turns."""
        for work in works.values():
            for _ in range(self.warm):
                work()
        found = turns({name: partial(rate, work, self.seconds) for name, work in works.items()}, 1 if self.trial else 3)
        return {name: round(median(values), 1) for name, values in found.items()}

    def latencies(self, work: Work) -> dict[str, float]:
        for _ in range(2 * self.warm):
            work()
        return {name: round(value, 3) for name, value in loop(lambda _: work(), self.seconds).items() if name != "per_s"}


class Network:
    """A random network: its graph as Topwork writes it, and the module in torch."""

    def __init__(self, run: Run, name: str) -> None:
        self._run = run
        self.spec, self.folder = models.random_encoder(run.home, name)
        self.tap, self.encoder = self.spec.default_tap, self.spec.encoder(self.spec, self.folder)
        self._inputs = Session(self.folder / MODEL).inputs

    @contextmanager
    def session(self, **changes: Any) -> Iterator[GpuSession]:
        session = GpuSession(graph_for(self.folder, [self.tap], self.tap), self._run.device, **changes)
        try:
            yield session
        finally:
            session.close()

    def feeds(self, rows: int, length: int) -> Feeds:
        """Random inputs; `length`: tokens or frames."""
        rng = np.random.default_rng(0)
        if self.spec.modality == "text":
            ids = rng.integers(1000, models.WORDS, (rows, length))
            known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            return {name: known[name] for name in self._inputs}
        frames = (length,) if self.spec.modality == "video" else ()
        return {name: rng.standard_normal((rows, 3, *frames, 224, 224), dtype=np.float32) for name in self._inputs}

    def torch(self) -> Torch:
        with tempfile.TemporaryDirectory() as scratch:
            trunk = open_trunk(self.spec, models.weights_of(self.spec), Path(scratch))
        place = [tap.name for tap in trunk.taps].index(self.tap)
        return Torch(trunk.module, place, self._run.torch_device, self._run.torch_mode)


class Torch:
    """A network in torch: fp16 and compiled on a GPU (what leads to no default tap falls away), plain on a CPU."""

    def __init__(self, net: Any, place: int, device: str, mode: str) -> None:
        import torch

        self._torch: Any = torch
        self._device, self._half = device, device != "cpu"
        net = net.to(device).eval()
        for part in net.modules():
            if hasattr(part, "set_attn_implementation"):
                part.set_attn_implementation("sdpa")
                break
        if self._half:
            kinds = {type(part) for part in net.modules()}
            layouts = {torch.nn.Conv2d: torch.channels_last, torch.nn.Conv3d: torch.channels_last_3d}
            for layout in (layouts[kind] for kind in kinds & set(layouts)):
                net = net.to(memory_format=layout)
            net = net.half()

        def default_tap(*tensors: Any) -> Any:
            return net(*tensors)[place]

        self._net: Any = torch.compile(default_tap, mode=mode) if self._half else default_tap

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

    def on_device(self, feeds: Feeds) -> Work:
        tensors = [self._moved(self._tensor(array)) for array in feeds.values()]

        def work() -> int:
            with self._torch.inference_mode():
                self._net(*tensors)
            if self._half:
                self._torch.cuda.synchronize()
            return len(tensors[0])

        return work

    def from_host(self, batches: Sequence[Feeds]) -> Work:
        pinned = [[self._tensor(array, pinned=True) for array in feeds.values()] for feeds in batches]

        def work() -> int:
            with self._torch.inference_mode():
                rows = [self._net(*map(self._moved, tensors)).clone() for tensors in pinned]
                found = [row.cpu() for row in rows]
            return sum(len(row) for row in found)

        return work


def from_host(session: GpuSession, tap: str, batches: Sequence[Feeds], pool: ThreadPoolExecutor) -> Work:
    """Rows of batches that lie in the host's memory, as many in flight as the session has workers."""
    return lambda: sum(pool.map(lambda feeds: len(session.run([tap], feeds)[0]), batches))


def on_device(session: GpuSession, tap: str, feeds: Feeds) -> Work:
    """The graph alone: its inputs and outputs stay on the device."""
    slot = session._slots.acquire(key_of(session.buckets.padded({n: a.shape for n, a in feeds.items()}), [tap]))
    slot.fill(feeds)
    rows = len(next(iter(feeds.values())))

    def work() -> int:
        session._launcher.submit(session._compute, slot).result()
        return rows

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
