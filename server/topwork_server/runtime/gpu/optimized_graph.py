"""The optimized graph of a GPU, made once from an artifact's and kept beside it: fused, and in fp16 if requested."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from topwork_server import atomic_store
from topwork_server.models import onnx_files
from topwork_server.models.artifacts import PARITY_INPUTS
from topwork_server.runtime.gpu.fp16 import to_fp16
from topwork_server.runtime.gpu.fusion import fuse_attention
from topwork_server.runtime.gpu.graph_optimization import Model, simplify
from topwork_server.runtime.parity import saved_inputs
from topwork_server.runtime.providers import Device
from topwork_server.types import Array

#: Raised when the optimization changes, so that older files are not used.
REVISION = 1


def optimized_graph(model: Path, device: Device) -> Path:
    """The graph's file for this device, written if need be. Safe from several processes. StartError where the device cannot run
    it."""
    target = model.with_name(f"{model.stem}-{device.provider}-{device.precision}-{REVISION}.onnx")
    if target.exists() and target.stat().st_mtime_ns >= model.stat().st_mtime_ns:
        return target
    with atomic_store.scratch_folder(target.parent, f".{target.name}.") as scratch:
        made = scratch / target.name
        onnx_files.save(optimize(model, device), made)
        for path in (onnx_files.data_of(made), made):  # the graph last: it stands for both
            if path.exists():
                atomic_store.sync(path)
                path.replace(target.with_name(path.name))
    atomic_store.sync(target.parent)
    return target


def optimize(model: Path, device: Device) -> Model:
    """Optimize a graph. It is not fused for TensorRT, which fuses by itself and knows no fused nodes."""
    plain = simplify(model)
    whole = fuse_attention(plain) if device.provider != "tensorrt" else plain
    return to_fp16(whole, _examples(model)) if device.precision == "fp16" else whole


def _examples(model: Path) -> list[dict[str, Array]]:
    """The real inputs that the export kept beside the graph; none where there are none."""
    path = model.with_name(PARITY_INPUTS)
    return saved_inputs(path) if path.exists() else []


def spatial_axes(model: Model) -> int:
    """Number of axes over which the graph convolves: 2 for images, 3 for videos, 0 for none."""
    ranks: Mapping[str, int] = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    kernels = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    return max((ranks.get(name, 2) - 2 for name in kernels), default=0)
