"""Measurements of an encoder's devices, stored in its artifact as `device-PROVIDER-PRECISION.json` for one machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from topwork_server import __version__, json_records
from topwork_server.errors import DataLoss
from topwork_server.runtime.providers import GPUS, Device, cpu_facts, cpu_flags

log = logging.getLogger(__name__)

#: Raised when what is measured, or how, changes.
FORMAT = 2
_LIBRARIES = ("onnxruntime-gpu", "onnxruntime", "onnxruntime-ep-openvino", "tensorrt-cu13")


@dataclass(frozen=True)
class DeviceRecord:
    """The measurements of one device. By tap, `parity`: min_cosine and max_abs_error against the reference; `invariance`: least
    cosine between a row computed alone and in a batch. `machine` is where this holds. With an `error`, the device does not
    compute this graph at all."""

    device: Device
    parity: Mapping[str, Mapping[str, float]]
    invariance: Mapping[str, float]
    samples_per_second: float
    machine: str
    error: str = ""


@dataclass(frozen=True)
class _StoredRecord:
    """A record as in its file, whose name tells the device."""

    parity: Mapping[str, Mapping[str, float]]
    invariance: Mapping[str, float]
    samples_per_second: float
    machine: str
    error: str = ""


def read_record(folder: Path, device: Device, machine: str) -> DeviceRecord | None:
    """The stored record; None where there is none of this machine."""
    try:
        stored = json_records.read(_path(folder, device), _StoredRecord)
    except OSError:
        return None
    except DataLoss as error:
        log.warning("it is measured again: %s", error)
        return None
    record = DeviceRecord(device, stored.parity, stored.invariance, stored.samples_per_second, stored.machine, stored.error)
    return record if record.machine == machine and (record.error or _is_complete(record)) else None


def _is_complete(record: DeviceRecord) -> bool:
    return all({"min_cosine", "max_abs_error"} <= set(worst) for worst in record.parity.values())


def write_record(folder: Path, record: DeviceRecord) -> None:
    """Store a record. An artifact that cannot be written to is measured again at each load."""
    path = _path(folder, record.device)
    try:
        json_records.write(path, {**asdict(record), "device": str(record.device)}, indent=1)
    except OSError as error:
        log.warning("%s cannot be kept: %s", path, error.strerror)


def _path(folder: Path, device: Device) -> Path:
    return folder / f"device-{device.provider}-{device.precision}.json"


def this_machine(device: Device, threads: int) -> str:
    """Key of all that a measurement depends on: processor or GPU, libraries, threads."""
    hardware = _gpu() if device.provider in GPUS else f"{_cpu()}, {threads} threads"
    return f"{hardware}; {_libraries()}; measured as {FORMAT}"


def _cpu() -> str:
    facts = cpu_facts()
    processor = " ".join(facts.get(name, "?") for name in ("model name", "cpu family", "model", "stepping"))
    return " ".join([processor, *sorted(flag for flag in cpu_flags() if flag.startswith(("amx", "avx512_bf16", "avx512_vnni")))])


def _gpu() -> str:
    """Names of the GPU and its driver."""
    files = [*Path("/proc/driver/nvidia/gpus").glob("*/information"), Path("/proc/driver/nvidia/version")]
    lines = (" ".join(line.split()) for path in files if path.exists() for line in path.read_text("utf-8").splitlines())
    return "; ".join(sorted({line for line in lines if line.startswith(("Model:", "NVRM version:"))})) or "a GPU"


@cache
def _libraries() -> str:
    return ", ".join([f"topwork-server {__version__}", *(f"{name} {found}" for name in _LIBRARIES if (found := _version(name)))])


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
