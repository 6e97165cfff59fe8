"""Graphs of heads in ONNX, for trainers: input `rows` (n, dim) float32, output `scores` (n, outputs) float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from topwork_server.types import Array

if TYPE_CHECKING:
    import onnx

OPSET = 20
#: Understood by every onnxruntime that has the opset.
IR_VERSION = 10


def linear_graph(weight: Array, bias: Array) -> onnx.ModelProto:
    """scores = rows @ weight.T + bias, of weight (outputs, dim) and bias (outputs,)."""
    from onnx import helper

    gemm = helper.make_node("Gemm", ["rows", "weight", "bias"], ["scores"], transB=1)
    return head_graph([gemm], {"weight": weight, "bias": bias}, weight.shape[1], weight.shape[0])


def head_graph(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array], dim: int, outputs: int) -> onnx.ModelProto:
    """A checked model of those nodes. Constants of floating point become float32, others int64."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", dim])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", outputs])
    stored = [numpy_helper.from_array(_constant(array), name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "head", [rows], [scores], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def _constant(array: Array) -> Array:
    return np.ascontiguousarray(array, np.float32 if np.issubdtype(array.dtype, np.floating) else np.int64)
