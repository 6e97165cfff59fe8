"""ONNX files taken apart: what the taps need, under new names, for batches of any size. Export process only."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from onnx.inliner import inline_local_functions
from topwork_server import InvalidInput, load_onnx, node_inputs, node_subgraphs

#: What weights are stored as; the rest are shapes and indices.
WEIGHTS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE})


@dataclass(frozen=True)
class Input:
    """A graph's input: its dtype in numpy's words, and its axes; a str names a dynamic one."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]


def load(path: Path) -> onnx.ModelProto:
    """The model with its external data in it and its local functions inlined. InvalidInput as of `load_onnx`."""
    model = load_onnx(path)
    return inline_local_functions(model) if model.functions else model


def inputs(model: onnx.ModelProto) -> list[Input]:
    """The inputs that are fed, without the constants that old files list among them."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [_input(value) for value in model.graph.input if value.name not in constants]


def _input(value: onnx.ValueInfoProto) -> Input:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise InvalidInput(f"the graph's input {value.name} is no tensor of known rank", remedy="export it with its shape")
    axes = [axis.dim_value if axis.HasField("dim_value") else axis.dim_param for axis in kind.shape.dim]
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    return Input(value.name, dtype, tuple(axis or f"axis{i}" for i, axis in enumerate(axes)))


def cut(model: onnx.ModelProto, outputs: Sequence[str]) -> list[str]:
    """Keep what these tensors are computed from, and make them the outputs. InvalidInput names those that are not there.

    Returns the names of the weights that are left out.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output if name}
    for name in outputs:
        if name not in makers:
            near = difflib.get_close_matches(name, list(makers), n=3, cutoff=0.4)
            last = ", ".join(near or [value.name for value in graph.output])
            raise InvalidInput(f"the graph computes no tensor {name!r}", remedy=f"near are {last}; docs/onnx.md lists them all")
    kept, wanted, seen = set[int](), list(outputs), set[str]()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in makers and id(makers[name]) not in kept:
            kept.add(id(makers[name]))
            wanted += node_inputs(makers[name])
    nodes = [node for node in graph.node if id(node) in kept]
    unused = [tensor.name for tensor in graph.initializer if tensor.name not in seen and tensor.data_type in WEIGHTS]
    _replace(graph.node, nodes)
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in seen])
    _replace(graph.sparse_initializer, [tensor for tensor in graph.sparse_initializer if tensor.values.name in seen])
    _replace(graph.input, [value for value in graph.input if value.name in seen])
    _replace(graph.quantization_annotation, [])
    _replace(graph.value_info, [])
    _replace(graph.output, [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(outputs)])
    return unused


def _replace(field: object, values: Sequence[object]) -> None:
    """The values are copied first: deleting a repeated protobuf field frees its messages."""
    copies = [type(value).FromString(value.SerializeToString()) for value in values]  # type: ignore[attr-defined]
    del field[:]  # type: ignore[attr-defined]
    field.extend(copies)  # type: ignore[attr-defined]


def free_batch(model: onnx.ModelProto) -> None:
    """Let the first axis of every input be any number; whether the nodes allow it is seen by running them."""
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if not dims:
            raise InvalidInput(f"the graph's input {value.name} has no batch axis", remedy="export it with one")
        dims[0].ClearField("dim_value")
        dims[0].dim_param = "batch"


def rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give a tensor another name, in branches and loop bodies too."""
    for node in graph.node:
        _rename_in(node.input, old, new)
        _rename_in(node.output, old, new)
        for body in node_subgraphs(node):
            rename(body, old, new)
    for values in (graph.input, graph.output, graph.initializer):
        for value in values:
            if value.name == old:
                value.name = new


def _rename_in(names: object, old: str, new: str) -> None:
    for i, name in enumerate(names):  # type: ignore[arg-type, var-annotated]
        if name == old:
            names[i] = new  # type: ignore[index]


def names(graph: onnx.GraphProto) -> set[str]:
    """The names of all tensors at the top of the graph."""
    found = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    return found | {name for node in graph.node for name in (*node.input, *node.output) if name}


def opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def feed_as(model: onnx.ModelProto, old: str, new: str) -> None:
    """Read the int64 input `new` where the graph read `old`, which may have had another integer type."""
    graph = model.graph
    value = next(value for value in graph.input if value.name == old)
    inner = f"{old}.cast"
    kind = value.type.tensor_type.elem_type
    rename(graph, old, inner)
    value.name = new
    value.type.tensor_type.elem_type = onnx.TensorProto.INT64
    graph.node.insert(0, helper.make_node("Cast", [new], [inner], to=kind))
