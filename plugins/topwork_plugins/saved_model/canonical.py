"""Gives a converted graph names and an order that do not change from one conversion to the next: TensorFlow and tf2onnx number
tensors as they come, and the fingerprint covers the graph. Export process only."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from topwork_server import node_inputs, node_subgraphs


def rename(model: onnx.ModelProto) -> None:
    """Order nodes as the outputs need them, the first output first, and number their tensors and constants in that order. The
    graph's inputs and outputs keep their names."""
    kept = {value.name: value.name for value in (*model.graph.input, *model.graph.output)}
    _rename(model.graph, kept, "")
    del model.graph.value_info[:]


def _rename(graph: onnx.GraphProto, outer: Mapping[str, str], prefix: str) -> None:
    """`outer` has the new names of what is known already: of the graphs around, and those that stay."""
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in _ordered(graph)]
    names = dict(outer)
    inputs = [value.name for value in graph.input]
    for kind, found in (("input", inputs), ("constant", _constants(graph, nodes)), ("tensor", _tensors(nodes))):
        names |= {name: f"{prefix}{kind}.{i}" for i, name in enumerate(found) if name not in outer}
    for number, node in enumerate(nodes):
        node.name = ""
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for i, body in enumerate(node_subgraphs(node)):
            _rename(body, names, f"{prefix}{number}.{i}.")
    del graph.node[:]
    graph.node.extend(nodes)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)


def _ordered(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that the outputs need, each after those that it needs."""
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    done: dict[int, None] = {}
    for output in graph.output:
        waiting = [makers[output.name]] if output.name in makers else []
        while waiting:
            needed = (makers[name] for name in node_inputs(graph.node[waiting[-1]]) if name in makers)
            missing = next((maker for maker in needed if maker not in done), None)
            if missing is None:
                done.setdefault(waiting.pop())
            else:
                waiting.append(missing)
    return [graph.node[i] for i in done]


def _constants(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> list[str]:
    """The names of a graph's constants, in the order of their first use."""
    known = {tensor.name for tensor in graph.initializer}
    used = dict.fromkeys(name for node in nodes for name in node_inputs(node) if name in known)
    return [*used, *sorted(known - set(used))]


def _tensors(nodes: list[onnx.NodeProto]) -> list[str]:
    return [name for node in nodes for name in node.output if name]
