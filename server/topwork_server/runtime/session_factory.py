"""Opens sessions on the chosen device, and checks that a provider works."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np

from topwork_server.errors import StartError
from topwork_server.runtime.providers import (
    GPUS,
    PLAIN,
    WSL_GPU,
    Device,
    candidates,
    has_nvidia_gpu,
    openvino_fault,
    openvino_installed,
)
from topwork_server.runtime.session import RunnableSession, Session

log = logging.getLogger(__name__)


def open_session(model: Path, device: Device = PLAIN, threads: int | None = None) -> RunnableSession:
    """Open a graph on a device. StartError where the device does not take it. `threads` are those of a CPU; None takes all
    cores."""
    if device.provider == "cpu":
        return Session(model, threads)
    if device.provider == "openvino":
        from topwork_server.runtime.openvino_session import OpenVinoSession

        return OpenVinoSession(model, device, threads)
    from topwork_server.runtime.gpu.gpu_session import GpuSession

    return GpuSession(model, device)


def check_provider(asked: str) -> str:
    """Describe what `asked` comes to here, for a person to read. StartError where it is no provider, or does not work here.

    onnxruntime lists providers that its build has, and falls back to the CPU without a word where they do not work: so a small
    graph is run. Where the plain device is among several, nothing is: what does not work will be measured so, and left out.
    """
    found = candidates(asked)
    if found[0].provider in GPUS and not (has_nvidia_gpu() or WSL_GPU.exists()):
        raise StartError(
            f"the provider {asked} needs an NVIDIA GPU with its driver, and this machine shows none (no /dev/nvidia0)",
            remedy="serve with --provider auto or --provider cpu",
        )
    if PLAIN not in found:
        for device in found:
            probe(device)
    elif asked == "auto" and openvino_installed() and (fault := openvino_fault()):
        log.info("openvino is left out: %s", fault)
    return " or ".join(dict.fromkeys(device.provider for device in found))


def probe(device: Device) -> None:
    """Run a graph of one Relu on it. StartError where that does not work."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "probe.onnx"
        _write_probe(model)
        try:
            session = open_session(model, device)
            (answer,) = session.run(["y"], {"x": np.array([-2.0], np.float32)})
            session.close()
        except StartError:
            raise
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StartError(
                f"the provider {device.provider} does not work here: {reason}",
                remedy="run `topwork doctor`, or serve with --provider cpu",
            ) from error
    if answer.tolist() != [0.0]:
        raise StartError(f"{device} computes wrongly: Relu(-2) is {answer}", remedy="serve with --provider cpu")


def _write_probe(path: Path) -> None:
    from onnx import TensorProto, helper, save

    (x, y) = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
