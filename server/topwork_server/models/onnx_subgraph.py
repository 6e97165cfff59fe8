"""A graph without what nobody asked for. Every runtime computes all outputs of a graph, whichever are fetched: onnxruntime's
`only_execute_path_to_fetches` changes nothing on a CPU. The cells of a picture net's layers take more than a tenth of its
time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork_server.models.onnx_nodes import reads

if TYPE_CHECKING:
    import onnx


def cut(model: Path, tap: str, out: Path) -> bool:
    """Write the way to one output into `out`; False, and nothing is written, where that is the whole graph, or there is no such
    output."""
    import onnx

    whole = onnx.load(str(model))
    graph = whole.graph
    kept = way(graph, tap)
    if not kept or len(kept) == len(graph.node):
        return False
    nodes = [graph.node[i] for i in sorted(kept)]
    read = {name for node in nodes for name in reads(node)} | {tap}
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    outputs = [value for value in graph.output if value.name == tap]
    for part, left in ((graph.node, nodes), (graph.initializer, constants), (graph.output, outputs)):
        _keep(part, left)
    del graph.value_info[:]
    onnx.save(whole, str(out))
    return True


def way(graph: onnx.GraphProto, tap: str) -> set[int]:
    """The positions of the nodes that the tap depends on."""
    makers = {output: i for i, node in enumerate(graph.node) for output in node.output}
    found: set[int] = set()
    wanted = [tap]
    while wanted:
        maker = makers.get(wanted.pop())
        if maker is not None and maker not in found:
            found.add(maker)
            wanted.extend(reads(graph.node[maker]))
    return found


def _keep(part: Any, left: Sequence[Any]) -> None:
    """Copies: what is taken out of a repeated field is gone."""
    copies = [type(one).FromString(one.SerializeToString()) for one in left]
    del part[:]
    part.extend(copies)
