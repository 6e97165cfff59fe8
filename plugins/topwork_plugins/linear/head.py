"""scores = rows @ weight.T + bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from topwork_server import Array, FittedHead, Trial, linear_graph

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class LinearHead(FittedHead):
    """weight (outputs, dim) and bias (outputs,) float32."""

    weight: Array
    bias: Array
    view: int = 0
    chosen: Mapping[str, Any] = field(default_factory=dict)
    trials: Sequence[Trial] = ()
    measure: str = ""

    def scores(self, rows: Array) -> Array:
        found: Array = rows @ self.weight.T + self.bias
        return np.asarray(found, np.float32)

    def graph(self) -> onnx.ModelProto:
        return linear_graph(self.weight, self.bias)
