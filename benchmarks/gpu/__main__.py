"""Measures all figures of the GPU in one call; a part that fails does not stop the others:

    python -m benchmarks.gpu --json gpu.json [--provider cuda|tensorrt] [--precision fp16|fp32] [--parts peak,parity,...]

ResNet-50, BERT-base and Inception I3D have random weights: speed does not depend on them, and nothing is downloaded. torch in
fp16, compiled, takes turns with Topwork on the same batches. `--provider cpu` tries the script out on a machine without a GPU,
with small batches: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from topwork_server.config import default_home
from topwork_server.models.artifacts import MODEL, PARITY_INPUTS
from topwork_server.runtime.gpu.gpu_session import GpuSession
from topwork_server.runtime.parity import difference, saved_inputs
from topwork_server.runtime.providers import Device
from topwork_server.runtime.session import Session
from topwork_server.types import ImageItem

from benchmarks import models
from benchmarks.gpu.backends import Feeds, Network, Run, from_host, on_device
from benchmarks.measure import table

Figures = dict[str, Any]

PACKAGES = ("onnxruntime-gpu", "torch", "timm", "transformers", "numpy", "tensorrt")
#: Of BERT-base.
LAYERS, HIDDEN = 12, 768
FRAMES = 16


def flops_a_token(length: int) -> float:
    """Count the operations of BERT-base's layers: projections and the feed-forward net, and attention over `length` tokens."""
    return LAYERS * (24.0 * HIDDEN * HIDDEN + 4.0 * length * HIDDEN)


def peak(run: Run) -> Figures:
    return {"matmul TFLOP/s": round(run.peak, 1)}


def pictures(run: Run) -> Figures:
    """Images a second at 224 from raw tensors."""
    return _beside_torch(run, "resnet50", run.sizes(1, 8, 32, 128, 256), 224, "images/s")


def clips(run: Run) -> Figures:
    """Clips of 16 frames a second."""
    return _beside_torch(run, "i3d", run.sizes(1, 4, 16), FRAMES, "clips/s")


def texts(run: Run) -> Figures:
    """Tokens a second at sequence 128, and what part of the matrix product's peak that is."""
    found = _beside_torch(run, "bert-base", run.sizes(1, 8, 64, 256), 128, "texts/s")
    for figures in found.values():
        for key in [key for key in figures if key.endswith("texts/s")]:
            tokens = figures.pop(key) * 128
            side = key.removesuffix(" texts/s")
            figures[f"{side} tokens/s"] = round(tokens)
            figures[f"{side} of peak"] = round(tokens * flops_a_token(128) / run.peak / 1e12, 4)
    return found


def _beside_torch(run: Run, name: str, sizes: Sequence[int], length: int, unit: str) -> Figures:
    """Time each batch on the device alone and from the host's memory, Topwork and torch in turns."""
    network, found = Network(run, name), {}
    torch = network.torch()
    with network.session() as session, ThreadPoolExecutor(session.workers) as pool:
        for rows in sizes:
            feeds = network.feeds(rows, length)
            flight = [feeds] * (2 * session.workers)
            works = {
                f"topwork, on the device {unit}": on_device(session, network.tap, feeds),
                f"torch, on the device {unit}": torch.on_device(feeds),
                f"topwork, from the host {unit}": from_host(session, network.tap, flight, pool),
                f"torch, from the host {unit}": torch.from_host(flight),
            }
            found[f"batch {rows}"] = {**run.rates(works), "captures": session.captures}
    return found


def mixed(run: Run) -> Figures:
    """Tokens a second of texts of mixed lengths, sorted, in batches of a budget of tokens; padding does not count."""
    rng, network, found = np.random.default_rng(0), Network(run, "bert-base"), {}
    # Log-normal, median 20 tokens, at most 128: what sentences look like.
    lengths = np.sort(np.clip(rng.lognormal(np.log(20), 0.8, 64 if run.trial else 2000), 4, 128).astype(int))
    with network.session() as session, ThreadPoolExecutor(session.workers) as pool:
        for budget in (512,) if run.trial else (1024, 8192, 32768):
            batches = [network.feeds(len(batch), int(batch.max())) for batch in _cut(lengths, budget)]
            for feeds, batch in zip(batches, _cut(lengths, budget), strict=True):
                feeds["attention_mask"][:] = np.arange(batch.max()) < batch[:, None]
            tokens = run.rates({"": from_host(session, network.tap, batches, pool)})[""] * float(lengths.mean())
            flops = tokens * flops_a_token(int(lengths.mean()))
            found[f"budget {budget}"] = {"topwork tokens/s": round(tokens), "of peak": round(flops / run.peak / 1e12, 4)}
    return found


def _cut(lengths: Any, budget: int) -> list[Any]:
    """Sorted lengths in batches whose longest times their count stays in the budget."""
    batches, start = [], 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or lengths[end] * (end + 1 - start) > budget:
            batches.append(lengths[start:end])
            start = end
    return batches


def jpegs(run: Run) -> Figures:
    """Images a second from JPEG files of 500 x 375: all cores prepare, the session has its workers."""
    network, cores = Network(run, "resnet50"), len(os.sched_getaffinity(0))
    files, rows = [_jpeg(seed) for seed in range(64)], 2 if run.trial else 256
    options = network.encoder.options()

    def prepare(file: bytes) -> Any:
        return next(iter(network.encoder.preprocess(ImageItem(file), options)))

    with network.session() as session, ThreadPoolExecutor(cores) as decoders, ThreadPoolExecutor(session.workers) as pool:
        turn = itertools.cycle(files)

        def batch(_: int) -> int:
            samples = list(decoders.map(prepare, itertools.islice(turn, rows)))
            return len(session.run([network.tap], network.encoder.collate(samples))[0])

        preparing = run.rates({"": lambda: sum(1 for _ in decoders.map(prepare, files))})[""]
        both = run.rates({"": lambda: sum(pool.map(batch, range(session.workers)))})[""]
    return {"cores": cores, "decode alone images/s": preparing, "topwork images/s": both}


def _jpeg(seed: int) -> bytes:
    """Smooth colors and some noise: photographs compress alike."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
    noisy = np.clip(np.asarray(small, np.int16) + rng.integers(-12, 12, (375, 500, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=90)
    return file.getvalue()


def single(run: Run) -> Figures:
    """Milliseconds of one item from the host's memory to its row; with CUDA graphs and without."""
    found: Figures = {}
    for name, length in (("resnet50", 224), ("bert-base", 16), ("bert-base", 128), ("i3d", FRAMES)):
        network = Network(run, name)
        feeds = network.feeds(1, length)
        for capture in (True, False):
            with network.session(capture=capture) as session:
                figures = run.latencies(partial(_rows, session, network.tap, feeds))
                found[f"{name} {length}{'' if capture else ', no CUDA graph'}"] = {**figures, "captured": session._graphs > 0}
        found[f"{name} {length}, torch"] = run.latencies(network.torch().from_host([feeds]))
    return found


def _rows(session: GpuSession, tap: str, feeds: Feeds) -> int:
    return len(session.run([tap], feeds)[0])


def parity(run: Run) -> Figures:
    """Least cosine by tap against fp32 on the CPU, over the inputs that exports keep; also of packaged encoders that are here."""
    folders = {name: Network(run, name).folder for name in models.RANDOM}
    packaged = (default_home() / "artifacts").glob("[!.]*")
    return {
        name: _parity(folder, run)
        for name, folder in folders.items() | {(path.name, path) for path in packaged if (path / MODEL).exists()}
    }


def _parity(artifact: Path, run: Run) -> Figures:
    worst = dict[str, float]()
    with tempfile.TemporaryDirectory(dir=run.home) as scratch:  # the session leaves files beside its graph
        for name in (MODEL, PARITY_INPUTS):
            shutil.copy(artifact / name, scratch)
        plain, session = Session(Path(scratch) / MODEL), GpuSession(Path(scratch) / MODEL, run.device)
        for feeds in saved_inputs(artifact / PARITY_INPUTS):
            pairs = zip(plain.outputs, plain.run(plain.outputs, feeds), session.run(plain.outputs, feeds), strict=True)
            for tap, a, b in pairs:
                cosine = difference(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))[1]
                worst[tap] = round(min(worst.get(tap, 1.0), cosine), 7)
        session.close()
    tap = min(worst, key=lambda name: worst[name])
    return {"worst tap": tap, "cosine": worst[tap], "by tap": worst}


PARTS: Mapping[str, Callable[[Run], Figures]] = {
    part.__name__: part for part in (peak, parity, single, pictures, texts, mixed, clips, jpegs)
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="encoders on one GPU beside torch fp16")
    parser.add_argument("--provider", choices=("cuda", "tensorrt", "cpu"), default="cuda")
    parser.add_argument("--precision", choices=("fp16", "fp32"), default=None)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each figure and round")
    parser.add_argument("--torch-mode", default="reduce-overhead", help="of torch.compile; max-autotune takes minutes a shape")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    parser.add_argument("--home", type=Path, help="where graphs are kept; a temporary folder without it")
    asked = parser.parse_args()
    device = Device(asked.provider, asked.precision or ("fp32" if asked.provider == "cpu" else "fp16"))
    with tempfile.TemporaryDirectory() as folder:
        run = Run(asked.home or Path(folder), device, asked.seconds, asked.torch_mode)
        run.home.mkdir(parents=True, exist_ok=True)
        return run_parts(run, asked.parts.split(","), asked.json)


def run_parts(run: Run, parts: list[str], path: Path) -> int:
    """The file is written after each part: a run that is cut off keeps what it has."""
    record: dict[str, Any] = {"device": str(run.device), **machine(run), "parts": {}}
    for name in parts:
        began = time.monotonic()
        try:
            figures = PARTS[name](run)
        except Exception as error:
            traceback.print_exc()
            figures = {"failed": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
        record["parts"][name] = {**figures, "seconds": round(time.monotonic() - began, 1)}
        path.write_text(json.dumps(record, indent=1) + "\n")
        show_part(name, record["parts"][name])
    return int(any("failed" in figures for figures in record["parts"].values()))


def machine(run: Run) -> dict[str, Any]:
    import torch

    gpu = "none" if run.trial else torch.cuda.get_device_name(run.device.index)
    packages = {name: installed(name) for name in PACKAGES}
    return {"gpu": gpu, "cuda of torch": torch.version.cuda, "python": platform.python_version(), "packages": packages}


def installed(name: str) -> str:
    """A wheel that was unpacked by hand may have no record of itself."""
    try:
        return version(name)
    except PackageNotFoundError:
        if name == "onnxruntime-gpu":
            import onnxruntime

            return str(onnxruntime.__version__)
        return "not here"


def show_part(name: str, figures: Figures) -> None:
    """Markdown: a line a figure, and a row a case."""
    rows = {case: found for case, found in figures.items() if isinstance(found, dict)}
    print(f"\n## {name}", *(f"{key}: {value}" for key, value in figures.items() if key not in rows), sep="\n")
    columns = list(dict.fromkeys(key for found in rows.values() for key in found if not isinstance(found[key], dict)))
    if rows:
        print(
            table(["", *columns], [[case, *(found.get(key, "") for key in columns)] for case, found in rows.items()]), flush=True
        )


if __name__ == "__main__":
    sys.exit(main())
