"""Operations on ONNX graphs: extract the subgraph of an output, rename values, convert the opset, write nodes.

An artifact has a graph of its own for the default tap, since every runtime computes all outputs of a graph, whichever are
fetched: onnxruntime's `only_execute_path_to_fetches` changes nothing on a CPU. The cells of an image network's layers take more
than a tenth of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork_server.errors import TopworkError
from topwork_server.models import onnx_files
from topwork_server.types import Array

if TYPE_CHECKING:
    import onnx

#: Constants of more bytes are weights, which no operator conversion reads.
LARGE_CONSTANT = 4096


def node_inputs(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the values that a node reads, including those read in its branches and loop bodies (whose own names match nothing
    outside)."""
    yield from filter(None, node.input)
    for graph in node_subgraphs(node):
        for inner in graph.node:
            yield from node_inputs(inner)
        yield from (value.name for value in graph.output)


def node_subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Branches and loop bodies of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def ancestors(graph: onnx.GraphProto, output: str) -> set[int]:
    """Positions of the nodes on which the value `output` depends."""
    producers = {name: i for i, node in enumerate(graph.node) for name in node.output}
    found: set[int] = set()
    wanted = [output]
    while wanted:
        producer = producers.get(wanted.pop())
        if producer is not None and producer not in found:
            found.add(producer)
            wanted.extend(node_inputs(graph.node[producer]))
    return found


def extract_subgraph(model: Path, output: str, out: Path) -> bool:
    """Write the subgraph of one output into `out`; False, and nothing is written, where that is the whole graph, or there is no
    such output. It shares the file of weights of a large graph, and so goes into the same folder."""
    import onnx

    loaded = onnx_files.load_structure(model)
    if len(ancestors(loaded.graph, output)) in (0, len(loaded.graph.node)):
        return False
    outputs = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in loaded.graph.output if v.name == output]
    prune_to(loaded, output)
    loaded.graph.output.extend(outputs)
    onnx.save(loaded, str(out))
    return True


def prune_to(model: onnx.ModelProto, *outputs: str) -> None:
    """Keep, in place, the nodes and constants that compute the values `outputs`, which need not be outputs of the graph, and all
    inputs. The graph has no outputs afterwards."""
    graph = model.graph
    needed_by = {output: ancestors(graph, output) for output in outputs}
    for output in (output for output, nodes in needed_by.items() if not nodes):
        raise TopworkError(f"the graph of the trunk computes no {output!r}", remedy="export the encoder again")
    kept = sorted(set().union(*needed_by.values()))
    nodes = [type(graph.node[i]).FromString(graph.node[i].SerializeToString()) for i in kept]
    needed = set(outputs).union(*(node_inputs(node) for node in nodes))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    del graph.output[:]
    for index in reversed(range(len(graph.initializer))):  # in place, without copies: these are the weights
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]
    for index in reversed(range(len(graph.sparse_initializer))):
        if graph.sparse_initializer[index].values.name not in needed:
            del graph.sparse_initializer[index]


class NodeWriter:
    """Writes nodes one after another; each value gets a unique name."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.made: list[onnx.NodeProto] = []

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        from onnx import helper

        output = output or f"{self.prefix}{kind}_{len(self.made)}"
        self.made.append(helper.make_node(kind, list(inputs), [output], name=f"{self.prefix}node_{len(self.made)}", **attributes))
        return output

    def constant(self, value: Array) -> str:
        """Add a constant and return its name."""
        from onnx import numpy_helper

        return self.add("Constant", value=numpy_helper.from_array(value))


def all_names(graph: onnx.GraphProto) -> set[str]:
    """Names of all values and nodes, including those of branches and loop bodies."""
    found = {value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        found.update((*node.output, node.name))
        for inner in node_subgraphs(node):
            found |= all_names(inner)
    return found


def rename_values(graph: onnx.GraphProto, new_name: Callable[[str], str]) -> None:
    """Rename every value in place, and remove the names of nodes."""
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = new_name(value.name)
    for node in graph.node:
        node.name = ""
        node.input[:] = [new_name(name) if name else "" for name in node.input]
        node.output[:] = [new_name(name) if name else "" for name in node.output]
        for inner in node_subgraphs(node):
            rename_values(inner, new_name)


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators that the model uses."""
    return next((int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx")), 1)


def convert_opset(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Convert a model to a later opset. Large constants are set aside meanwhile, since the converter copies the model several
    times."""
    from onnx import version_converter

    if opset_of(model) == version:
        return model
    aside = _set_aside(model.graph)
    try:
        converted = version_converter.convert_version(model, version)
    except Exception as error:
        why = str(error).partition("\n")[0]
        raise TopworkError(
            f"the graph, of opset {opset_of(model)}, cannot be joined with one of opset {version}: {why}",
            remedy="export the trunk with a later opset",
        ) from error
    large = {tensor.name for tensor in aside}
    for index in reversed(range(len(converted.graph.input))):
        if converted.graph.input[index].name in large:
            del converted.graph.input[index]
    converted.graph.initializer.extend(aside)
    return converted


def _set_aside(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Turn large constants into inputs of the graph, and return them."""
    from onnx import helper

    aside = []
    for index in reversed(range(len(graph.initializer))):
        tensor = graph.initializer[index]
        if tensor.ByteSize() > LARGE_CONSTANT:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
            aside.append(graph.initializer.pop(index))
    return aside
