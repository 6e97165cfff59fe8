"""Minimises many penalised losses at once: L-BFGS (Nocedal and Wright 2006, algorithm 7.4), one history a head.

In the basis of a frame X'X is diagonal, and bounds the curvature of the loss but for a constant (softmax: Böhning and Lindsay
1988, "Monotonicity of quadratic-approximation algorithms"). Times the mean curvature of a score, it is the preconditioner: strong
and weak directions are learnt alike.
"""

from __future__ import annotations

import itertools

import numpy as np
from topwork_server import Array

from topwork_plugins.linear.problem import Problem

HISTORY = 6
#: Numbers of a chunk of scores: with its rows it stays in a core's cache.
SCORES, MOST = 1 << 19, 8192
#: A penalty of the bias toward what is best where nothing is known of a row: keeps it finite where a class is missing.
BIAS = 1.0


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
        """Value (heads,), gradient, and curvature (heads,) of a score."""
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
        """(rank + 1, heads, 1)."""
        least = 1e-3 / self.problem.loss.outputs
        curved = np.maximum(curvature, least) * self.problem.spectrum[:, None]
        return (1 / (curved + self.penalties))[..., None]


def minimise(objective: PenalizedLoss, start: Array, steps: int, tolerance: float) -> Array:
    """Until a step lowers no head's value by `tolerance` of it, or for so many steps. Values never rise."""
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
    """The two loops. A pair whose `scale` is 0 is passed over."""
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
    """(heads,) of two (rank + 1, heads, outputs)."""
    return np.asarray(np.einsum("pbk,pbk->b", one, other))
