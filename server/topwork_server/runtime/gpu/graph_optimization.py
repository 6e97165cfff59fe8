"""Graphs simplified by onnxruntime, and the types of all their tensors (onnx does not know those of fused nodes)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from topwork_server.models import onnx_files

#: onnxruntime's option that names the file for the weights of the optimized graph.
BESIDE = "session.optimized_model_external_initializers_file_name"
#: onnx.ModelProto. The package is imported where it is used.
Model = Any


def simplify(model: Path) -> Model:
    """The graph after onnxruntime's basic pass: constants folded, so that patterns can be read. For any provider."""
    import onnx
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "basic.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        if onnx_files.is_large(onnx_files.load_structure(model)):
            options.add_session_config_entry(BESIDE, onnx_files.data_of(path).name)
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        return onnx.load(str(path))


def float_tensors(model: Model) -> frozenset[str]:
    """Names of all fp32 tensors: inputs, initializers, and what nodes compute."""
    from onnx import TensorProto

    found = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    found |= {given.name for given in model.graph.input if given.type.tensor_type.elem_type == TensorProto.FLOAT}
    session = plain_session(with_outputs(model, (name for node in model.graph.node for name in node.output if name)))
    return frozenset(found | {node.name for node in session.get_outputs() if node.type == "tensor(float)"})


def copied(model: Model) -> Model:
    """A copy of a graph of any size: protobuf serializes no more than 2 GiB."""
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def with_outputs(model: Model, names: Any) -> Model:
    """A copy whose outputs are `names`, of types that onnxruntime is to find out."""
    import onnx

    copy = copied(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


def plain_session(model: Model) -> Any:
    """A session on the CPU that runs the graph as it is."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.onnx"
        onnx_files.save(model, path)
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
