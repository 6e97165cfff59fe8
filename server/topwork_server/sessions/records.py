"""What was measured of an encoder's devices, kept in its artifact as `device-PROVIDER-PRECISION.json` for the machine that it
holds on."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from topwork_server import __version__
from topwork_server.sessions.providers import GPUS, Device, cpu_facts, cpu_flags

log = logging.getLogger(__name__)

#: Raised when what is measured, or how, changes.
FORMAT = 2
_LIBRARIES = ("onnxruntime-gpu", "onnxruntime", "onnxruntime-ep-openvino", "tensorrt-cu13")


@dataclass(frozen=True)
class Record:
    """By tap, `parity`: min_cosine and max_abs_error against the reference; `invariance`: least cosine between a row computed
    alone and in a batch. `machine` is where this holds. With an `error`, the device does not compute this graph at all."""

    device: Device
    parity: Mapping[str, Mapping[str, float]]
    invariance: Mapping[str, float]
    samples_per_second: float
    machine: str
    error: str = ""


def read(folder: Path, device: Device, machine: str) -> Record | None:
    """None where there is none of this machine."""
    try:
        said = json.loads(_path(folder, device).read_text("utf-8"))
        record = Record(**{**said, "device": device})
    except (OSError, ValueError, TypeError):
        return None
    return record if record.machine == machine else None


def write(folder: Path, record: Record) -> None:
    """An artifact that cannot be written to is measured again at each load."""
    path = _path(folder, record.device)
    scratch = path.with_suffix(f".{os.getpid()}.part")
    said = {**asdict(record), "device": str(record.device)}
    try:
        scratch.write_text(json.dumps(said, indent=1) + "\n", "utf-8")
        scratch.rename(path)
    except OSError as error:
        log.warning("%s cannot be kept: %s", path, error.strerror)
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def _path(folder: Path, device: Device) -> Path:
    return folder / f"device-{device.provider}-{device.precision}.json"


def this_machine(device: Device, threads: int) -> str:
    """What a measurement of the device depends on: processor or GPU, libraries, threads."""
    hardware = _gpu() if device.provider in GPUS else f"{_cpu()}, {threads} threads"
    return f"{hardware}; {_libraries()}; measured as {FORMAT}"


def _cpu() -> str:
    facts = cpu_facts()
    said = " ".join(facts.get(name, "?") for name in ("model name", "cpu family", "model", "stepping"))
    return " ".join([said, *sorted(flag for flag in cpu_flags() if flag.startswith(("amx", "avx512_bf16", "avx512_vnni")))])


def _gpu() -> str:
    """Its name and its driver's, as the driver tells them."""
    said = [*Path("/proc/driver/nvidia/gpus").glob("*/information"), Path("/proc/driver/nvidia/version")]
    lines = (" ".join(line.split()) for path in said if path.exists() for line in path.read_text("utf-8").splitlines())
    return "; ".join(sorted({line for line in lines if line.startswith(("Model:", "NVRM version:"))})) or "a GPU"


@cache
def _libraries() -> str:
    return ", ".join([f"topwork-server {__version__}", *(f"{name} {found}" for name in _LIBRARIES if (found := _version(name)))])


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
