"""A few nets whose scores are averaged: in numpy, and as a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from topwork_server import Array, FittedHead, head_graph

if TYPE_CHECKING:
    import onnx

#: How many standard deviations from the mean a column may stand out: one far number must not decide alone.
FAR = 10.0


class ColumnScaler:
    """Columns to mean 0 and deviation 1, within FAR; those that never change to 0."""

    def __init__(self, rows: Array) -> None:
        self.mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        deviation = rows.std(axis=0, dtype=np.float64)
        dull = deviation <= 1e-5 * np.abs(self.mean) + 1e-12
        self.factor = np.where(dull, 0, 1 / np.where(dull, 1, deviation)).astype(np.float32)

    def __call__(self, rows: Array) -> Array:
        return np.asarray(np.clip((rows - self.mean) * self.factor, -FAR, FAR), np.float32)


class MlpHead(FittedHead):
    """Layers of (weight (nets, inputs, outputs), bias (nets, 1, outputs)) float32, with ReLU between them."""

    def __init__(self, view: int, scale: ColumnScaler, layers: Sequence[tuple[Array, Array]]) -> None:
        self.view, self._scale, self._layers = view, scale, layers

    def scores(self, rows: Array) -> Array:
        found = self._scale(rows)[None]
        for at, (weight, bias) in enumerate(self._layers):
            found = (np.maximum(found, 0) if at else found) @ weight + bias
        return np.asarray(found.mean(axis=0), np.float32)

    def graph(self) -> onnx.ModelProto:
        from onnx.helper import make_node

        nodes = [
            make_node("Sub", ["rows", "mean"], ["off"]),
            make_node("Mul", ["off", "factor"], ["scaled"]),
            make_node("Clip", ["scaled", "low", "high"], ["within"]),
            make_node("Unsqueeze", ["within", "net"], ["layer0"]),
        ]
        constants = {"mean": self._scale.mean, "factor": self._scale.factor, "net": np.array([0])}
        constants |= {"low": np.array(-FAR), "high": np.array(FAR)}
        for at, (weight, bias) in enumerate(self._layers):
            if at:
                nodes.append(make_node("Relu", [f"added{at - 1}"], [f"layer{at}"]))
            nodes.append(make_node("MatMul", [f"layer{at}", f"weight{at}"], [f"product{at}"]))
            nodes.append(make_node("Add", [f"product{at}", f"bias{at}"], [f"added{at}"]))
            constants |= {f"weight{at}": weight, f"bias{at}": bias}
        nodes.append(make_node("ReduceMean", [f"added{len(self._layers) - 1}", "net"], ["scores"], keepdims=0))
        return head_graph(nodes, constants, len(self._scale.mean), self._layers[-1][0].shape[2])
