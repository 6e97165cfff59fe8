"""The devices that may compute on this machine. A graph's parity and speed on each of them are measured
(`device_benchmark.py`)."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from topwork_server.errors import StartError

#: Where Linux under Windows shows a GPU.
WSL_GPU = Path("/dev/dxg")
CPUINFO = Path("/proc/cpuinfo")
GPUS = ("cuda", "tensorrt")
PROVIDERS = ("auto", "cpu", "openvino", *GPUS)
_LIST_CPUS = """
import onnxruntime, onnxruntime_ep_openvino as plugin
onnxruntime.register_execution_provider_library("openvino", plugin.get_library_path())
cpu = onnxruntime.OrtHardwareDeviceType.CPU
print(int(any(d.ep_name == "OpenVINOExecutionProvider" and d.device.type == cpu for d in onnxruntime.get_ep_devices())))
"""


@dataclass(frozen=True, slots=True)
class Device:
    """A device and the precision in which it computes a graph: cpu fp32, openvino bf16, openvino fp32, cuda fp16, cuda fp32,
    tensorrt fp16. `index` is the GPU's."""

    provider: str
    precision: str = "fp32"
    index: int = 0

    def __str__(self) -> str:
        return f"{self.provider} {self.precision}"


#: The reference's own: every artifact runs on it.
PLAIN = Device("cpu")


def candidates(asked: str) -> tuple[Device, ...]:
    """List the devices that may compute here for `--provider asked`, likely fastest first. On several GPUs these stand for all:
    see `everywhere`.

    StartError where there is no such provider.
    """
    if asked == "auto":
        if has_nvidia_gpu():
            return candidates("cuda")
        return (*(candidates("openvino") if has_openvino() else ()), PLAIN)
    known = {
        "cpu": (PLAIN,),
        "openvino": (*([Device("openvino", "bf16")] if "amx_bf16" in cpu_flags() else []), Device("openvino")),
        "cuda": (Device("cuda", "fp16"), Device("cuda")),
        "tensorrt": (Device("tensorrt", "fp16"), Device("tensorrt")),
    }
    if asked not in known:
        raise StartError(f"there is no provider {asked!r}", remedy=f"choose one of {', '.join(PROVIDERS)}")
    return known[asked]


def everywhere(device: Device) -> tuple[Device, ...]:
    """The same on every GPU of this machine; on a CPU it is one."""
    if device.provider not in GPUS:
        return (device,)
    return tuple(Device(device.provider, device.precision, index) for index in range(max(len(_nvidia_gpus()), 1)))


def has_nvidia_gpu() -> bool:
    """onnxruntime lists CUDA wherever its build has it, with a GPU or without: the driver's device files tell."""
    return Path("/dev/nvidiactl").exists() and bool(_nvidia_gpus())


def _nvidia_gpus() -> list[Path]:
    return list(Path("/dev").glob("nvidia[0-9]*"))


def has_openvino() -> bool:
    """True where OpenVINO's plugin is installed and finds a CPU that it computes on (Intel's; it lists none on an AMD)."""
    return openvino_installed() and not openvino_fault()


def openvino_installed() -> bool:
    """True where the plugin can be imported; it is made for Linux on x86-64."""
    return find_spec("onnxruntime_ep_openvino") is not None


@cache
def openvino_fault() -> str:
    """Reason why the installed plugin computes nothing here; empty where it does.

    The library is asked once, in a process of its own: its 70 MiB stay out of an idle server, and a library that crashes on this
    processor takes nothing with it.
    """
    try:
        asked = subprocess.run([sys.executable, "-c", _LIST_CPUS], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"its plugin could not be asked ({error})"
    if asked.returncode:
        last = asked.stderr.strip().splitlines()[-1:] or [f"exit status {asked.returncode}"]
        return f"its plugin cannot be loaded ({last[0]})"
    return "" if asked.stdout.split()[-1:] == ["1"] else "its plugin finds no CPU here that it can use"


@cache
def cpu_flags() -> frozenset[str]:
    """The instruction sets of this processor by Linux's names (amx_bf16, on Arm asimddp); none where the system does not say."""
    facts = cpu_facts()
    return frozenset(facts.get("flags", facts.get("Features", "")).split())


@cache
def cpu_facts() -> dict[str, str]:
    """Linux's description of the first processor: "model name", "cpu family", "model", "stepping", "flags" ..."""
    try:
        first = CPUINFO.read_text("utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
