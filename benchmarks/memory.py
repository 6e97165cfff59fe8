"""Resident memory of a server in MiB: idle, by encoder beside the size of its weights (loaded, after full batches, after it was
unloaded), with many encoders registered, and what importing torch would add.

python -m benchmarks.memory [--provider cpu] [--encoders NAME ...]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from topwork import Client
from topwork_server.commands import demo_inputs
from topwork_server.commands.demo import ENCODERS, prepare
from topwork_server.config import default_home
from topwork_server.models.artifacts import MODEL
from topwork_server.plugin_api.example_inputs import clips, recordings

from benchmarks import models
from benchmarks.processes import server

WITH_TORCH = """
import psutil
before = psutil.Process().memory_info().rss
from topwork_server.models import torch_compat
torch_compat.prepare_torchvision()
import timm
from transformers import BertModel
print(psutil.Process().memory_info().rss - before)
"""
IDLE = 3.0  # seconds after which the server unloads
MANY = 20
BULK = 64


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    asked = parser.parse_args()
    prepare(default_home(), print)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        home = copied(default_home(), Path(scratch))
        with serving(home, asked.provider) as (address, process), Client(address, timeout=120) as client:
            figures["idle"] = mib(process)
            for name in asked.encoders:
                figures[name] = of_encoder(client, process, home, name)
            figures["all unloaded"] = mib(process)
            figures["torch mapped into the server"] = any("libtorch" in m.path for m in process.memory_maps())
        register_many(home)
        with serving(home, asked.provider) as (_, process):
            figures[f"idle, with {MANY} more encoders registered"] = mib(process)
    torch = subprocess.run([sys.executable, "-c", WITH_TORCH], check=True, capture_output=True, text=True).stdout
    figures["what torch, timm and transformers would add"] = round(int(torch.split()[-1]) / 2**20, 1)
    print(json.dumps(figures, indent=1))
    return 0


def serving(home: Path, provider: str) -> AbstractContextManager[tuple[str, psutil.Process]]:
    return server(home, "--idle-seconds", str(IDLE), "--provider", provider)


def of_encoder(client: Client, process: psutil.Process, home: Path, name: str) -> dict[str, float]:
    """Return what the process grew by since this encoder was not there."""
    entry = models.catalog(home).entry(name)
    assert entry.folder is not None, "it is exported"
    before, item = mib(process), first_item(client.encoder(name).modality)
    client.embed(name, [item])
    loaded = mib(process)
    client.embed(name, [item] * BULK)
    busy = mib(process)
    while client.encoder(name).state == "loaded":
        time.sleep(0.2)
    found = {"loaded": loaded, f"after {BULK} items at once": busy, "unloaded": mib(process)}
    graph = round((entry.folder / MODEL).stat().st_size / 2**20, 1)
    return {"its graph on disk": graph, **{key: round(value - before, 1) for key, value in found.items()}}


def copied(home: Path, scratch: Path) -> Path:
    """A home whose records may change; weights are linked where the file system allows."""
    for name in ("artifacts", "encoders"):
        if (home / name).exists():
            shutil.copytree(home / name, scratch / name, copy_function=linked)
    (scratch / "packages").symlink_to((home / "packages").resolve())
    return scratch


def linked(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def register_many(home: Path) -> None:
    """Names for the same weights, as `topwork pull URI --name` gives."""
    catalog = models.catalog(home)
    add = partial(catalog.add, str(catalog.source("resnet50-thin")))
    for i in range(MANY):
        add(f"another-{i}", "resnet")


def first_item(modality: str) -> Any:
    match modality:
        case "text":
            return "owl"
        case "image":
            return demo_inputs.pictures()["chelsea"]
        case "audio":
            return recordings()[0].data
    return clips()[0]


def mib(process: psutil.Process) -> float:
    return round(float(process.memory_info().rss) / 2**20, 1)


if __name__ == "__main__":
    sys.exit(main())
