"""Ways to coefficients for a row of strengths: each learns from one Problem, and gives (rank + 1, strengths, outputs)."""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np
from topwork_server import Array

from topwork_plugins.linear.lbfgs import PenalizedLoss, minimise
from topwork_plugins.linear.losses import SoftmaxLoss
from topwork_plugins.linear.problem import Problem

Range = tuple[float, float]


class LinearModel(Protocol):
    """strengths: from strong to weak, what a mean loss is penalised by (columns have variance 1 in the mean).
    closed: all strengths take little more than one."""

    name: ClassVar[str]
    strengths: ClassVar[Range]
    closed: ClassVar[bool]
    problem: Problem

    def __init__(self, problem: Problem) -> None: ...

    def coefficients(self, strengths: Array) -> Array: ...


class Logistic:
    """Softmax or sigmoids, along a path from strong to weak: each call starts where the call before ended."""

    name: ClassVar[str] = "logistic"
    strengths: ClassVar[Range] = (3.0, 1e-7)
    closed: ClassVar[bool] = False
    #: A path is followed loosely, since the next call goes on; what is kept is finished by `finished`.
    steps, tolerance = 5, 3e-3

    def __init__(self, problem: Problem, start: Array | None = None) -> None:
        self.problem, self.last = problem, start

    def coefficients(self, strengths: Array) -> Array:
        return self._found(strengths, self.steps, self.tolerance)

    def converged_coefficients(self, strength: float, steps: int = 100) -> Array:
        """(rank + 1, outputs)."""
        return self._found(np.array([strength]), steps, 2e-5)[:, 0]

    def _found(self, strengths: Array, steps: int, tolerance: float) -> Array:
        objective = PenalizedLoss(self.problem, strengths)
        start = objective.start() if self.last is None else np.repeat(self.last[:, None], len(strengths), axis=1)
        found = minimise(objective, start, steps, tolerance)
        self.last = found[:, -1]
        return found


class Ridge:
    """Least squares (Hoerl and Kennard 1970) of the targets. For classes and labels scores are divided by the targets' mean
    variance, which brings them near to logits."""

    name: ClassVar[str] = "ridge"
    strengths: ClassVar[Range] = (1e3, 1e-7)
    closed: ClassVar[bool] = True

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        targets = problem.loss.targets()
        self.spectrum, self.count = problem.spectrum[:-1], len(targets)
        self.means = targets.mean(axis=0, dtype=np.float64)
        self.products = problem.products(targets - self.means.astype(np.float32))
        logits = problem.loss.tempers
        self.scale = 1 / max(float((self.means * (1 - self.means)).mean()), 1e-6) if logits else 1.0
        self.middle = 0.5 if logits and not isinstance(problem.loss, SoftmaxLoss) else 0.0

    def coefficients(self, strengths: Array) -> Array:
        solved = self.products[:, None] / (self.spectrum[:, None] + self.count * strengths)[..., None]
        bias = np.broadcast_to(self.means - self.middle, (1, len(strengths), len(self.means)))
        return np.concatenate([solved, bias]) * self.scale


class Discriminant:
    """Regularised linear discriminant analysis (Friedman 1989, "Regularized discriminant analysis", with one covariance for all
    classes): Gaussian classes, their covariance plus a multiple of the identity.

    The scatter within classes is the total, which is diagonal here, less that between the class means M, of sizes N. So, with
    P = (total + s)^-1 M and Q = M' P (Woodbury): (within + s)^-1 M = P (1 - N Q)^-1. Each strength takes a solve of classes^3.
    """

    name: ClassVar[str] = "discriminant"
    strengths: ClassVar[Range] = (1e3, 1e-5)
    closed: ClassVar[bool] = True

    def __init__(self, problem: Problem) -> None:
        self.problem, loss = problem, problem.loss
        assert isinstance(loss, SoftmaxLoss)
        self.spectrum, self.count = problem.spectrum[:-1], len(loss.classes)
        self.sizes = np.bincount(loss.classes, minlength=loss.outputs).astype(np.float64)
        sums = problem.products(loss.targets())
        self.means = sums / np.maximum(self.sizes, 1)
        self.priors = loss.bias()

    def coefficients(self, strengths: Array) -> Array:
        outputs = len(self.sizes)
        solved = self.means / (self.spectrum + self.count * strengths[:, None])[..., None]
        between = np.eye(outputs) - self.sizes[:, None] * (self.means.T @ solved)
        solved = (solved @ np.linalg.inv(between)) * max(1, self.count - outputs)
        bias = self.priors - 0.5 * (self.means * solved).sum(axis=1, keepdims=True)
        return np.concatenate([solved, bias], axis=1).swapaxes(0, 1)


MODELS: dict[str, type[LinearModel]] = {model.name: model for model in (Logistic, Discriminant, Ridge)}
