"""All figures of the GPU in one call; what one part cannot give does not cost the others theirs:

    python -m benchmarks.gpu --json gpu.json [--provider cuda|tensorrt] [--precision fp16|fp32] [--parts peak,parity,...]

`--provider cpu` tries the script out on a machine without a GPU, with small batches: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from topwork_server.runtime.providers import Device

from benchmarks.gpu.parts import PARTS, Bench
from benchmarks.gpu.sides import Pace

SIZES = {"pictures": (1, 8, 32, 128, 256), "texts": (1, 8, 64, 256), "clips": (1, 4, 16)}
SMALL = {"pictures": (1, 2), "texts": (1, 2), "clips": (1,)}
PACKAGES = ("onnxruntime-gpu", "torch", "timm", "transformers", "numpy", "tensorrt")


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
    trial = asked.provider == "cpu"
    device = Device(asked.provider, asked.precision or ("fp32" if trial else "fp16"))
    with tempfile.TemporaryDirectory() as folder:
        pace = Pace(asked.seconds, warm=1 if trial else 6, rounds=1 if trial else 3)
        bench = Bench(asked.home or Path(folder), device, SMALL if trial else SIZES, pace, asked.torch_mode)
        return _run(bench, asked.parts.split(","), asked.json)


def _run(bench: Bench, parts: list[str], path: Path) -> int:
    """The file is written after each part: a run that is cut off keeps what it has."""
    record: dict[str, Any] = {"device": str(bench.device), **_machine(bench), "parts": {}}
    for name in parts:
        began = time.monotonic()
        try:
            figures: dict[str, Any] = PARTS[name](bench)
        except Exception as error:
            traceback.print_exc()
            figures = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        record["parts"][name] = {**figures, "seconds": round(time.monotonic() - began, 1)}
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(table(name, record["parts"][name]), flush=True)
    return int(any("failed" in figures for figures in record["parts"].values()))


def _machine(bench: Bench) -> dict[str, Any]:
    import torch

    gpu = "none" if bench.device.provider == "cpu" else torch.cuda.get_device_name(bench.device.index)
    return {"gpu": gpu, "cuda of torch": torch.version.cuda, "python": platform.python_version(),
            "packages": {name: _version(name) for name in PACKAGES}}  # fmt: skip


def _version(name: str) -> str:
    """A wheel that was unpacked by hand may have no record of itself."""
    try:
        return version(name)
    except PackageNotFoundError:
        if name == "onnxruntime-gpu":
            import onnxruntime

            return str(onnxruntime.__version__)
        return "not here"


def table(name: str, figures: dict[str, Any]) -> str:
    """Markdown: a row a case."""
    rows = {case: found for case, found in figures.items() if isinstance(found, dict)}
    lines = [f"\n## {name}", *(f"{key}: {value}" for key, value in figures.items() if key not in rows)]
    columns = list(dict.fromkeys(key for found in rows.values() for key in found if not isinstance(found[key], dict)))
    if rows:
        lines += ["", "| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        lines += ["| " + " | ".join([case, *(str(found.get(key, "")) for key in columns)]) + " |" for case, found in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
