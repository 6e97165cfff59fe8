"""What is measured; each part gives JSON and stands for itself."""

from __future__ import annotations

import io
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from topwork_server.models.artifacts import MODEL, PARITY_INPUTS
from topwork_server.runtime.gpu.gpu_session import GpuSession
from topwork_server.runtime.parity import difference, saved_inputs
from topwork_server.runtime.providers import Device
from topwork_server.runtime.session import Session
from topwork_server.types import ImageItem

from benchmarks.gpu import sides
from benchmarks.gpu.subjects import FRAMES, SUBJECTS, Subject, flops_a_token, mixed_lengths

Figures = dict[str, Any]


@dataclass
class Bench:
    """`device` is the GPU's; Device("cpu") tries the script out. `sizes`: batches of pictures, texts, clips."""

    home: Path
    device: Device
    sizes: Mapping[str, tuple[int, ...]]
    pace: sides.Pace
    torch_mode: str
    subjects: dict[str, Subject] = field(default_factory=dict)

    def subject(self, name: str) -> Subject:
        if name not in self.subjects:
            self.subjects[name] = SUBJECTS[name](self.home)
        return self.subjects[name]

    @property
    def torch_device(self) -> str:
        return "cpu" if self.device.provider == "cpu" else f"cuda:{self.device.index}"

    @cached_property
    def peak(self) -> float:
        return sides.matmul_peak(self.torch_device, 1024 if self.device.provider == "cpu" else 8192)

    @contextmanager
    def session(self, name: str, **changes: Any) -> Iterator[GpuSession]:
        session = GpuSession(self.subject(name).graph, self.device, **changes)
        try:
            yield session
        finally:
            session.close()

    def torch(self, name: str) -> sides.Torch:
        return sides.Torch(self.subject(name).net(), self.torch_device, self.torch_mode)


def peak(bench: Bench) -> Figures:
    return {"matmul TFLOP/s": round(bench.peak, 1)}


def pictures(bench: Bench) -> Figures:
    """Images a second at 224 from raw tensors."""
    return _beside_torch(bench, "resnet50", [(rows, 224) for rows in bench.sizes["pictures"]], "images/s")


def clips(bench: Bench) -> Figures:
    """Clips of 16 frames a second."""
    return _beside_torch(bench, "i3d", [(rows, FRAMES) for rows in bench.sizes["clips"]], "clips/s")


def texts(bench: Bench) -> Figures:
    """Tokens a second at sequence 128, and what part of the matrix product's peak that is."""
    found = _beside_torch(bench, "bert-base", [(rows, 128) for rows in bench.sizes["texts"]], "texts/s")
    for figures in found.values():
        for key in [key for key in figures if key.endswith("texts/s")]:
            tokens = figures.pop(key) * 128
            side = key.removesuffix(" texts/s")
            figures[f"{side} tokens/s"] = round(tokens)
            figures[f"{side} of peak"] = round(tokens * flops_a_token(128) / bench.peak / 1e12, 4)
    return found


def _beside_torch(bench: Bench, name: str, shapes: list[tuple[int, int]], unit: str) -> Figures:
    """Each batch on the device alone and from the host's memory, Topwork and torch in turns."""
    subject, torch, found = bench.subject(name), bench.torch(name), {}
    with bench.session(name) as session, ThreadPoolExecutor(session.workers) as pool:
        for rows, length in shapes:
            feeds = subject.feeds(rows, length)
            flight = [feeds] * (2 * session.workers)
            rates = sides.rates(
                {
                    f"topwork, on the device {unit}": sides.on_device(session, subject.tap, feeds),
                    f"torch, on the device {unit}": torch.on_device(feeds),
                    f"topwork, from the host {unit}": sides.from_host(session, subject.tap, flight, pool),
                    f"torch, from the host {unit}": torch.from_host(flight),
                },
                bench.pace,
            )
            found[f"batch {rows}"] = {**rates, "captures": session.captures}
    return found


def mixed(bench: Bench) -> Figures:
    """Tokens a second of texts of mixed lengths, sorted, in batches of a budget of tokens; padding does not count."""
    lengths = np.sort(mixed_lengths(2_000 if bench.device.provider != "cpu" else 64))
    subject, found = bench.subject("bert-base"), {}
    with bench.session("bert-base") as session, ThreadPoolExecutor(session.workers) as pool:
        for budget in (1024, 8192, 32768) if bench.device.provider != "cpu" else (512,):
            batches = [subject.feeds(len(batch), int(batch.max())) for batch in _cut(lengths, budget)]
            for feeds, batch in zip(batches, _cut(lengths, budget), strict=True):
                feeds["attention_mask"][:] = np.arange(batch.max()) < batch[:, None]
            rate = sides.rates({"texts/s": sides.from_host(session, subject.tap, batches, pool)}, bench.pace)["texts/s"]
            tokens = rate * float(lengths.mean())
            flops = tokens * flops_a_token(int(lengths.mean()))
            found[f"budget {budget}"] = {"topwork tokens/s": round(tokens), "of peak": round(flops / bench.peak / 1e12, 4)}
    return found


def _cut(lengths: Any, budget: int) -> list[Any]:
    """Sorted lengths in batches whose longest times their count stays in the budget."""
    batches, start = [], 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or lengths[end] * (end + 1 - start) > budget:
            batches.append(lengths[start:end])
            start = end
    return batches


def jpegs(bench: Bench) -> Figures:
    """Images a second from JPEG files of 500 x 375: all cores prepare, the session has its workers."""
    subject, cores = bench.subject("resnet50"), len(os.sched_getaffinity(0))
    files = [_jpeg(seed) for seed in range(64)]
    rows = max(bench.sizes["pictures"])
    options = subject.encoder.options()

    def prepare(file: bytes) -> Any:
        return next(iter(subject.encoder.preprocess(ImageItem(file), options)))

    with bench.session("resnet50") as session, ThreadPoolExecutor(cores) as decoders, ThreadPoolExecutor(session.workers) as pool:
        turn = itertools.cycle(files)

        def batch(_: int) -> int:
            samples = list(decoders.map(prepare, itertools.islice(turn, rows)))
            return len(session.run([subject.tap], subject.encoder.collate(samples))[0])

        preparing = sides.rates({"images/s": lambda: sum(1 for _ in decoders.map(prepare, files))}, bench.pace)["images/s"]
        rate = sides.rates({"images/s": lambda: sum(pool.map(batch, range(session.workers)))}, bench.pace)["images/s"]
    return {"cores": cores, "decode alone images/s": preparing, "topwork images/s": rate}


def _jpeg(seed: int) -> bytes:
    """Smooth colours and some noise: photographs compress alike."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
    noisy = np.clip(np.asarray(small, np.int16) + rng.integers(-12, 12, (375, 500, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=90)
    return file.getvalue()


def single(bench: Bench) -> Figures:
    """Milliseconds of one item from the host's memory to its row; with CUDA graphs and without."""
    found: Figures = {}
    for name, length in (("resnet50", 224), ("bert-base", 16), ("bert-base", 128), ("i3d", FRAMES)):
        subject = bench.subject(name)
        feeds = subject.feeds(1, length)
        for capture in (True, False):
            with bench.session(name, capture=capture) as session:
                said = sides.latencies(partial(_rows, session, subject.tap, feeds), bench.pace)
                found[f"{name} {length}{'' if capture else ', no CUDA graph'}"] = {**said, "captured": session._graphs > 0}
        found[f"{name} {length}, torch"] = sides.latencies(bench.torch(name).from_host([feeds]), bench.pace)
    return found


def _rows(session: GpuSession, tap: str, feeds: sides.Feeds) -> int:
    return len(session.run([tap], feeds)[0])


def parity(bench: Bench) -> Figures:
    """Least cosine by tap against fp32 on the CPU, over the inputs that exports keep; also of packaged encoders that are here."""
    folders = {name: bench.subject(name).folder for name in SUBJECTS}
    packaged = Path(os.environ.get("TOPWORK_HOME", "/nowhere")) / "artifacts"
    folders |= {path.name: _copied(path, bench.home) for path in sorted(packaged.glob("[!.]*")) if (path / MODEL).exists()}
    return {name: _parity(folder, bench.device) for name, folder in folders.items()}


def _copied(artifact: Path, home: Path) -> Path:
    """What is measured leaves files beside the graph, and this is not the server's."""
    folder = home / artifact.name
    folder.mkdir(exist_ok=True)
    for name in (MODEL, PARITY_INPUTS):
        shutil.copy(artifact / name, folder)
    return folder


def _parity(folder: Path, device: Device) -> Figures:
    plain, session, worst = Session(folder / MODEL), GpuSession(folder / MODEL, device), dict[str, float]()
    for feeds in saved_inputs(folder / PARITY_INPUTS):
        pairs = zip(plain.outputs, plain.run(plain.outputs, feeds), session.run(plain.outputs, feeds), strict=True)
        for tap, a, b in pairs:
            cosine = difference(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))[1]
            worst[tap] = round(min(worst.get(tap, 1.0), cosine), 7)
    session.close()
    tap = min(worst, key=lambda name: worst[name])
    return {"worst tap": tap, "cosine": worst[tap], "by tap": worst}


PARTS: Mapping[str, Callable[[Bench], Figures]] = {
    "peak": peak,
    "parity": parity,
    "single": single,
    "pictures": pictures,
    "texts": texts,
    "mixed": mixed,
    "clips": clips,
    "jpegs": jpegs,
}
