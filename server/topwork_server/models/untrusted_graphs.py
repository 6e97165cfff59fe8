"""Reads ONNX files that others made. What one may ask of a runtime is refused by name before that loads it: operators that come
with libraries of code, weights in files elsewhere, functions that call each other into millions of nodes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from topwork_server.errors import InvalidInput
from topwork_server.models import onnx_files
from topwork_server.models.onnx_graph import node_subgraphs

if TYPE_CHECKING:
    import onnx

#: ONNX's own operators; and those that ONNX Runtime has beside them, but for what loads files that a runtime compiled before.
STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training"})
OF_RUNTIME, COMPILED = "com.microsoft", frozenset({"EPContext", "Snpe"})
#: Nodes of a graph with those in its branches, loop bodies and calls of functions. A decoder of 7 billion weights has some ten
#: thousand.
MOST_NODES = 500_000
BESIDE = "copy the model again, with all files beside it"
EXPORT = "export the model again, with ONNX's own operators"


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file that others made, with its external data in it. InvalidInput where it is none, is too large, has
    operators of other makers, or keeps weights elsewhere than in files beside it."""
    from onnx.external_data_helper import load_external_data_for_model, uses_external_data

    size = path.stat().st_size
    if size > onnx_files.LARGEST_FILE:
        raise InvalidInput(
            f"{path.name} has {size:,} bytes, and an ONNX file {onnx_files.LARGEST_FILE:,} at most",
            remedy="save the model with external data",
        )
    try:
        model = onnx_files.load_structure(path)
    except Exception as error:  # protobuf's errors have no common base
        raise _unreadable(path, error) from error
    if not model.graph.node:
        raise InvalidInput(f"{path.name} is not an ONNX file that can be read: it has no nodes", remedy="export it again")
    _check_operators(path, model)
    _check_nodes(path, model)
    for tensor in filter(uses_external_data, _tensors(model)):
        _check_location(path, tensor)
    try:
        load_external_data_for_model(model, str(path.parent))
    except MemoryError:
        raise
    except Exception as error:  # onnx's own checks of links, of the checker's class
        raise _unreadable(path, error) from error
    for tensor in _tensors(model):
        _check_shape(path, tensor)
    return model


def _unreadable(path: Path, error: Exception) -> InvalidInput:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InvalidInput(f"{path.name} is not an ONNX file that can be read: {reason}", remedy="export it again")


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    functions = {(function.domain, function.name) for function in model.functions}
    for node in _nodes(model):
        if (node.domain, node.op_type) in functions or node.domain in STANDARD:
            continue
        named = f"{node.domain}.{node.op_type}"
        if node.domain != OF_RUNTIME:
            raise InvalidInput(
                f"{path.name} needs the custom operator {named}, which comes with a library of code, and none is loaded here",
                remedy=EXPORT,
            )
        if node.op_type in COMPILED:
            raise InvalidInput(f"{path.name} holds {named}, a part that was compiled for one machine", remedy=EXPORT)


def _check_nodes(path: Path, model: onnx.ModelProto) -> None:
    """Refuse a graph of too many nodes once its functions are put in place of their calls, and functions that call themselves."""
    functions = {(function.domain, function.name): function for function in model.functions}
    counts: dict[tuple[str, str], int] = {}
    under_way: list[tuple[str, str]] = []

    def count(nodes: Iterable[onnx.NodeProto]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += 1 + (of_function(key) if key in functions else 0)
            if total > MOST_NODES:
                raise InvalidInput(f"{path.name} has more than {MOST_NODES:,} nodes with those of its functions", remedy=EXPORT)
        return total

    def of_function(key: tuple[str, str]) -> int:
        if key in under_way or len(under_way) > 100:
            raise InvalidInput(f"{path.name}: its function {key[1]} calls itself, or others too deep", remedy=EXPORT)
        if key not in counts:
            under_way.append(key)
            counts[key] = count(_with_inner(functions[key].node))
            under_way.pop()
        return counts[key]

    count(_with_inner(model.graph.node))


def _check_location(path: Path, tensor: onnx.TensorProto) -> None:
    """Refuse weights in files that do not lie in the folder of the graph, or end before the weights do."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    location, folder = said.get("location", ""), os.path.realpath(path.parent)
    place = os.path.realpath(os.path.join(folder, location))
    if not location or os.path.isabs(location) or os.path.commonpath((place, folder)) != folder:
        raise InvalidInput(
            f"{path.name} keeps its weight {tensor.name} in {location!r}, which is not in its folder",
            remedy="put the file of weights beside the graph, and export the model again if it names another place",
        )
    if not os.path.isfile(place):
        raise InvalidInput(f"{path.name} keeps its weight {tensor.name} in {location}, which is no file beside it", remedy=BESIDE)
    try:
        end = int(said.get("offset", 0)) + int(said.get("length", 0))
    except ValueError:
        end = -1
    if not 0 <= end <= os.path.getsize(place):
        raise InvalidInput(
            f"{path.name}: its weight {tensor.name} ends behind the end of {location}, at byte {end:,}", remedy=BESIDE
        )


def _check_shape(path: Path, tensor: onnx.TensorProto) -> None:
    """Refuse weights whose bytes are not those of their shape."""
    from onnx import numpy_helper

    try:
        if min(tensor.dims, default=0) < 0:
            raise ValueError("an axis is negative")
        numpy_helper.to_array(tensor)
    except MemoryError:
        raise
    except Exception as error:  # of numpy and of onnx
        raise InvalidInput(
            f"{path.name}: its weight {tensor.name} is not of the shape that it has, {list(tensor.dims)[:8]}: {error}",
            remedy="export the model again: its file is damaged",
        ) from error


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield all nodes: of the graph, of its functions, and of branches and loop bodies in both."""
    yield from _with_inner(model.graph.node)
    for function in model.functions:
        yield from _with_inner(function.node)


def _with_inner(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for inner in node_subgraphs(node):
            yield from _with_inner(inner.node)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield all weights and constants, those of branches, loop bodies and functions too."""
    yield from _of_graph(model.graph)
    for node in _nodes(model):
        for attribute in node.attribute:
            sparse = [*attribute.sparse_tensors, *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else [])]
            yield from (tensor for each in sparse for tensor in (each.values, each.indices))
            yield from (*attribute.tensors, *([attribute.t] if attribute.HasField("t") else []))
        for inner in node_subgraphs(node):
            yield from _of_graph(inner)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
