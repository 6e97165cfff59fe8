"""The graph that is served: the trainer's own, with the temperature and the probabilities in it; and whether both agree."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from topwork_server.errors import TopworkError
from topwork_server.plugin_api.trainer import FittedHead, Target
from topwork_server.runtime.session import Session
from topwork_server.types import Array

if TYPE_CHECKING:
    import onnx

ROWS, SCORES, PROBABILITIES = "rows", "scores", "probabilities"
#: No trainer names a value so.
_OWN = "topwork.served/"
#: Rows that are computed at a time: kNN heads compare each with all that they keep.
AT_ONCE = 1024


def served_graph(head: onnx.ModelProto, target: Target, temperature: float) -> bytes:
    """The trainer's graph with a second output `probabilities`, after the temperature.

    Of SPAN they are the scores over the temperature (their softmax is over the rows of an item), of NUMBERS the scores.
    """
    import onnx

    _check(head, temperature)
    model = onnx.ModelProto()
    model.CopyFrom(head)
    model.graph.node.extend(_said(target, temperature))
    model.graph.output.append(_like(model.graph.output[0], PROBABILITIES))
    onnx.checker.check_model(model)
    served: bytes = model.SerializeToString()
    return served


def agreement(fitted: FittedHead, graph: bytes, rows: Array, unit: float = 1.0) -> float:
    """The largest difference of a score, in units, between the trainer's own and the graph, which onnxruntime runs; 0 of no
    rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.onnx"
        path.write_bytes(graph)
        scores, _ = run(Session(path, 1), rows)
    return float(np.abs((scores - fitted.scores(rows)) / unit).max(initial=0))


def run(session: Session, rows: Array) -> tuple[Array, Array]:
    """Scores and probabilities (n, outputs) of (n, dim) rows: float32, and float64 of the numbers of a regression."""
    rows = np.ascontiguousarray(rows, np.float32)
    starts = range(0, max(len(rows), 1), AT_ONCE)
    parts = [session.run([SCORES, PROBABILITIES], {ROWS: rows[start : start + AT_ONCE]}) for start in starts]
    scores, probabilities = (np.concatenate(of) for of in zip(*parts, strict=True))
    return scores, probabilities


def _check(head: onnx.ModelProto, temperature: float) -> None:
    names = [value.name for value in head.graph.input], [value.name for value in head.graph.output]
    if names != ([ROWS], [SCORES]):
        raise TopworkError(
            f"the trainer's graph has inputs {names[0]} and outputs {names[1]}",
            remedy=f"its author should give it one input {ROWS!r} and one output {SCORES!r}",
        )
    if not (np.isfinite(temperature) and temperature > 0):
        raise TopworkError(f"a temperature of {temperature}", remedy="it is a positive number")


def _said(target: Target, temperature: float) -> list[onnx.NodeProto]:
    from onnx import helper, numpy_helper

    if target is Target.NUMBERS:
        return [helper.make_node("Identity", [SCORES], [PROBABILITIES])]
    value = numpy_helper.from_array(np.array(temperature, np.float32))
    nodes = [
        helper.make_node("Constant", [], [_OWN + "temperature"], value=value),
        helper.make_node("Div", [SCORES, _OWN + "temperature"], [_OWN + "cooled"]),
    ]
    match target:
        case Target.CLASSES:
            return [*nodes, helper.make_node("Softmax", [_OWN + "cooled"], [PROBABILITIES], axis=-1)]
        case Target.LABELS:
            return [*nodes, helper.make_node("Sigmoid", [_OWN + "cooled"], [PROBABILITIES])]
    return [*nodes, helper.make_node("Identity", [_OWN + "cooled"], [PROBABILITIES])]


def _like(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    import onnx

    named = onnx.ValueInfoProto()
    named.CopyFrom(value)
    named.name = name
    return named
