"""Reads and writes ONNX files. A large graph keeps its weights beside it in one file, GRAPH.data, which sessions map into memory
(ONNX, "External Data"): a file of its own ends at 2 GiB, protobuf's limit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

#: Graphs with weights of more bytes keep them in a file of their own.
EXTERNAL_FROM = 2**30
#: The most that one protobuf message, and so an ONNX file without external data, may have.
LARGEST_FILE = 2**31 - 1
#: Constants of fewer bytes stay in the graph, where the optimizers of every runtime can read them.
SMALL_CONSTANT = 4096
#: Tensors begin at multiples of it, so that they can be mapped into memory.
PAGE = 4096


def data_of(model: Path) -> Path:
    """The file beside a graph that has its weights, if it is a large one."""
    return model.with_name(f"{model.name}.data")


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all weights of a graph, from their types and shapes: they need not be in memory."""
    from onnx import helper

    itemsizes = ((helper.tensor_dtype_to_np_dtype(t.data_type).itemsize, t.dims) for t in model.graph.initializer)
    return sum(size * math.prod(dims) for size, dims in itemsizes)


def is_large(model: onnx.ModelProto) -> bool:
    """True if the weights of a graph belong into a file of their own."""
    return weight_bytes(model) > EXTERNAL_FROM


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph whose weights are in memory; a large one with a file of weights beside it."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    if is_large(model):
        _write_large(model, path)
        load_external_data_for_model(model, str(path.parent))
    else:
        onnx.save(model, str(path))


def gather(source: Path, path: Path) -> None:
    """Copy a large graph whose weights lie in any number of files beside it, of which one at a time is in memory."""
    _write_large(load_structure(source), path, source.parent)


def _write_large(model: onnx.ModelProto, path: Path, folder: Path | None = None) -> None:
    """Move the weights, which are in memory or in files of `folder`, to the file of weights, and write the graph that refers to
    them."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    for constant in _constants(model.graph):
        if uses_external_data(constant):
            load_external_data_for_tensor(constant, str(folder))
    write_weights(_large_tensors(model.graph, folder), data_of(path))
    onnx.save(model, str(path))


def write_weights(tensors: Iterable[tuple[onnx.TensorProto, bytes | memoryview]], path: Path) -> None:
    """Write the contents of tensors into a file, and make them refer to it in place of what they held."""
    from onnx import TensorProto

    with path.open("wb") as file:
        for tensor, content in tensors:
            start = file.seek(-(-file.tell() // PAGE) * PAGE)
            file.write(content)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            del tensor.external_data[:]
            for key, value in (("location", path.name), ("offset", start), ("length", file.tell() - start)):
                tensor.external_data.add(key=key, value=str(value))


def _large_tensors(graph: onnx.GraphProto, folder: Path | None) -> Iterator[tuple[onnx.TensorProto, bytes]]:
    """Weights that do not stay in the graph, each with its content, which is read when its turn comes."""
    from onnx import numpy_helper
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    for tensor in graph.initializer:
        if uses_external_data(tensor):
            load_external_data_for_tensor(tensor, str(folder))
        elif not tensor.HasField("raw_data"):  # a list of numbers, which only old exporters write
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        if len(content := tensor.raw_data) >= SMALL_CONSTANT:
            yield tensor, content


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The tensors that are attributes of nodes, also in branches and loop bodies."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _constants(inner)


def load_structure(path: Path) -> onnx.ModelProto:
    """Read a graph without the weights that lie beside it. What is saved of it refers to the same file of weights."""
    import onnx

    return onnx.load(str(path), load_external_data=False)
