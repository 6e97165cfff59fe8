"""The output layer, once it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from topwork_server import Fitted, linear_graph
from topwork_server.types import Array

if TYPE_CHECKING:
    import onnx


class LinearHead(Fitted):
    """scores = rows @ weight.T + bias; weight (outputs, dim) and bias (outputs,) float32."""

    def __init__(self, weight: Array, bias: Array, chosen: Mapping[str, Any]) -> None:
        self.weight, self.bias, self.chosen = weight, bias, chosen

    def scores(self, rows: Array) -> Array:
        return np.asarray(rows @ self.weight.T + self.bias, np.float32)

    def graph(self) -> onnx.ModelProto:
        return linear_graph(self.weight, self.bias)
