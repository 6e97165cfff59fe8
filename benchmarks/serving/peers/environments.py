"""Makes an environment for each peer, pinned, because they cannot share one:

    python -m benchmarks.serving.peers.environments [NAME ...]

Torch is pinned to the build for CPUs where pip is told of one: unpinned, most of these would
bring gigabytes for GPUs. Nothing but the standard library is imported here.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.serving.peers import ENVIRONMENTS

TORCH = "torch==2.13.0"
RUNTIME = "onnxruntime==1.31.1"
HANDLER = (RUNTIME, "tokenizers==0.23.3", "pillow==13.0.0")
INFINITY = (TORCH, "infinity-emb[server,torch]==0.0.78", "optimum-onnx==0.1.0", "transformers==4.57.6")
REQUIREMENTS = {
    "infinity": (*INFINITY, RUNTIME),
    "infinity-openvino": (*INFINITY, "onnxruntime-openvino==1.24.1"),
    "litserve": ("litserve==0.2.19", *HANDLER),
    "mosec": ("mosec==0.9.8", *HANDLER, "onnxruntime-ep-openvino==1.8.1"),
    "pytriton": ("nvidia-pytriton==0.7.0", *HANDLER),
    "sentence-transformers": (TORCH, "sentence-transformers==6.2.0"),
}


def python_of(environment: str) -> Path:
    return ENVIRONMENTS / environment / "bin" / "python"


def missing(environment: str) -> str | None:
    """Tell why what needs it cannot run, and what makes it run; None when it is there as it should be."""
    if _is_made(environment):
        return None
    return f"no environment {environment}: run `make bench-peers`"


def versions(environment: str, *packages: str) -> dict[str, str]:
    """Return the versions of those of the packages that are installed there."""
    folders = [str(folder) for folder in (ENVIRONMENTS / environment).glob("lib/python*/site-packages")]
    installed = {d.name.lower().replace("_", "-"): d.version for d in distributions(path=folders)}
    return {package: installed[package] for package in packages if package in installed}


def make(environment: str) -> None:
    if _is_made(environment):
        return
    folder = ENVIRONMENTS / environment
    print(f"{environment}: {' '.join(REQUIREMENTS[environment])}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(python_of(environment)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *REQUIREMENTS[environment]], check=True)
    _mark(environment).write_text(_wanted(environment))


def _is_made(environment: str) -> bool:
    mark = _mark(environment)
    return mark.exists() and mark.read_text() == _wanted(environment)


def _mark(environment: str) -> Path:
    """Holds the requirements once all of them are installed."""
    return ENVIRONMENTS / environment / "installed"


def _wanted(environment: str) -> str:
    return "\n".join(REQUIREMENTS[environment])


def main() -> int:
    for environment in sys.argv[1:] or REQUIREMENTS:
        make(environment)
    return 0


if __name__ == "__main__":
    sys.exit(main())
