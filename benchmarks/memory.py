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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from topwork import Client
from topwork_server.commands import demo_inputs
from topwork_server.commands.demo import ENCODERS, prepare
from topwork_server.config import default_home
from topwork_server.models.artifacts import MODEL
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.example_inputs import clips
from topwork_server.plugin_api.plugin_registry import PluginRegistry

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
        with serving(home, asked.provider) as (process, address):
            figures["idle"] = mib(process)
            with Client(address, timeout=120) as client:
                for name in asked.encoders:
                    figures[name] = of_encoder(client, process, home, name)
            figures["all unloaded"] = mib(process)
            figures["torch mapped into the server"] = any("libtorch" in m.path for m in process.memory_maps())
        register_many(home)
        with serving(home, asked.provider) as (process, _):
            figures[f"idle, with {MANY} more encoders registered"] = mib(process)
    torch = subprocess.run([sys.executable, "-c", WITH_TORCH], check=True, capture_output=True, text=True).stdout
    figures["what torch, timm and transformers would add"] = round(int(torch.split()[-1]) / 2**20, 1)
    print(json.dumps(figures, indent=1))
    return 0


def of_encoder(client: Client, process: psutil.Process, home: Path, name: str) -> dict[str, float]:
    """What the process grew by since this encoder was not there."""
    entry = Catalog(PluginRegistry.load(), home).entry(name)
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
    """A home of our own, so that a server may run beside another."""
    for name in ("artifacts", "encoders"):
        shutil.copytree(home / name, scratch / name, copy_function=linked)
    (scratch / "packages").symlink_to(home / "packages")
    return scratch


def linked(source: str, target: str) -> None:
    """No second copy of weights where the file system allows."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def register_many(home: Path) -> None:
    """Names for the same weights, as `topwork pull URI --name` gives."""
    catalogue = Catalog(PluginRegistry.load(), home)
    source = str(catalogue.source("resnet50-thin"))
    for i in range(MANY):
        catalogue.add(source, f"another-{i}", "resnet")


@contextmanager
def serving(home: Path, provider: str) -> Iterator[tuple[psutil.Process, str]]:
    """A server that unloads after IDLE seconds, and its address."""
    words = ["--json", "--listen", "127.0.0.1:0", "--home", str(home), "--idle-seconds", str(IDLE), "--provider", provider]
    command = [sys.executable, "-m", "topwork.cli", "serve", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        try:
            yield psutil.Process(child.pid), json.loads(child.stdout.readline())["address"]
        finally:
            child.terminate()


def first_item(modality: str) -> Any:
    match modality:
        case "text":
            return "owl"
        case "image":
            return demo_inputs.pictures()["chelsea"]
    return clips()[0]


def mib(process: psutil.Process) -> float:
    return round(float(process.memory_info().rss) / 2**20, 1)


if __name__ == "__main__":
    sys.exit(main())
