"""Check of the weights that are to be exported, so that a damaged file or a training that diverged is not blamed on the
exporter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.types import Array

if TYPE_CHECKING:
    import torch

#: Operators whose constants are weights. Those of others may well be infinite: masks, bounds.
WEIGHED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LayerNormalization", "BatchNormalization", "LSTM", "GRU"})


def check_weights(
    whose: str, module: torch.nn.Module | None = None, graph: Path | None = None, arrays: Mapping[str, Array | None] | None = None
) -> None:
    """Raise InvalidInput, which names the first tensor, where weights of a torch module, an ONNX file or arrays are NaN or
    infinite. `whose` they are begins the message: "mine (file:/models/mine)"."""
    given = ((name, values) for name, values in (arrays or {}).items() if values is not None)
    for name, values in chain(_of_module(module), _of_graph(graph), given):
        if not np.isfinite(values).all():
            raise InvalidInput(
                f"the weights of {whose} are not all numbers: {name} has {_described(values)}",
                remedy="copy the model again, or take another: its file is damaged, or its training diverged",
            )


def _described(values: Array) -> str:
    nans, all_bad = int(np.isnan(values).sum()), int((~np.isfinite(values)).sum())
    counts = ((nans, "NaN"), (all_bad - nans, "infinite"))
    return " and ".join(f"{count:,} {kind}" for count, kind in counts if count) + f" of {values.size:,}"


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
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {name for node in graph.node if node.op_type in WEIGHED for name in node.input}
    constants = [(node.output[0], field.t) for node in graph.node for field in node.attribute if node.op_type == "Constant"]
    for name, tensor in chain(((tensor.name, tensor) for tensor in graph.initializer), constants):
        values = numpy_helper.to_array(tensor, str(path.parent)) if tensor.dims else np.zeros(0, np.float32)
        if np.issubdtype(values.dtype, np.floating):
            yield name, values if name in weights else _without_infinities(values)


def _without_infinities(values: Array) -> Array:
    return np.where(np.isinf(values), 0, values) if np.isinf(values).any() else values
