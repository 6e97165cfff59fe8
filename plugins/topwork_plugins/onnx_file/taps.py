"""Nodes that make taps of tensors: axes in order, a row an item or a cell, float32, the tap's name. Export process only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from topwork_server import Array, Granularity, InvalidInput, Tap

from topwork_plugins.onnx_file import graph as onnx_graph
from topwork_plugins.onnx_file.description import TapReads

MASK = "attention_mask"


def add_taps(model: onnx.ModelProto, reads: Sequence[TapReads], found: Mapping[str, Array], file: str) -> tuple[Tap, ...]:
    """Make the taps the model's only outputs. `found` holds the tensors that one item gave, batch axis included.

    InvalidInput names the field of the description that does not fit a tensor's shape.
    """
    moved = {tap.name: _make_way(model.graph, tap, file) for tap in reads}
    taps = tuple(_add(model, tap, moved.get(tap.output, tap.output), found[tap.output], file) for tap in reads)
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(tap.name, onnx.TensorProto.FLOAT, None) for tap in taps)
    return taps


def _make_way(graph: onnx.GraphProto, tap: TapReads, file: str) -> str:
    """Rename the tensor that has the tap's name, if there is one; its name from now on."""
    if any(value.name == tap.name for value in graph.input):
        raise InvalidInput(f"{file}: taps.{tap.name} has the name of an input of the graph", remedy="choose another name")
    if tap.name not in onnx_graph.names(graph):
        return tap.name
    onnx_graph.rename(graph, tap.name, f"topwork.{tap.name}.was")
    return f"topwork.{tap.name}.was"


def _add(model: onnx.ModelProto, reads: TapReads, output: str, found: Array, file: str) -> Tap:
    where, shape = f"{file}: taps.{reads.name}", found.shape
    if found.dtype.kind != "f":
        raise InvalidInput(f"{where}.output is a tensor of {found.dtype}", remedy="choose one of floating-point numbers")
    chain = _Chain(model, reads.name, output)
    if found.dtype != np.float32:
        chain.add("Cast", to=onnx.TensorProto.FLOAT)
    if reads.skip:
        _skip(chain, reads, shape, where)
        shape = (shape[0], shape[1] - reads.skip, *shape[2:])
    build = {Granularity.ITEM: _item, Granularity.CELL: _cells, Granularity.TOKEN: _tokens}[reads.granularity]
    tap = build(chain, reads, shape, where)
    chain.finish()
    return tap


class _Chain:
    """Nodes one after another, each on what the last one gave."""

    def __init__(self, model: onnx.ModelProto, tap: str, start: str) -> None:
        self.graph, self.opset = model.graph, onnx_graph.opset(model)
        self._tap, self._at, self._count = tap, start, 0

    def name(self) -> str:
        self._count += 1
        return f"topwork.{self._tap}.{self._count}"

    def constant(self, values: Sequence[int] | int) -> str:
        name = self.name()
        self.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def add(self, op: str, *others: str, first: str | None = None, **attributes: Any) -> str:
        out = self.name()
        self.graph.node.append(helper.make_node(op, [first or self._at, *others], [out], **attributes))
        self._at = out if first is None else self._at
        return out

    def mean(self, axes: Sequence[int], first: str | None = None) -> str:
        """ReduceMean's axes became an input with opset 18."""
        if self.opset >= 18:
            return self.add("ReduceMean", self.constant(axes), first=first, keepdims=0)
        return self.add("ReduceMean", first=first, axes=list(axes), keepdims=0)

    def finish(self) -> None:
        self.graph.node.append(helper.make_node("Identity", [self._at], [self._tap]))


def _skip(chain: _Chain, reads: TapReads, shape: tuple[int, ...], where: str) -> None:
    if reads.layout != "NLC" or len(shape) != 3 or shape[1] <= reads.skip:
        raise InvalidInput(f"{where}.skip is {reads.skip}, of a tensor {shape}", remedy='skip rows of layout "NLC" alone')
    if reads.granularity is Granularity.TOKEN:
        raise InvalidInput(f"{where}.skip is {reads.skip}", remedy="leave it out: special tokens are never rows")
    chain.add("Gather", chain.constant(range(reads.skip, shape[1])), axis=1)


def _item(chain: _Chain, reads: TapReads, shape: tuple[int, ...], where: str) -> Tap:
    if reads.pool:
        _pool(chain, reads, shape, where)
        dim = shape[1] if reads.layout == "NCHW" else shape[-1]
    else:
        dim = int(np.prod(shape[1:]))
        if max(shape[1:], default=1) != dim:
            raise InvalidInput(
                f"{where}.output is {shape}, which is more than one row an item",
                remedy='set pool = "mean", or another granularity',
            )
        chain.add("Reshape", chain.constant([-1, dim]))
    return Tap(reads.name, dim, Granularity.ITEM, description=reads.description)


def _pool(chain: _Chain, reads: TapReads, shape: tuple[int, ...], where: str) -> None:
    rank = 3 if reads.layout == "NLC" else 4
    if len(shape) != rank:
        raise InvalidInput(f"{where}.output is {shape}, not {reads.layout}", remedy="set layout to the tensor's axes")
    if reads.pool == "first":
        if rank != 3:
            raise InvalidInput(f'{where}.pool is "first"', remedy='pool = "first" takes row 0 of layout "NLC"')
        chain.add("Gather", chain.constant(0), axis=1)
    elif any(value.name == MASK for value in chain.graph.input):
        _masked_mean(chain)
    else:
        chain.mean({"NCHW": [2, 3], "NHWC": [1, 2], "NLC": [1]}[reads.layout])


def _masked_mean(chain: _Chain) -> None:
    """mean(x * mask) / mean(mask): padding counts in neither."""
    mask = chain.add("Cast", first=MASK, to=onnx.TensorProto.FLOAT)
    chain.add("Mul", chain.add("Reshape", chain.constant([0, -1, 1]), first=mask))
    chain.mean([1])
    share = chain.mean([1], first=mask)
    chain.add("Div", chain.add("Reshape", chain.constant([-1, 1]), first=share))


def _cells(chain: _Chain, reads: TapReads, shape: tuple[int, ...], where: str) -> Tap:
    grid = _grid(reads, shape, where)
    if reads.layout == "NCHW":
        chain.add("Transpose", perm=[0, 2, 3, 1])
    dim = shape[1] if reads.layout == "NCHW" else shape[-1]
    if reads.layout != "NLC":
        chain.add("Reshape", chain.constant([-1, grid[0] * grid[1], dim]))
    return Tap(reads.name, dim, Granularity.CELL, grid, reads.description)


def _grid(reads: TapReads, shape: tuple[int, ...], where: str) -> tuple[int, int]:
    """Rows and columns. Of NLC the description alone can tell them."""
    if len(shape) != (3 if reads.layout == "NLC" else 4):
        raise InvalidInput(f"{where}.output is {shape}, not {reads.layout}", remedy="set layout to the tensor's axes")
    if reads.layout == "NLC":
        if reads.grid is None or reads.grid[0] * reads.grid[1] != shape[1]:
            fault = "is missing" if reads.grid is None else f"is {list(reads.grid)}"
            raise InvalidInput(
                f"{where}.grid {fault}; the tensor has {shape[1]} cells", remedy="write [rows, columns], and skip what is no cell"
            )
        return reads.grid
    found = (shape[2], shape[3]) if reads.layout == "NCHW" else (shape[1], shape[2])
    if reads.grid not in (None, found):
        raise InvalidInput(f"{where}.grid is {list(reads.grid or ())}; the tensor's is {list(found)}", remedy="leave it out")
    return found


def _tokens(chain: _Chain, reads: TapReads, shape: tuple[int, ...], where: str) -> Tap:
    if reads.layout != "NLC" or len(shape) != 3:
        raise InvalidInput(f"{where}.output is {shape}, not (batch, tokens, dim)", remedy="choose a tensor with a row a token")
    return Tap(reads.name, shape[-1], Granularity.TOKEN, description=reads.description)
