"""A toy trainer: the nearest mean of a class. Numpy alone, at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from topwork_server import Examples, FittedHead, InvalidInput, Target, Trainer, TrainerSpec, Trial, linear_graph
from topwork_server.blocking_calls import Report
from topwork_server.types import Array


@dataclass(frozen=True)
class Shrinking:
    shrinkage: float = field(default=0.0, metadata={"help": "how far the means are drawn to their middle, 0 to 1"})

    def __post_init__(self) -> None:
        if not 0 <= self.shrinkage < 1:
            raise ValueError(f"shrinkage is {self.shrinkage}; give 0 to below 1")


class Nearest(FittedHead):
    """scores = -|row - mean|^2 / (2 variance), without what all classes share: linear in the row."""

    measure = "accuracy"

    def __init__(self, means: Array, variance: float, seen: Array, trial: Trial) -> None:
        self.weight = (means / variance).astype(np.float32)
        self.bias = np.where(seen, -0.5 * (means**2).sum(axis=1) / variance, -1e4).astype(np.float32)
        self.chosen = dict(trial.settings)
        self.trials = [trial]

    def scores(self, rows: Array) -> Array:
        return np.asarray(rows @ self.weight.T + self.bias, np.float32)

    def graph(self) -> Any:
        return linear_graph(self.weight, self.bias)


class NearestMean(Trainer):
    options = Shrinking
    targets = frozenset({Target.CLASSES})

    @classmethod
    def fit(
        cls, examples: Examples, subsets: Sequence[Array], options: Any, seed: int, threads: int, report: Report
    ) -> list[FittedHead]:
        if examples.target is not Target.CLASSES:
            raise InvalidInput("the toy learns classes alone")
        heads: list[FittedHead] = []
        for done, subset in enumerate(subsets):
            report(done / len(subsets), "computing means")
            heads.append(_head(examples, subset, options.shrinkage))
        report(1.0, "computing means")
        return heads


def _head(examples: Examples, subset: Array, shrinkage: float) -> Nearest:
    if not len(subset):
        raise InvalidInput("there is nothing to learn from")
    view, classes = examples.views[0], examples.values[subset]
    rows = view.rows[subset].astype(np.float64)
    counts = np.bincount(classes, minlength=len(examples.names))
    middle, means = rows.mean(axis=0), np.zeros((len(counts), rows.shape[1]))
    np.add.at(means, classes, rows)
    means = middle + (1 - shrinkage) * (means / np.maximum(counts, 1)[:, None] - middle)
    spread = ((rows - means[classes]) ** 2).mean() or rows.var() or 1.0
    trial = Trial(view.tap, view.pooling, {"shrinkage": shrinkage}, 0.0)
    return Nearest(means, float(spread), counts > 0, trial)


def spec(kind: str = "nearest-mean") -> TrainerSpec:
    return TrainerSpec(kind, NearestMean, "the nearest mean of a class", min_per_class=1)
