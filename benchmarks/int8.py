"""An int8 encoder beside the fp32 encoder that it was made of, in process on plain onnxruntime: samples/s of the default tap, in
turns within one run, at several batch sizes.

python -m benchmarks.int8 resnet50-thin-int8 [--seconds 1] [--rounds 7]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from topwork_server.config import default_home
from topwork_server.models.artifacts import PARITY_INPUTS, graph_for
from topwork_server.models.catalog import Catalog, CatalogEntry
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.runtime.session import Session
from topwork_server.types import Array

BATCHES = (1, 8)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8")
    parser.add_argument("encoder")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    catalogue = Catalog(PluginRegistry.load(), default_home())
    entry = catalogue.entry(asked.encoder)
    if entry.spec.int8 is None or entry.manifest is None:
        parser.error(f"{asked.encoder} is not an int8 encoder: make one with `topwork quantize`")
    both = (catalogue.entry(entry.spec.int8.base), entry)
    figures = {f"batch {count}": measure(both, count, asked.seconds, asked.rounds) for count in BATCHES}
    print(json.dumps({"encoder": asked.encoder, "parity": entry.manifest.parity[entry.spec.default_tap], **figures}, indent=1))
    return 0


def measure(entries: Sequence[CatalogEntry], count: int, seconds: float, rounds: int) -> dict[str, float]:
    taps = [entries[0].spec.default_tap]
    folders = [entry.folder for entry in entries if entry.folder]
    feeds = repeated(folders[0] / PARITY_INPUTS, count)
    sessions = [Session(graph_for(folder, taps, taps[0])) for folder in folders]
    for session in sessions:
        session.run(taps, feeds)
    rates: list[list[float]] = [[], []]
    for _ in range(rounds):
        for session, found in zip(sessions, rates, strict=True):
            found.append(rate(session, taps, feeds, seconds) * count)
    fp32, int8 = (median(found) for found in rates)
    return {"fp32": round(fp32, 1), "int8": round(int8, 1), "times": round(int8 / fp32, 2)}


def repeated(path: Path, count: int) -> dict[str, Array]:
    """The first input that the export kept, `count` times."""
    with np.load(path) as kept:
        return {key.removeprefix("0/"): np.repeat(kept[key], count, axis=0) for key in kept if key.startswith("0/")}


def rate(session: Session, taps: Sequence[str], feeds: Mapping[str, Array], seconds: float) -> float:
    """Batches a second."""
    began, runs = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        session.run(taps, feeds)
        runs += 1
    return runs / (time.perf_counter() - began)


if __name__ == "__main__":
    raise SystemExit(main())
