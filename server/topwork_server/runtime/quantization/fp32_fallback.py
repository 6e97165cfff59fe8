"""Choice of the first layers of a graph that stay fp32. Errors cost most there, since every later layer carries them on, and the
first convolutions, with few channels, gain least from integers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from topwork_server.models.onnx_graph import ancestors
from topwork_server.runtime.quantization.qdq import OPERATORS

#: Operators that only move values. onnxruntime carries integers back across them, so a border behind one is a border before it,
#: and slow.
MOVES = ("MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Identity")
#: A prefix of more than this share of the convolutions leaves too little to gain.
LONGEST = 0.4


def fp32_prefixes(model: Path, tap: str) -> Iterator[list[str]]:
    """Prefixes of the graph as names of nodes, the shortest (none) first; after each, a single tensor leads on to the tap."""
    import onnx

    graph = onnx.load(str(model)).graph
    kept = sorted(ancestors(graph, tap))
    convolutions = sum(graph.node[i].op_type == "Conv" for i in kept)
    last_use = {name: i for i in kept for name in graph.node[i].input}
    names: list[str] = []
    seen, live = 0, {value.name for value in graph.input}
    yield []
    for i in kept:
        node = graph.node[i]
        seen += node.op_type == "Conv"
        names += [node.name] if node.op_type in OPERATORS else []
        live = {name for name in (*live, *node.output) if last_use.get(name, -1) > i}
        if seen > LONGEST * convolutions:
            return
        follower = next((graph.node[j] for j in kept if node.output[0] in graph.node[j].input), None)
        activated = follower is not None and follower.op_type in ("Relu", "Clip")  # it belongs to what it follows
        if seen and len(live) == 1 and node.op_type not in MOVES and not activated:
            yield list(names)
