"""Conversion of a graph to fp16, with some nodes, and all inputs and outputs, left in fp32.

Nodes that stay fp32, and why: statistics (sums, means, deviations and norms over many numbers: they are a thousandth of the work,
and sums of squares leave the range of fp16 at both ends); operators without an fp16 kernel; and, measured over the artifact's own
inputs, nodes that produce or read a tensor that fp16 cannot hold. onnxruntime.transformers has a converter; it writes a graph
that does not load where two such groups of nodes read one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from topwork_server.errors import StartError
from topwork_server.runtime.gpu.graph_optimization import Model, copied, float_tensors, plain_session, with_outputs
from topwork_server.types import Array

STATISTICS = frozenset("ReduceMean ReduceSum ReduceL1 ReduceL2 ReduceSumSquare Sqrt Pow CumSum GlobalAveragePool".split())
NO_KERNEL = frozenset("Range Resize Upsample GroupNorm RoiAlign NonMaxSuppression TopK".split())
#: Quantized graphs have a precision of their own.
QUANTIZED = frozenset("QuantizeLinear DequantizeLinear DynamicQuantizeLinear".split())
#: Largest magnitudes of tensors that are left to fp16: a quarter of its largest number, and its smallest of full precision
#: (where a tensor's largest number is above that, what is below loses no more, against it, than it loses itself).
WIDEST, NARROWEST = 16384.0, 2.0**-14


def to_fp16(model: Model, inputs: Sequence[Mapping[str, Array]] = ()) -> Model:
    """A converted copy. `inputs` are real ones, on which ranges are measured. StartError where fp16 cannot be had."""
    model = copied(model)
    _check(model)
    for i, node in enumerate(model.graph.node):
        node.name = f"{i}:{node.op_type}"
    floats = float_tensors(model)
    _Conversion(model, floats, fp32_nodes(model, floats, inputs)).convert()
    return model


def _check(model: Model) -> None:
    branches = any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute)
    if branches or any(node.op_type in QUANTIZED for node in model.graph.node):
        kind = "has branches or loops" if branches else "is quantized"
        raise StartError(f"the graph {kind} and cannot be turned into fp16", remedy="compute it in fp32")


def fp32_nodes(model: Model, floats: frozenset[str], inputs: Sequence[Mapping[str, Array]]) -> frozenset[str]:
    """Names of the nodes that stay fp32."""
    extreme = {name for name, top in tensor_ranges(model, floats, inputs).items() if top > WIDEST or 0 < top < NARROWEST}
    return frozenset(
        node.name for node in model.graph.node if node.op_type in STATISTICS | NO_KERNEL or extreme & {*node.input, *node.output}
    )


def tensor_ranges(model: Model, floats: frozenset[str], inputs: Sequence[Mapping[str, Array]]) -> dict[str, float]:
    """The largest magnitude that each computed fp32 tensor takes over `inputs`; infinity where it is not a number."""
    from onnx import helper

    names = [name for node in model.graph.node for name in node.output if name in floats]
    if not inputs or not names:
        return {}
    copy = with_outputs(model, [f"{name}:top" for name in names])
    for name in names:
        copy.graph.node.append(helper.make_node("Abs", [name], [f"{name}:abs"]))
        copy.graph.node.append(helper.make_node("ReduceMax", [f"{name}:abs"], [f"{name}:top"], keepdims=0))
    session = plain_session(copy)
    tops = np.array([session.run(None, dict(feeds)) for feeds in inputs], np.float64)
    # A mask's "minus infinity" is the lowest number of fp32 and becomes that of fp16: it is not a range.
    tops = np.where(tops >= np.finfo(np.float32).max, 0.0, tops)
    return dict(zip(names, np.nan_to_num(tops, nan=np.inf).max(0).tolist(), strict=True))


class _Conversion:
    """Rewrites the nodes in place, with a cast wherever a tensor passes between fp32 and fp16, once a tensor and direction."""

    def __init__(self, model: Model, floats: frozenset[str], kept: frozenset[str]) -> None:
        self._graph, self._floats, self._kept = model.graph, floats, kept
        self._constants = {t.name: t for t in model.graph.initializer if t.name in floats}
        self._stored_fp16: set[str] = set()
        self._made: dict[tuple[str, bool], str] = {}
        self._nodes: list[Any] = []

    def convert(self) -> None:
        results = {output.name for output in self._graph.output}
        for node in list(self._graph.node):
            as_half = node.name not in self._kept and any(name in self._floats for name in (*node.input, *node.output))
            node.input[:] = [self._read(name, as_half) for name in node.input]
            if as_half:
                _retype(node)
            self._write(node, results, as_half)
        del self._graph.value_info[:]  # they have the old types
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)

    def _read(self, name: str, as_half: bool) -> str:
        if name not in self._floats or (name in self._stored_fp16) == as_half:
            return name
        if (name, as_half) not in self._made:
            self._made[name, as_half] = self._constant(name) if name in self._constants else self._cast(name, as_half)
        return self._made[name, as_half]

    def _write(self, node: Any, results: set[str], as_half: bool) -> None:
        """A result of the graph stays fp32 under its own name; nodes after it read the fp16 that it was cast from."""
        self._nodes.append(node)
        for i, name in enumerate(node.output):
            if as_half and name in self._floats and name in results:
                node.output[i] = self._made[name, True] = f"{name}:half"
                self._nodes.append(_cast_node(f"{name}:half", name, as_half=False))
            elif as_half and name in self._floats:
                self._stored_fp16.add(name)

    def _cast(self, name: str, as_half: bool) -> str:
        target = f"{name}:{'half' if as_half else 'float'}"
        self._nodes.append(_cast_node(name, target, as_half=as_half))
        return target

    def _constant(self, name: str) -> str:
        from onnx import numpy_helper

        target = f"{name}:half"
        self._graph.initializer.append(
            numpy_helper.from_array(round_to_fp16(numpy_helper.to_array(self._constants[name])), target)
        )
        return target


def round_to_fp16(values: Array) -> Array:
    """Round to fp16. Too large numbers become the largest, so that a mask's lowest number does not turn into infinity."""
    top = float(np.finfo(np.float16).max)
    return np.where(np.isinf(values), values, np.clip(values, -top, top)).astype(np.float16)


def _cast_node(source: str, target: str, *, as_half: bool) -> Any:
    from onnx import TensorProto, helper

    return helper.make_node("Cast", [source], [target], name=target, to=TensorProto.FLOAT16 if as_half else TensorProto.FLOAT)


def _retype(node: Any) -> None:
    """Change the types in a node's attributes to fp16: the target of a Cast, a constant."""
    from onnx import TensorProto, helper, numpy_helper

    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float16))))
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(round_to_fp16(numpy_helper.to_array(attribute.t)), attribute.t.name))
