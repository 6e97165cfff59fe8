"""The ONNX graph of a served head: the trainer's own, followed by its temperature and its probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from topwork_server.errors import TopworkError
from topwork_server.plugin_api.boxes import EDGES
from topwork_server.plugin_api.trainer import Target

if TYPE_CHECKING:
    import onnx

ROWS, SCORES, PROBABILITIES = "rows", "scores", "probabilities"
#: The output of the graph beside it, of heads that know what their training items look like.
TYPICALITY = "typicality"
#: Prefix of the values added here; no trainer names a value so.
_PREFIX = "topwork.served/"


def served_graph(head: onnx.ModelProto, target: Target, temperature: float) -> bytes:
    """Give the bytes of `served_model` of a copy, checked."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(head)
    model = served_model(copy, target, temperature)
    onnx.checker.check_model(model)
    served: bytes = model.SerializeToString()
    return served


def served_model(model: onnx.ModelProto, target: Target, temperature: float) -> onnx.ModelProto:
    """Add an output `probabilities`, computed after the temperature, to a trainer's graph, in place.

    For SPAN it holds the scores over the temperature (their softmax is over the rows of an item), for NUMBERS and VECTORS the
    scores, for BOXES the probability of each class and the distances.
    """
    _check(model, temperature)
    model.graph.node.extend(_probability_nodes(target, temperature))
    model.graph.output.append(_like(model.graph.output[0], PROBABILITIES))
    return model


def _check(head: onnx.ModelProto, temperature: float) -> None:
    names = [value.name for value in head.graph.input], [value.name for value in head.graph.output]
    if names != ([ROWS], [SCORES]):
        raise TopworkError(
            f"the trainer's graph has inputs {names[0]} and outputs {names[1]}",
            remedy=f"its author should give it one input {ROWS!r} and one output {SCORES!r}",
        )
    if not (np.isfinite(temperature) and temperature > 0):
        raise TopworkError(f"a temperature of {temperature}", remedy="it is a positive number")


def _probability_nodes(target: Target, temperature: float) -> list[onnx.NodeProto]:
    from onnx import helper, numpy_helper

    if target in (Target.NUMBERS, Target.VECTORS):
        return [helper.make_node("Identity", [SCORES], [PROBABILITIES])]
    value = numpy_helper.from_array(np.array(temperature, np.float32))
    nodes = [
        helper.make_node("Constant", [], [_PREFIX + "temperature"], value=value),
        helper.make_node("Div", [SCORES, _PREFIX + "temperature"], [_PREFIX + "cooled"]),
    ]
    match target:
        case Target.CLASSES:
            return [*nodes, helper.make_node("Softmax", [_PREFIX + "cooled"], [PROBABILITIES], axis=-1)]
        case Target.LABELS:
            return [*nodes, helper.make_node("Sigmoid", [_PREFIX + "cooled"], [PROBABILITIES])]
        case Target.BOXES:
            return [*nodes, *_box_nodes()]
    return [*nodes, helper.make_node("Identity", [_PREFIX + "cooled"], [PROBABILITIES])]


def _box_nodes() -> list[onnx.NodeProto]:
    """Replace the logits of the classes by their probabilities; the last columns are distances."""
    from onnx import helper, numpy_helper

    ends = {"first": 0, "edges": -EDGES, "last": 2**31, "columns": 1}
    made = [
        helper.make_node("Constant", [], [_PREFIX + name], value=numpy_helper.from_array(np.array([at], np.int64)))
        for name, at in ends.items()
    ]
    first, edges, last, columns = (_PREFIX + name for name in ends)
    return [
        *made,
        helper.make_node("Slice", [_PREFIX + "cooled", first, edges, columns], [_PREFIX + "classes"]),
        helper.make_node("Sigmoid", [_PREFIX + "classes"], [_PREFIX + "sure"]),
        helper.make_node("Slice", [SCORES, edges, last, columns], [_PREFIX + "distances"]),
        helper.make_node("Concat", [_PREFIX + "sure", _PREFIX + "distances"], [PROBABILITIES], axis=1),
    ]


def _like(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    import onnx

    named = onnx.ValueInfoProto()
    named.CopyFrom(value)
    named.name = name
    return named
