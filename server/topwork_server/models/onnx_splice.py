"""Cutting and joining ONNX graphs, whatever network is in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from topwork_server.errors import TopworkError
from topwork_server.models.onnx_nodes import bodies, reads
from topwork_server.types import Array

if TYPE_CHECKING:
    import onnx

#: Constants of more bytes are weights: no conversion of an operator looks into them.
WEIGHTS = 4096


class NodeWriter:
    """Writes nodes one after another; each value gets a name of its own."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.made: list[onnx.NodeProto] = []

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """The name of what the node gives."""
        from onnx import helper

        output = output or f"{self.prefix}{kind}_{len(self.made)}"
        self.made.append(helper.make_node(kind, list(inputs), [output], name=f"{self.prefix}node_{len(self.made)}", **attributes))
        return output

    def constant(self, value: Array) -> str:
        from onnx import numpy_helper

        return self.add("Constant", value=numpy_helper.from_array(value))


def prune(model: onnx.ModelProto, output: str) -> None:
    """Keep, in place, what computes the value `output`, which need not be an output of the graph, and all of its inputs."""
    graph = model.graph
    needed, kept = {output}, []
    for node in reversed(graph.node):  # a graph's nodes are in the order of their work
        if needed.intersection(node.output):
            needed.update(reads(node))
            kept.append(node)
    if not kept:
        raise TopworkError(f"the graph of the trunk computes no {output!r}", remedy="export the encoder again")
    nodes = [type(node).FromString(node.SerializeToString()) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    del graph.output[:]
    for index in reversed(range(len(graph.initializer))):  # in place: they are what is large
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]
    del graph.sparse_initializer[:]


def names(graph: onnx.GraphProto) -> set[str]:
    """Of all values and nodes."""
    found = {value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        found.update((*node.output, node.name))
        for inner in bodies(node):
            found |= names(inner)
    return found


def rename(graph: onnx.GraphProto, named: Callable[[str], str]) -> None:
    """Every value by its new name, in place; nodes have none afterwards."""
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = named(value.name)
    for node in graph.node:
        node.name = ""
        node.input[:] = [named(name) if name else "" for name in node.input]
        node.output[:] = [named(name) if name else "" for name in node.output]
        for inner in bodies(node):
            rename(inner, named)


def opset(model: onnx.ModelProto) -> int:
    """Of ONNX's own operators."""
    return next((int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx")), 1)


def at_opset(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """The same in the words of a later opset. Large constants are laid aside meanwhile: the converter copies all that it is
    given, several times."""
    from onnx import version_converter

    if opset(model) == version:
        return model
    aside = _lay_aside(model.graph)
    try:
        converted = version_converter.convert_version(model, version)
    except Exception as error:
        why = str(error).partition("\n")[0]
        raise TopworkError(
            f"the graph, of opset {opset(model)}, cannot be joined with one of opset {version}: {why}",
            remedy="export the trunk with a later opset",
        ) from error
    large = {tensor.name for tensor in aside}
    for index in reversed(range(len(converted.graph.input))):
        if converted.graph.input[index].name in large:
            del converted.graph.input[index]
    converted.graph.initializer.extend(aside)
    return converted


def _lay_aside(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Large constants become inputs of the graph."""
    from onnx import helper

    aside = []
    for index in reversed(range(len(graph.initializer))):
        tensor = graph.initializer[index]
        if tensor.ByteSize() > WEIGHTS:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
            aside.append(graph.initializer.pop(index))
    return aside
