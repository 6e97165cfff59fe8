"""Resident memory of a server in MiB: idle, with each offline encoder loaded in turn, after full batches of each, and what
importing torch would add.

python -m benchmarks.memory
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import psutil
from topwork import Client
from topwork_server import demo_inputs
from topwork_server.config import default_home
from topwork_server.demo import ENCODERS, prepare, server
from topwork_server.examples import clips

WITH_TORCH = """
import psutil
before = psutil.Process().memory_info().rss
from topwork_server import torch_shim
torch_shim.import_ready()
import timm
from transformers import BertModel
print(psutil.Process().memory_info().rss - before)
"""


def main() -> int:
    home = default_home()
    prepare(home, print)
    figures: dict[str, float] = {}
    with server(home, lambda *words: None) as address:
        process = next(p for p in psutil.Process().children() if "serve" in p.cmdline())
        figures["idle"] = mib(process)
        with Client(address, timeout=120) as client:
            client.encoders()
            for name in ENCODERS:
                client.embed(name, [first_item(client.encoder(name).modality)])
                figures[f"+ {name}"] = mib(process)
            for name in ENCODERS:
                client.embed(name, [first_item(client.encoder(name).modality)] * 64)
                figures[f"after 64 items at once of {name}"] = mib(process)
        figures["torch mapped into the server"] = float(any("libtorch" in m.path for m in process.memory_maps()))
    torch = subprocess.run([sys.executable, "-c", WITH_TORCH], check=True, capture_output=True, text=True).stdout
    figures["what torch, timm and transformers would add"] = round(int(torch.split()[-1]) / 2**20, 1)
    print(json.dumps(figures, indent=1))
    return 0


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
