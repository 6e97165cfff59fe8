"""Check of the weights that are to be exported, so that a damaged file or a training that diverged is not blamed on the
exporter."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.models import onnx_files
from topwork_server.plugin_api.encoder import Trunk
from topwork_server.plugin_api.trainer import PretrainedHead
from topwork_server.types import Array, EncoderSpec

if TYPE_CHECKING:
    import torch

#: Operators whose constants are weights. Those of others may well be infinite: masks, bounds.
WEIGHED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LayerNormalization", "BatchNormalization", "LSTM", "GRU"})


def check_finite(spec: EncoderSpec, trunk: Trunk) -> None:
    """Raise InvalidInput, which names the first tensor, where weights of the trunk or of its heads are NaN or infinite."""
    heads = trunk.heads if spec.tuned is None else ()
    named = chain(_of_module(trunk.module), _of_graph(trunk.graph), *map(_of_head, heads))
    if found := next((f"{name} has {_described(values)}" for name, values in named if not np.isfinite(values).all()), ""):
        raise InvalidInput(
            f"the weights of {spec.name} ({spec.source}) are not all numbers: {found}",
            remedy="copy the model again, or take another: its file is damaged, or its training diverged",
        )


def _described(values: Array) -> str:
    nans, all_bad = int(np.isnan(values).sum()), int((~np.isfinite(values)).sum())
    counts = ((nans, "NaN"), (all_bad - nans, "infinite"))
    return " and ".join(f"{count:,} {kind}" for count, kind in counts if count) + f" of {values.size:,}"


def _of_head(head: PretrainedHead) -> Iterator[tuple[str, Array]]:
    for name, values in (("weight", head.weight), ("bias", head.bias)):
        if values is not None:
            yield f"{name} of the head {head.name}", values
    for name, values in _of_module(head.module):
        yield f"{name} of the head {head.name}", values


def _of_module(module: torch.nn.Module | None) -> Iterator[tuple[str, Array]]:
    """Yield parameters, and buffers without their infinities, which masks have."""
    if module is None:
        return
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point():
            yield name, parameter.detach().cpu().float().numpy()
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            yield name, _without_infinities(buffer.detach().cpu().float().numpy())


def _of_graph(path: Path | None) -> Iterator[tuple[str, Array]]:
    """Yield the constants of floating point; those that are no weights without their infinities."""
    if path is None:
        return
    from onnx import numpy_helper

    graph = onnx_files.load_structure(path).graph
    weights = {name for node in graph.node if node.op_type in WEIGHED for name in node.input}
    constants = [(node.output[0], field.t) for node in graph.node for field in node.attribute if node.op_type == "Constant"]
    for name, tensor in chain(((tensor.name, tensor) for tensor in graph.initializer), constants):
        values = numpy_helper.to_array(tensor, str(path.parent)) if tensor.dims else np.zeros(0, np.float32)
        if np.issubdtype(values.dtype, np.floating):
            yield name, values if name in weights else _without_infinities(values)


def _without_infinities(values: Array) -> Array:
    return np.where(np.isinf(values), 0, values) if np.isinf(values).any() else values
