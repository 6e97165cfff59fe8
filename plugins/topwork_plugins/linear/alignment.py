"""Alignment: a linear map from rows to the space of a text encoder, by ridge regression to the vectors of captions.

The mean of the captions tells nothing of an item. It is left out of what is learned, and the map is orthogonal to it: texts that
lie near the mean would else be near every item, and items that are mapped far along it near every text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from topwork_server import (
    Array,
    Examples,
    FittedHead,
    InvalidInput,
    Report,
    Target,
    Trainer,
    Trial,
    folds,
    head_graph,
    option,
    rest,
)

if TYPE_CHECKING:
    import onnx

INNER_FOLDS = 5
#: Of ridge regression, in units of the mean eigenvalue of what is penalized.
WEAKEST, STRONGEST = 1e-2, 1e2
#: Where a subset cannot be split: this strength, unjudged.
USUAL_STRENGTH = 2.0
#: Added to the covariance of captions, in units of its mean eigenvalue. On 538 captioned pictures recall at 5 was 0.538 with 10,
#: 0.516 without damping (strength 4), and fell below with 1 and less.
DAMPING = 10.0
#: Columns that vary less, by the deviation of the widest, are left out.
CONSTANT = 1e-6
SHORTEST = 1e-12
MEASURE = "mean reciprocal rank of what was left out, in both directions"


@dataclass(frozen=True)
class AlignmentOptions:
    """Options of an alignment."""

    text_encoder: str = option("all-minilm-l6-v2", "the encoder of the captions, and of texts that search")
    strengths: int = option(13, "regularization strengths that are tried", minimum=1, maximum=100)


@dataclass(frozen=True)
class AlignmentHead(FittedHead):
    """The head scores = unit(rows @ weight.T + bias), with weight (dim of texts, dim of rows) and bias float32."""

    weight: Array
    bias: Array
    view: int = 0
    chosen: Mapping[str, Any] = field(default_factory=dict)
    trials: Sequence[Trial] = ()
    measure: str = MEASURE

    def scores(self, rows: Array) -> Array:
        found = rows.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias
        return unit(found).astype(np.float32)

    def graph(self) -> onnx.ModelProto:
        from onnx import helper

        nodes = [
            helper.make_node("Gemm", ["rows", "weight", "bias"], ["mapped"], transB=1),
            helper.make_node("ReduceL2", ["mapped", "last"], ["length"], keepdims=1),
            helper.make_node("Max", ["length", "shortest"], ["bounded"]),
            helper.make_node("Div", ["mapped", "bounded"], ["scores"]),
        ]
        constants = {"weight": self.weight, "bias": self.bias, "last": np.array([1]), "shortest": np.array([SHORTEST])}
        return head_graph(nodes, constants, self.weight.shape[1], self.weight.shape[0])


class AlignmentTrainer(Trainer):
    """The view and the strength are those that rank best on folds within the subset."""

    options = AlignmentOptions
    targets = frozenset({Target.VECTORS})

    @classmethod
    def fit(
        cls, examples: Examples, subsets: Sequence[Array], options: AlignmentOptions, seed: int, threads: int, report: Report
    ) -> list[FittedHead]:
        if examples.target not in cls.targets:
            raise InvalidInput(f"align learns the vectors of captions, and not {examples.target}", remedy="train linear")
        if not all(map(len, subsets)):
            raise InvalidInput("there is no caption to learn from", remedy="caption items")
        heads: list[FittedHead] = []
        report(0.0, "fitting maps")
        for number, subset in enumerate(subsets, 1):
            heads.append(_fit(examples.take(subset), options, seed))
            report(number / len(subsets), f"fitted {number} of {len(subsets)} maps")
        return heads


def _fit(examples: Examples, options: AlignmentOptions, seed: int) -> AlignmentHead:
    strengths = np.geomspace(WEAKEST, STRONGEST, options.strengths) if options.strengths > 1 else np.array([USUAL_STRENGTH])
    held = folds(examples, INNER_FOLDS, seed) if len(np.unique(examples.groups)) > 1 else []
    trials = [
        Trial(view.tap, view.pooling, {"strength": float(strength)}, score)
        for view in examples.views
        for strength, score in zip(strengths, _judged(view.rows, examples.values, held, strengths), strict=True)
    ]
    best = max(range(len(trials)), key=lambda at: trials[at].score)
    at, strength = divmod(best, len(strengths))
    chosen = float(strengths[strength]) if held else USUAL_STRENGTH
    weight, bias = Ridge(examples.views[at].rows, examples.values).coefficients(chosen)
    return AlignmentHead(weight, bias, at, {"strength": chosen}, trials if held else ())


def _judged(rows: Array, values: Array, held: Sequence[Array], strengths: Array) -> Array:
    """Judge each strength by what it ranks of the folds that were left out, (strengths,)."""
    scores = np.zeros((len(held), len(strengths)))
    for number, left_out in enumerate(held):
        learned = rest(len(rows), left_out)
        ridge = Ridge(rows[learned], values[learned])
        rotated = ridge.rotate(rows[left_out])
        for at, strength in enumerate(strengths):
            scores[number, at] = reciprocal_rank(rotated @ ridge.rotated_map(strength), values[left_out])
    return np.asarray(scores.mean(axis=0) if len(held) else np.zeros(len(strengths)))


class Ridge:
    """Ridge regression of standardized rows to centered vectors, for any strength: what those share is computed once.

    Directions in which captions vary much are damped, as in Fisher's discriminant: many captions share them.
    """

    def __init__(self, rows: Array, values: Array) -> None:
        x, y = rows.astype(np.float64), values.astype(np.float64)
        self._center, spread = x.mean(axis=0), x.std(axis=0)
        varies = spread > CONSTANT * spread.max(initial=0.0)
        self._factor = np.where(varies, 1 / np.where(varies, spread, 1.0), 0.0)
        x = (x - self._center) * self._factor
        mean = y.mean(axis=0)
        target, self._along = y - mean, unit(mean[None])[0]
        self._squares, self._right = _axes(x)
        self._projected = self._right @ (x.T @ _damped(target))
        self._unit = max(float(np.square(x).sum()) / len(x), SHORTEST)

    def rotate(self, rows: Array) -> Array:
        """Turn rows to the axes of what was learned from, (n, axes)."""
        return np.asarray((rows - self._center) * self._factor @ self._right.T)

    def rotated_map(self, strength: float) -> Array:
        """The map of rotated rows (axes, dim of texts), orthogonal to the mean of the vectors."""
        found = self._projected / (self._squares + strength * self._unit)[:, None]
        return np.asarray(found - np.outer(found @ self._along, self._along))

    def coefficients(self, strength: float) -> tuple[Array, Array]:
        """The map of rows (dim of texts, dim of rows) and its bias, float32."""
        weight = (self._right.T @ self.rotated_map(strength) * self._factor[:, None]).T
        return weight.astype(np.float32), (-weight @ self._center).astype(np.float32)


def _axes(x: Array) -> tuple[Array, Array]:
    """The squares of the singular values of x, without those near 0, and their right vectors (axes, dim): of the smaller of both
    products with itself, which is several times as fast as a singular value decomposition."""
    wide = len(x) < x.shape[1]
    squares, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    there = squares > SHORTEST * max(float(squares.max(initial=0.0)), SHORTEST)
    squares, vectors = squares[there], vectors[:, there]
    return squares, (vectors.T @ x) / np.sqrt(squares)[:, None] if wide else vectors.T


def _damped(target: Array) -> Array:
    """Divide centered vectors by their covariance and `DAMPING` of its mean eigenvalue; not where all are equal."""
    covariance = target.T @ target / len(target)
    mean = float(np.trace(covariance)) / len(covariance)
    if mean < SHORTEST:
        return target
    return np.asarray(np.linalg.solve(covariance / (DAMPING * mean) + np.eye(len(covariance)), target.T).T)


def reciprocal_rank(mapped: Array, values: Array) -> float:
    """The mean of 1 / rank of the right caption of each row, and of the first right row of each caption."""
    captions, own = np.unique(values, axis=0, return_inverse=True)
    right = own.reshape(-1, 1) == np.arange(len(captions))
    cosines = unit(mapped.astype(np.float64)) @ captions.T
    best = np.where(right, cosines, -np.inf)
    of_rows = ((cosines >= best.max(axis=1, keepdims=True)) & ~right).sum(axis=1)
    of_captions = ((cosines >= best.max(axis=0, keepdims=True)) & ~right).sum(axis=0)
    return float((1 / (1 + of_rows)).mean() + (1 / (1 + of_captions)).mean()) / 2


def unit(rows: Array) -> Array:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), SHORTEST))
