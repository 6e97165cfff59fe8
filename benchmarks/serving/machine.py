"""Where and with what it was measured."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from topwork_server.config import usable_cores
from topwork_server.runtime.providers import cpu_facts, cpu_flags

PACKAGES = (
    "onnxruntime-gpu",
    "onnxruntime-ep-openvino",
    "numpy",
    "grpcio",
    "protobuf",
    "tokenizers",
    "simplejpeg",
    "pillow",
    "av",
)
#: What the figures of a part depend on: a part that was measured from other sources is measured anew.
SOURCES = ("server", "plugins", "clients/python", "benchmarks/serving", "benchmarks/batching.py", "benchmarks/inputs.py")
#: Of those, what only shows figures.
SHOWN = {"aims.py", "page.py", "plots.py", "tables.py"}
ROOT = Path(__file__).parents[2]


def described() -> dict[str, object]:
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "instructions": _instructions(),
        "memory GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def commit() -> str:
    """Short, with a + where the sources differ from it."""
    changed = _git("status", "--porcelain", "--", *SOURCES)
    return _git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def sources() -> str:
    """A hash of the sources as they are now."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        root = ROOT / folder
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            if path.parent.name == "serving" and path.name in SHOWN:
                continue
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    return cpu_facts().get("model name") or platform.processor() or os.uname().machine


def _instructions() -> list[str]:
    """Those that decide how fast a network is."""
    return [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if name in cpu_flags()]
