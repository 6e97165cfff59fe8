"""The JSON file of a run: written after each contender, so that a run that was cut off goes on where it stopped. With the machine
and the sources that it was measured on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from topwork_server.config import usable_cores
from topwork_server.runtime.providers import cpu_facts, cpu_flags

from benchmarks.processes import ROOT

Record = dict[str, Any]

PACKAGES = "onnxruntime-gpu onnxruntime-ep-openvino numpy grpcio protobuf tokenizers simplejpeg pillow av".split()
INSTRUCTIONS = "avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_int8".split()
"""Instructions of a CPU that decide how fast a network is."""
SHARED = ("inputs", "measure", "models", "processes")
SOURCES = ("server", "plugins", "clients/python", "benchmarks/serving", *(f"benchmarks/{name}.py" for name in SHARED))
"""Sources that the figures of a part depend on: a part that was measured from others is measured again."""
SHOWN = {"targets.py", "page.py"}
"""Sources among them that only show figures."""


class Results:
    """The parts that were measured on one machine. Those of another machine are put aside as FILE.old."""

    def __init__(self, path: Path, again: bool = False) -> None:
        self.path = path
        self._sources = sources()
        here = machine()
        self.all: dict[str, Any] = {"machine": here, "parts": {}}
        if path.exists():
            before = json.loads(path.read_text())
            if before["machine"] == here:
                self.all = before
            else:
                path.rename(path.with_suffix(path.suffix + ".old"))
        self._again = again

    def part(self, name: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Return what is there, where it was measured from the same sources with the same settings; else a new one."""
        made = {"sources": self._sources, "settings": settings}
        known = self.all["parts"].get(name)
        if known is None or self._again or any(known[key] != value for key, value in made.items()):
            known = self.all["parts"][name] = made | {
                "commit": commit(), "began": time.strftime("%Y-%m-%d %H:%M"), "seconds": 0.0,
                "contenders": {}, "records": [], "failed": {}, "done": [],
            }  # fmt: skip
        found: dict[str, Any] = known
        return found

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(f"{self.path.suffix}.{os.getpid()}")
        partial.write_text(json.dumps(self.all, indent=1) + "\n")
        partial.replace(self.path)


def chosen(part: dict[str, Any], contender: str, load: str, **wanted: Any) -> list[Record]:
    """The records of one load of one contender, a round each."""
    return [
        r for r in part["records"]
        if r["contender"] == contender and r["load"] == load and all(r.get(key) == value for key, value in wanted.items())
    ]  # fmt: skip


def middle(records: list[Record], key: str | Callable[[Record], float | None]) -> float | None:
    """The median over the rounds; None where it was not measured."""
    values = [key(r) if callable(key) else r.get(key) for r in records]
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def rounded(record: Record) -> Record:
    """Five significant digits are more than the machine repeats."""
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in record.items()}


def machine() -> dict[str, object]:
    return {
        "processor": cpu_facts().get("model name") or platform.processor() or os.uname().machine,
        "cores": usable_cores(),
        "instructions": [name for name in INSTRUCTIONS if name in cpu_flags()],
        "memory GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: installed(name) or "not installed" for name in PACKAGES},
    }


def installed(package: str) -> str | None:
    """The version of a package of this environment."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str:
    """Short, with a + where the sources differ from it."""
    return _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "--", *SOURCES) else "")


def sources() -> str:
    """A hash of the sources as they are now."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        root = ROOT / folder
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            if not (path.parent.name == "serving" and path.name in SHOWN):
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        return ""
