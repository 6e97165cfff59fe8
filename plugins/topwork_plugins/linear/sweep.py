"""Sweep of a model's strengths on folds of a subset, and the temperature that makes probabilities right (Guo et al. 2017)."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from topwork_server import Array, Examples, InvalidInput, folds, rest

from topwork_plugins.linear.gram import Moments, PrincipalBasis, moments, principal_basis
from topwork_plugins.linear.losses import Loss, SpanLoss
from topwork_plugins.linear.models import LinearModel, Logistic, Problem

#: Folds of a subset of so many rows or fewer; where there are more, one split.
FOLDS = ((150, 5), (1500, 3))
#: One split, too, where eigenvectors of so many directions take seconds.
RANK = 2000
#: Where there are many more rows: so many are held out, so many are learned from before the best is learned from all, and so
#: many by paths of iterations. The best strength of a mean loss was the same from 2,500 to 20,000 rows (100 clusters, 768
#: columns).
VALIDATION_ROWS, TRAINING_ROWS, SAMPLE = 3000, 16_000, 2500
#: Scores that are held at a time.
SCORES = 8_000_000
#: The logarithm of the factor is sought between minus and plus this, in so many halvings.
LARGEST, HALVINGS = 4.0, 10
#: Scores of a head that its temperature is sought with.
TEMPERATURE_SCORES = 60_000


@dataclass(frozen=True)
class SweepResult:
    """The result of one strength: scores times `temperature` have `score`; `rows` of a fold were learned from."""

    model: str
    strength: float
    temperature: float
    score: float
    rows: int = 0


class SweepFold:
    """A fold: the problem of the training rows, and the validation rows, in one frame. Both are positions in `subset`."""

    def __init__(self, view: Array, seen: PrincipalBasis, train: Array, validation: Array, loss: Loss, subset: Array) -> None:
        self.frame = seen
        self.problem = Problem(view, subset[train], self.frame, loss.take(train))
        self.validation = validation
        self.validation_rows = self.frame.project(view, subset[validation])

    @property
    def many(self) -> bool:
        return len(self.problem.positions) > 2 * SAMPLE

    def learning_problem(self, closed: bool, random: np.random.Generator) -> Problem:
        """Return the problem to sweep: of fewer rows for paths, where there are many."""
        return self.problem if closed or not self.many else self.problem.sample(SAMPLE, random)


class SplitBases:
    """Frames of the training rows of each split, and of all rows of the subset, for one view. `weights` (rows of the view,) is
    what each counts for, or None."""

    def __init__(
        self,
        view: Array,
        subset: Array,
        splits: Sequence[tuple[Array, Array]],
        standardize: str,
        weights: Array | None,
    ) -> None:
        self.view, self.subset, self.splits, self.standardize, self.weights = view, subset, splits, standardize, weights
        self.tall = bool(splits) and min(len(train) for train, _ in splits) >= view.shape[1]
        held = [rest(len(subset), train) for train, _ in splits]
        several = [*held, splits[0][0]] if len(splits) == 1 else held
        self.moments = moments(view, [subset[part] for part in several], weights) if self.tall else []

    def split_basis(self, at: int) -> PrincipalBasis:
        if not self.tall:
            return principal_basis(self.view, self.subset[self.splits[at][0]], self.standardize, self.weights)
        return _sum([part for other, part in enumerate(self.moments) if other != at]).principal_basis(self.standardize)

    def full_basis(self) -> PrincipalBasis:
        return (
            _sum(self.moments).principal_basis(self.standardize)
            if self.tall
            else principal_basis(self.view, self.subset, self.standardize, self.weights)
        )


def _sum(parts: Sequence[Moments]) -> Moments:
    return functools.reduce(operator.add, parts)


def splits(examples: Examples, dim: int, seed: int) -> list[tuple[Array, Array]]:
    """Split into (training rows, validation rows), positions in `examples`; an empty list where no split can be made."""
    count = examples.count
    wanted = next((folds for most, folds in FOLDS if count <= most), 0) if min(count, dim) <= RANK else 0
    try:
        held = folds(examples, wanted or 5, seed)
    except InvalidInput:  # one group
        return []
    if wanted:
        return [(rest(count, some), some) for some in held]
    return [(_some(examples, rest(count, held[0]), TRAINING_ROWS, seed), _some(examples, held[0], VALIDATION_ROWS, seed))]


def _some(examples: Examples, rows: Array, most: int, seed: int) -> Array:
    """Draw about `most` of the rows, of whole items."""
    if len(rows) <= most:
        return rows
    items = np.unique(examples.items[rows])
    kept = np.random.default_rng(seed).permutation(items)[: max(1, len(items) * most // len(rows))]
    return rows[np.isin(examples.items[rows], kept)]


def sweep(parts: Sequence[SweepFold], loss: Loss, model: type[LinearModel], strengths: int, seed: int) -> Iterator[SweepResult]:
    """Score every strength from strong to weak, until a path has been getting worse."""
    validation = np.sort(np.concatenate([part.validation for part in parts]))
    places = [np.searchsorted(validation, part.validation) for part in parts]
    validation_loss = loss.take(validation)
    random = np.random.default_rng(seed)
    paths = [model(part.learning_problem(model.closed, random)) for part in parts]
    best = -np.inf
    scores = np.empty(0, np.float32)
    for block in blocks(model, strengths, paths[0].problem, len(validation)):
        scores = scores if scores.size == len(validation) * len(block) * loss.outputs else _new_scores(validation, block, loss)
        for part, place, path in zip(parts, places, paths, strict=True):
            _score_block(part, path.coefficients(block), place, scores)
        temperatures, losses = fit_temperatures(validation_loss, scores)
        found = validation_loss.score(losses)
        for at in range(len(block)):
            yield SweepResult(
                model.name, float(block[at]), float(temperatures[at]), float(found[at]), len(paths[0].problem.positions)
            )
        if not model.closed and found.max() < best:
            return
        best = max(best, found.max())


def _new_scores(validation: Array, block: Array, loss: Loss) -> Array:
    return np.empty((len(validation), len(block), loss.outputs), np.float32)


def _score_block(part: SweepFold, coefficients: Array, place: Array, scores: Array) -> None:
    flat = coefficients.reshape(len(coefficients), -1).astype(np.float32)
    scores[place] = (part.validation_rows @ flat).reshape(len(place), *coefficients.shape[1:])


def blocks(model: type[LinearModel], strengths: int, problem: Problem, rows: int) -> list[Array]:
    """List the strengths, strong first, in blocks that are worked on at once: as many as memory allows, of a path fewer where
    rows are many (the last of a block is where the next begins)."""
    every = np.geomspace(*model.strengths, strengths)
    size = max(1, SCORES // (rows * problem.loss.outputs))
    if not model.closed:
        work = len(problem.positions) * problem.loss.outputs
        size = min(size, int(np.clip(200_000 // work, 2, 9)))
    return [every[start : start + size] for start in range(0, strengths, size)]


#: Steps to the head of a part, whose likelihood is known well enough before the last digits are.
GROWN = 4


def refit_best(part: SweepFold, results: Sequence[SweepResult], loss: Loss, start: Array | None) -> tuple[Array, SweepResult]:
    """Learn the best strength of a path, which was swept on a sample, from all rows of the part; return it and its result."""
    best = max(results, key=lambda one: one.score)
    found = Logistic(part.problem, None if start is None else start / best.temperature).converged_coefficients(
        best.strength, GROWN
    )
    validation_loss = loss.take(part.validation)
    temperatures, losses = fit_temperatures(validation_loss, (part.validation_rows @ found.astype(np.float32))[:, None])
    [temperature], [score] = temperatures.tolist(), validation_loss.score(losses).tolist()
    return found, SweepResult(best.model, best.strength, temperature, score, len(part.problem.positions))


def fit_temperatures(loss: Loss, scores: Array) -> tuple[Array, Array]:
    """Return factors (heads,) and the losses (heads,) that scores (rows, heads, outputs) have with them. `scores` are
    overwritten.

    A normal prior on the factor's logarithm, worth one row, keeps a few rows that are all predicted right from being predicted
    with certainty.
    """
    factors = _fit_factors(loss, scores) if loss.tempers else np.ones(scores.shape[1])
    scores *= factors[:, None].astype(np.float32)
    return factors, _loss_and_derivative(loss, scores)[0]


def _fit_factors(loss: Loss, scores: Array) -> Array:
    step = 1 if isinstance(loss, SpanLoss) else max(1, len(scores) * loss.outputs // TEMPERATURE_SCORES)
    some, some_loss = scores[::step], loss.take(np.arange(0, len(scores), step))
    low, high = np.full(scores.shape[1], -LARGEST), np.full(scores.shape[1], LARGEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        factors = np.exp(middle)[:, None].astype(np.float32)
        _, derivative = _loss_and_derivative(some_loss, some * factors)
        slope = np.einsum("nbk,nbk->b", derivative, some, dtype=np.float64) * np.exp(middle) + middle
        low, high = np.where(slope < 0, middle, low), np.where(slope < 0, high, middle)
    found: Array = np.exp((low + high) / 2)
    return found


def _loss_and_derivative(loss: Loss, scores: Array) -> tuple[Array, Array]:
    """Return the loss (heads,); `scores` become its derivative."""
    value, _ = loss(scores, 0)
    return value, scores
