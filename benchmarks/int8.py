"""An int8 encoder beside the fp32 encoder that it was made of, in process on plain onnxruntime: samples/s of the default tap, in
turns within one run, at several batch sizes.

python -m benchmarks.int8 resnet50-thin-int8 [--seconds 1] [--rounds 7]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from topwork_server.models.artifacts import PARITY_INPUTS, graph_for
from topwork_server.runtime.session import Session
from topwork_server.types import Array

from benchmarks import models
from benchmarks.measure import median_ratio, rate, turns

BATCHES = (1, 8)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8")
    parser.add_argument("encoder")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    entry, folder, _ = models.opened(asked.encoder)
    if entry.spec.int8 is None or entry.manifest is None:
        parser.error(f"{asked.encoder} is not an int8 encoder: make one with `topwork quantize`")
    folders = (models.opened(entry.spec.int8.base)[1], folder)
    found = {"encoder": asked.encoder, "parity": entry.manifest.parity[entry.spec.default_tap]}
    for count in BATCHES:
        found[f"batch {count}"] = measured(folders, entry.spec.default_tap, count, asked.seconds, asked.rounds)
    print(json.dumps(found, indent=1))
    return 0


def measured(folders: Sequence[Path], tap: str, count: int, seconds: float, rounds: int) -> dict[str, float]:
    feeds = repeated(folders[0] / PARITY_INPUTS, count)
    works = {name: work(graph_for(f, [tap], tap), tap, feeds) for name, f in zip(("fp32", "int8"), folders, strict=True)}
    rates = turns({name: partial(rate, work, seconds) for name, work in works.items()}, rounds)
    medians = {name: round(median(values), 1) for name, values in rates.items()}
    return medians | {"times": round(median_ratio(rates["int8"], rates["fp32"]), 2)}


def repeated(path: Path, count: int) -> dict[str, Array]:
    """Return the first input that the export kept, `count` times."""
    with np.load(path) as kept:
        return {key.removeprefix("0/"): np.repeat(kept[key], count, axis=0) for key in kept if key.startswith("0/")}


def work(graph: Path, tap: str, feeds: dict[str, Array]) -> Callable[[], int]:
    session = Session(graph)
    session.run([tap], feeds)
    return lambda: len(session.run([tap], feeds)[0])


if __name__ == "__main__":
    raise SystemExit(main())
