"""What the nodes of an ONNX graph read, the graphs within them included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names of values, also what its branches and loop bodies read (with names of their own that match nothing outside)."""
    yield from filter(None, node.input)
    for graph in bodies(node):
        for inner in graph.node:
            yield from reads(inner)
        yield from (value.name for value in graph.output)


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Its branches and loop bodies."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
