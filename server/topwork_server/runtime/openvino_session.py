"""OpenVINO as a plugin provider of onnxruntime: the same graph, computed by Intel's library, in bf16 where there is AMX."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from topwork_server.errors import StartError
from topwork_server.runtime.providers import Device, openvino_installed
from topwork_server.runtime.session import Session

EP = "OpenVINOExecutionProvider"
_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoSession(Session):
    """A graph on the CPU by OpenVINO. Its `run` may be called from one thread at a time."""

    _provider = EP

    def __init__(self, model: Path, device: Device, threads: int | None = None) -> None:
        self._threads = threads or os.cpu_count() or 1
        super().__init__(model, threads, device=device)

    def _opened(self, model: Path, options: Any) -> Any:
        import onnxruntime

        options.add_provider_for_devices([_cpu()], {"load_config": json.dumps({"CPU": self._config()})})
        session = onnxruntime.InferenceSession(str(model), options)
        if session.get_providers()[0] != EP:
            raise StartError(
                f"{self.device} did not take the graph: onnxruntime fell back to {session.get_providers()[0]}",
                remedy="serve with --provider cpu",
            )
        return session

    def _config(self) -> dict[str, str]:
        """OpenVINO's own names, read through load_config: onnxruntime's count of threads is not what it computes with, and its
        precision would be bf16 wherever there is AMX."""
        return {"INFERENCE_PRECISION_HINT": _HINTS[self.device.precision], "INFERENCE_NUM_THREADS": str(self._threads)}


def _cpu() -> Any:
    """The CPU as the plugin's device."""
    if not openvino_installed():
        raise StartError(
            "the provider openvino is not installed",
            remedy="run `pip install onnxruntime-ep-openvino` (Linux on x86-64), or serve with --provider auto",
        )
    import onnxruntime

    _register()
    found = [
        d for d in onnxruntime.get_ep_devices() if d.ep_name == EP and d.device.type == onnxruntime.OrtHardwareDeviceType.CPU
    ]
    if not found:
        raise StartError("the plugin of OpenVINO finds no CPU that it can use", remedy="serve with --provider cpu")
    return found[0]


@cache
def _register() -> None:
    """Register the plugin's library with onnxruntime, once a process: a second time is an error."""
    import onnxruntime
    import onnxruntime_ep_openvino as plugin

    onnxruntime.register_execution_provider_library("openvino", plugin.get_library_path())
