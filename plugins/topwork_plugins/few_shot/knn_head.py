"""A head that holds its examples: the k nearest of a row, and their weighted vote, in numpy and as a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from topwork_server import Array, Examples, FittedHead, Target, Trial, head_graph

from topwork_plugins.few_shot.cosine import unit, unit_constants, unit_nodes

if TYPE_CHECKING:
    import onnx

#: What all examples together weigh beside the nearest (which weighs 1): nothing is impossible, and a lone neighbour not certain.
DOUBT = {Target.CLASSES: 0.1, Target.LABELS: 0.1, Target.NUMBERS: 1e-3}
#: What the k-th neighbour weighs at the least: where all k are equally near, they vote alike.
LEAST = 1e-6
#: Numbers in one block of the work.
BLOCK = 1 << 24


@dataclass(frozen=True)
class Votes:
    """What each example says: CLASSES (n,) int64, else (n, outputs) float32; prior (outputs,): what they say together."""

    target: Target
    values: Array
    prior: Array

    @classmethod
    def from_examples(cls, examples: Examples) -> Votes:
        values, count = examples.values, examples.count
        if examples.target is Target.CLASSES:
            prior = np.bincount(values, minlength=len(examples.names)) + 0.01
            return cls(examples.target, values, prior / prior.sum())
        if examples.target is Target.LABELS:
            return cls(examples.target, values, (values.sum(axis=0) + 0.5) / (count + 1))
        return cls(examples.target, values, values.mean(axis=0, dtype=np.float64))

    def scores(self, similar: Array, positions: Array, k: int, temperature: float) -> Array:
        """(b, outputs) of cosines (b, at least k) and positions, nearest first. Where there is one more than k, its
        weight is taken off all: what comes k-th then counts next to nothing, and scores do not leap where two change places."""
        nearness = np.exp((similar[:, : k + 1] - similar[:, :1]) / temperature)
        if nearness.shape[1] > k:
            nearness = nearness[:, :k] - nearness[:, k:] + LEAST
            nearness /= nearness[:, :1]
        doubt = DOUBT[self.target]
        said = doubt * self.prior + self._sums(nearness, positions[:, :k])
        said /= nearness.sum(axis=1, keepdims=True) + doubt
        if self.target is Target.NUMBERS:
            return np.asarray(said)
        return np.asarray(np.log(said) if self.target is Target.CLASSES else np.log(said) - np.log(1 - said))

    def _sums(self, weights: Array, positions: Array) -> Array:
        if self.target is not Target.CLASSES:
            return np.asarray(np.einsum("bk,bko->bo", weights, self.values[positions]))
        sums = np.zeros((len(weights), len(self.prior)), weights.dtype)
        np.add.at(sums, (np.arange(len(weights))[:, None], self.values[positions]), weights)
        return sums


def nearest(cosines: Array, count: int) -> tuple[Array, Array]:
    """The largest `count` (or all) of each row of (b, n) cosines, largest first, and their positions."""
    count = min(count, cosines.shape[1])
    found = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(cosines, found, axis=1), axis=1, kind="stable")
    found = np.take_along_axis(found, order, axis=1)
    return np.take_along_axis(cosines, found, axis=1), found


class KnnHead(FittedHead):
    """rows (n, dim) are the examples as they came; they are kept as unit rows from the centre."""

    measure = "of examples that were left out"

    def __init__(self, view: int, centre: Array, rows: Array, votes: Votes, settings: Mapping[str, Any]) -> None:
        self.view, self.chosen = view, settings
        self.trials: Sequence[Trial] = ()
        self._centre, self._rows, self._votes = centre.astype(np.float32), unit(rows, centre), votes
        self._k, self._temperature = int(settings["k"]), float(settings["temperature"])

    def scores(self, rows: Array) -> Array:
        step = max(1, BLOCK // max(len(self._rows), self._k * len(self._votes.prior)))
        blocks = [self._block(rows[start : start + step]) for start in range(0, len(rows), step)]
        return np.concatenate([np.zeros((0, len(self._votes.prior)), np.float32), *blocks])

    def _block(self, rows: Array) -> Array:
        similar, positions = nearest(unit(rows, self._centre) @ self._rows.T, self._k + 1)
        return self._votes.scores(similar, positions, self._k, self._temperature).astype(np.float32)

    def graph(self) -> onnx.ModelProto:
        outputs, doubt = len(self._votes.prior), DOUBT[self._votes.target]
        constants = {
            **unit_constants(self._centre),
            "examples": self._rows,
            "values": self._votes.values,
            "prior": doubt * self._votes.prior,
            "doubt": np.array([doubt]),
            "temperature": np.array([self._temperature]),
            "most": np.array([min(self._k + 1, len(self._rows))]),
            "nearest": np.array([0]),
            "outputs": np.array([outputs]),
            "least": np.array([LEAST]),
            "one": np.array([1.0]),
            "split": np.array([self._k, 1]),
        }
        nodes = [*unit_nodes(), *self._weigh(), *_vote(self._votes.target)]
        used = {name for node in nodes for name in node.input}
        kept = {name: array for name, array in constants.items() if name in used}
        return head_graph(nodes, kept, self._rows.shape[1], outputs)

    def _weigh(self) -> list[onnx.NodeProto]:
        """From `unit` to `weights` (n, k) and `positions` (n, k)."""
        from onnx.helper import make_node

        every = self._k >= len(self._rows)
        nodes = [
            make_node("Gemm", ["unit", "examples"], ["cosines"], transB=1),
            make_node("TopK", ["cosines", "most"], ["similar", "positions" if every else "found"]),
            make_node("Gather", ["similar", "nearest"], ["first"], axis=1),
            make_node("Sub", ["similar", "first"], ["behind"]),
            make_node("Div", ["behind", "temperature"], ["exponent"]),
            make_node("Exp", ["exponent"], ["weights" if every else "nearness"]),
        ]
        if every:
            return nodes
        return [
            *nodes,
            make_node("Split", ["found", "split"], ["positions", "left_out"], axis=1),
            make_node("Split", ["nearness", "split"], ["near", "next"], axis=1),
            make_node("Sub", ["near", "next"], ["nearer"]),
            make_node("Add", ["nearer", "least"], ["unscaled"]),
            make_node("Gather", ["unscaled", "nearest"], ["largest"], axis=1),
            make_node("Div", ["unscaled", "largest"], ["weights"]),
        ]


def _vote(target: Target) -> list[onnx.NodeProto]:
    """From `weights` and `positions` to `scores`."""
    from onnx.helper import make_node

    said = "scores" if target is Target.NUMBERS else "said"
    nodes = [
        *(_of_classes() if target is Target.CLASSES else _of_numbers()),
        make_node("ReduceSum", ["weights", "columns"], ["weight"]),
        make_node("Add", ["weight", "doubt"], ["whole"]),
        make_node("Div", ["sums", "whole"], [said]),
    ]
    if target is Target.CLASSES:
        nodes.append(make_node("Log", ["said"], ["scores"]))
    if target is Target.LABELS:
        nodes += [
            make_node("Log", ["said"], ["yes"]),
            make_node("Sub", ["one", "said"], ["other"]),
            make_node("Log", ["other"], ["no"]),
            make_node("Sub", ["yes", "no"], ["scores"]),
        ]
    return nodes


def _of_classes() -> list[onnx.NodeProto]:
    from onnx.helper import make_node

    return [
        make_node("Shape", ["rows"], ["count"], start=0, end=1),
        make_node("Concat", ["count", "outputs"], ["shape"], axis=0),
        make_node("Expand", ["prior", "shape"], ["priors"]),
        make_node("Gather", ["values", "positions"], ["classes"]),
        make_node("ScatterElements", ["priors", "classes", "weights"], ["sums"], axis=1, reduction="add"),
    ]


def _of_numbers() -> list[onnx.NodeProto]:
    from onnx.helper import make_node

    return [
        make_node("Gather", ["values", "positions"], ["said_by"]),
        make_node("Unsqueeze", ["weights", "columns"], ["row"]),
        make_node("MatMul", ["row", "said_by"], ["voted"]),
        make_node("Squeeze", ["voted", "columns"], ["votes"]),
        make_node("Add", ["votes", "prior"], ["sums"]),
    ]
