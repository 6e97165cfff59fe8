"""The graph that a GPU runs, made once from an artifact's and kept beside it: fused, and in fp16 where that was asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from topwork_server.models.artifacts import PARITY_INPUTS
from topwork_server.runtime.gpu.fp16 import half
from topwork_server.runtime.gpu.fusion import fused
from topwork_server.runtime.gpu.graph_optimization import Model, simplified
from topwork_server.runtime.parity import saved_inputs
from topwork_server.runtime.providers import Device
from topwork_server.types import Array

#: Raised when what is made changes, so that older files are not used.
REVISION = 1


def prepared(model: Path, device: Device) -> Path:
    """The file to open for this device. Safe from several processes. StartError where the device does not take the graph."""
    target = model.with_name(f"{model.stem}-{device.provider}-{device.precision}-{REVISION}.onnx")
    if target.exists() and target.stat().st_mtime_ns >= model.stat().st_mtime_ns:
        return target
    import onnx

    scratch = target.with_suffix(f".{os.getpid()}.part")
    onnx.save(make(model, device), str(scratch))
    scratch.rename(target)
    return target


def make(model: Path, device: Device) -> Model:
    """TensorRT fuses by itself, and knows no fused nodes."""
    plain = simplified(model)
    whole = fused(plain) if device.provider != "tensorrt" else plain
    return half(whole, _examples(model)) if device.precision == "fp16" else whole


def _examples(model: Path) -> list[dict[str, Array]]:
    """The real inputs that the export kept beside the graph; none where there are none."""
    path = model.with_name(PARITY_INPUTS)
    return saved_inputs(path) if path.exists() else []


def planes_of(model: Model) -> int:
    """How many axes the graph convolves over: 2 of pictures, 3 of videos, 0 where it does not."""
    ranks: Mapping[str, int] = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    kernels = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    return max((ranks.get(name, 2) - 2 for name in kernels), default=0)
