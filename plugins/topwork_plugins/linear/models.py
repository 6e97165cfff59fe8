"""Models that give coefficients for a row of strengths: closed forms, and L-BFGS where there is none.

Each learns from one Problem and gives (rank + 1, strengths, outputs). The L-BFGS (Nocedal and Wright 2006, algorithm 7.4)
minimizes many penalized losses at once, one history a head. In the basis of a frame X'X is diagonal, and bounds the curvature of
the loss but for a constant (softmax: Böhning and Lindsay 1988, "Monotonicity of quadratic-approximation algorithms"). Times the
mean curvature of a score, it is the preconditioner: strong and weak directions are learned alike. scipy.optimize knows neither a
preconditioner nor a batch of problems: a sweep took 1.4 to 2.1 times as long on 4,000 rows of
384 numbers (10 classes).
"""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np
from topwork_server import Array

from topwork_plugins.linear.gram import PrincipalBasis
from topwork_plugins.linear.losses import Loss, SoftmaxLoss

Range = tuple[float, float]
HISTORY = 6
#: Numbers of a chunk of scores: with its rows it stays in a core's cache.
SCORES, MOST = 1 << 19, 8192
#: A penalty of the bias toward what is best where nothing is known of a row: keeps it finite where a class is missing.
BIAS = 1.0


class Problem:
    """Rows at `positions` of a view, in a frame, and their loss. `share` is the part of the frame's own rows that these are."""

    def __init__(self, view: Array, positions: Array, frame: PrincipalBasis, loss: Loss, share: float = 1.0) -> None:
        self.view, self.positions, self.frame, self.loss = view, positions, frame, loss
        self.spectrum = frame.spectrum * share

    @cached_property
    def rows(self) -> Array:
        """Coordinates (n, rank + 1) float32 of the rows. Closed forms do without."""
        return self.frame.project(self.view, self.positions)

    def products(self, targets: Array) -> Array:
        """Compute rows' targets, each as often as it counts, (rank, outputs) float64."""
        return self.frame.project_products(self.view, self.positions, targets * self.loss.counted[:, None])

    def sample(self, count: int, random: np.random.Generator) -> Problem:
        """Return the problem of so many rows, drawn at random."""
        some = np.sort(random.choice(len(self.positions), count, replace=False))
        share = count / len(self.positions)
        return Problem(self.view, self.positions[some], self.frame, self.loss.take(some), share)


class LinearModel(Protocol):
    """A way to coefficients. strengths: the penalties of a mean loss, from strong to weak (columns have variance 1 in the mean).
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
    #: A path is followed loosely, since the next call goes on; what is kept is finished by `converged_coefficients`.
    steps, tolerance = 5, 3e-3

    def __init__(self, problem: Problem, start: Array | None = None) -> None:
        self.problem, self.last = problem, start

    def coefficients(self, strengths: Array) -> Array:
        return self._found(strengths, self.steps, self.tolerance)

    def converged_coefficients(self, strength: float, steps: int = 100) -> Array:
        """Return coefficients (rank + 1, outputs)."""
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
        counted = problem.loss.counted.astype(np.float64)
        self.spectrum, self.count = problem.spectrum[:-1], float(counted.sum())
        self.means = np.average(targets, axis=0, weights=counted)
        self.products = problem.products(targets - self.means.astype(np.float32))
        logits = problem.loss.tempers
        self.scale = 1 / max(float((self.means * (1 - self.means)).mean()), 1e-6) if logits else 1.0
        self.middle = 0.5 if logits and not isinstance(problem.loss, SoftmaxLoss) else 0.0

    def coefficients(self, strengths: Array) -> Array:
        solved = self.products[:, None] / (self.spectrum[:, None] + self.count * strengths)[..., None]
        bias = np.broadcast_to(self.means - self.middle, (1, len(strengths), len(self.means)))
        return np.concatenate([solved, bias]) * self.scale


class Discriminant:
    """Regularized linear discriminant analysis (Friedman 1989, "Regularized discriminant analysis", with one covariance for all
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
        self.spectrum, self.count = problem.spectrum[:-1], float(loss.counted.sum(dtype=np.float64))
        self.sizes = np.bincount(loss.classes, loss.counted, minlength=loss.outputs)
        sums = problem.products(loss.targets())
        self.means = sums / np.where(self.sizes > 0, self.sizes, 1)
        self.priors = loss.bias()

    def coefficients(self, strengths: Array) -> Array:
        outputs = len(self.sizes)
        solved = self.means / (self.spectrum + self.count * strengths[:, None])[..., None]
        between = np.eye(outputs) - self.sizes[:, None] * (self.means.T @ solved)
        solved = (solved @ np.linalg.inv(between)) * max(1, self.count - outputs)
        bias = self.priors - 0.5 * (self.means * solved).sum(axis=1, keepdims=True)
        return np.concatenate([solved, bias], axis=1).swapaxes(0, 1)


MODELS: dict[str, type[LinearModel]] = {model.name: model for model in (Logistic, Discriminant, Ridge)}


class PenalizedLoss:
    """The loss, plus half of (strength x rows) times the squared coefficients. Coefficients are (rank + 1, heads, outputs)."""

    def __init__(self, problem: Problem, strengths: Array) -> None:
        self.problem, self.count = problem, problem.loss.count
        self.penalties = np.repeat(strengths[None] * self.count, len(problem.spectrum), axis=0)
        self.penalties[-1] = BIAS
        self.anchor = np.zeros((len(problem.spectrum), 1, problem.loss.outputs))
        self.anchor[-1, 0] = problem.loss.bias()
        each = len(strengths) * problem.loss.outputs
        self.bounds = problem.loss.bounds(int(np.clip(SCORES // each, 64, MOST)))
        self.buffer = np.empty((int(np.diff(self.bounds).max()), each), np.float32)

    def start(self) -> Array:
        return np.repeat(self.anchor, self.penalties.shape[1], axis=1)

    def __call__(self, at: Array) -> tuple[Array, Array, Array]:
        """Return the value (heads,), its gradient, and the curvature (heads,) of a score."""
        flat = at.reshape(len(at), -1).astype(np.float32)
        value, curved, gradient = np.zeros(at.shape[1]), np.zeros(at.shape[1]), np.zeros_like(flat)
        for start, end in itertools.pairwise(self.bounds):
            rows = self.problem.rows[start:end]
            scores = np.matmul(rows, flat, out=self.buffer[: end - start])
            loss, curvature = self.problem.loss(scores.reshape(end - start, *at.shape[1:]), start)
            value, curved = value + loss, curved + curvature * (end - start)
            gradient += rows.T @ scores
        off = at - self.anchor
        drawn = self.penalties[..., None] * off
        return value + 0.5 * _dot(drawn, off), gradient.reshape(at.shape) + drawn, curved / self.bounds[-1]

    def preconditioner(self, curvature: Array) -> Array:
        """Return the inverse of the curvature's bound, (rank + 1, heads, 1)."""
        least = 1e-3 / self.problem.loss.outputs
        curved = np.maximum(curvature, least) * self.problem.spectrum[:, None]
        return (1 / (curved + self.penalties))[..., None]


def minimise(objective: PenalizedLoss, start: Array, steps: int, tolerance: float) -> Array:
    """Minimize until a step lowers no head's value by `tolerance` of it, or for so many steps. Values never rise."""
    at = start
    value, gradient, curvature = objective(at)
    history: list[tuple[Array, Array, Array]] = []
    for _ in range(steps):
        direction = -_two_loop_direction(gradient, history, objective.preconditioner(curvature))
        slope = _dot(gradient, direction)
        length = np.where(slope < 0, 1.0, 0.0)
        for _ in range(12):
            there = at + length[:, None] * direction
            found = objective(there)
            high = found[0] > value + 1e-4 * length * slope + 1e-9 * np.abs(value)
            if not high.any():
                break
            length = np.where(high, 0.4 * length, length)
        else:
            length = np.where(high, 0.0, length)
            there = at + length[:, None] * direction
            found = objective(there)
        moved, turned = there - at, found[1] - gradient
        product = _dot(moved, turned)
        history = [*history, (moved, turned, np.where(product > 0, 1 / np.where(product > 0, product, 1), 0.0))][-HISTORY:]
        gained = value - found[0]
        at, (value, gradient, curvature) = there, found
        if (gained <= tolerance * np.abs(value)).all():
            break
    return at


def _two_loop_direction(gradient: Array, history: list[tuple[Array, Array, Array]], inverse: Array) -> Array:
    """Run the two loops. A pair whose `scale` is 0 is passed over."""
    found, shares = gradient.copy(), []
    for moved, turned, scale in reversed(history):
        shares.append(scale * _dot(moved, found))
        found -= shares[-1][:, None] * turned
    size = np.ones(gradient.shape[1])
    if history:
        _, turned, scale = history[-1]
        size = np.where(scale > 0, 1 / np.where(scale > 0, scale * _dot(turned, inverse * turned), 1), 1.0)
    found *= inverse * size[:, None]
    for (moved, turned, scale), share in zip(history, reversed(shares), strict=True):
        found += (share - scale * _dot(turned, found))[:, None] * moved
    return found


def _dot(one: Array, other: Array) -> Array:
    """Multiply two (rank + 1, heads, outputs) head by head: (heads,)."""
    return np.asarray(np.einsum("pbk,pbk->b", one, other))
