"""Cosines to a few directions: what prototypes and descriptions have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from topwork_server import Array, Examples, FittedHead, InvalidInput, Target, Trial, head_graph

if TYPE_CHECKING:
    import onnx

#: Temperatures that are tried: a factor of about 1.6 from one to the next.
TEMPERATURES = tuple(float(f"{t:.2g}") for t in np.geomspace(0.002, 1, 14))
MEASURE = "mean log likelihood of examples that were left out"
#: Below it a row has no direction.
TINY = 1e-12


def unit(rows: Array, centre: Array) -> Array:
    """(n, dim) float32 directions from the centre (dim,); zeros where a row has none."""
    off = rows - centre.astype(np.float32)
    return np.asarray(off / np.maximum(np.linalg.norm(off, axis=1, keepdims=True), TINY), np.float32)


class CosineHead(FittedHead):
    """scores = unit(row - centre) @ weight.T + bias, for weight (outputs, dim) and bias (outputs,)."""

    def __init__(self, view: int, centre: Array, weight: Array, bias: Array) -> None:
        self.view = view
        self._centre, self._weight, self._bias = (array.astype(np.float32) for array in (centre, weight, bias))

    def with_trials(self, chosen: Mapping[str, Any], trials: Sequence[Trial], measure: str = MEASURE) -> CosineHead:
        self.chosen, self.trials, self.measure = chosen, trials, measure
        return self

    def scores(self, rows: Array) -> Array:
        return np.asarray(unit(rows, self._centre) @ self._weight.T + self._bias, np.float32)

    def graph(self) -> onnx.ModelProto:
        from onnx import helper

        nodes = [*unit_nodes(), helper.make_node("Gemm", ["unit", "weight", "bias"], ["scores"], transB=1)]
        constants = {**unit_constants(self._centre), "weight": self._weight, "bias": self._bias}
        return head_graph(nodes, constants, self._weight.shape[1], len(self._weight))


def unit_nodes() -> list[onnx.NodeProto]:
    """`unit`, from `rows` to `unit`."""
    from onnx import helper

    return [
        helper.make_node("Sub", ["rows", "centre"], ["off"]),
        helper.make_node("ReduceL2", ["off", "columns"], ["norm"]),
        helper.make_node("Max", ["norm", "tiny"], ["length"]),
        helper.make_node("Div", ["off", "length"], ["unit"]),
    ]


def unit_constants(centre: Array) -> dict[str, Array]:
    return {"centre": centre, "columns": np.array([1]), "tiny": np.array([TINY])}


def log_likelihood(target: Target, scores: Array, values: Array) -> float:
    """The mean over rows of CLASSES or LABELS, with labels held for a little less than certain, as Platt (1999, section 2.2)
    does: a handful of rows that are all right must not make a head infinitely sure."""
    doubt = 1 / (len(scores) + 2)
    if target is Target.LABELS:
        y_true = values * (1 - doubt) + doubt / 2
        return float(-(y_true * np.logaddexp(0, -scores) + (1 - y_true) * np.logaddexp(0, scores)).mean())
    log_probabilities = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    right = log_probabilities[np.arange(len(values)), values]
    return float(((1 - doubt) * right + doubt * log_probabilities.mean(axis=1)).mean())


def best_trial(trials: Sequence[Trial]) -> int:
    """The first of those that are best but for rounding."""
    most = max(trial.score for trial in trials)
    return next(at for at, trial in enumerate(trials) if trial.score >= most - 1e-6)


def check_target(examples: Examples, targets: frozenset[Target], kind: str) -> None:
    if examples.target not in targets:
        learns = ", ".join(sorted(targets))
        raise InvalidInput(f"{kind} does not learn {examples.target}", remedy=f"it learns {learns}: choose another kind")


def check_not_empty(subset: Array, kind: str) -> None:
    if not len(subset):
        raise InvalidInput(f"{kind} has no examples to learn from", remedy="label some items")
