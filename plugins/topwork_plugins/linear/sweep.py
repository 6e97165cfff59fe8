"""Which model, strength and view: what is best on folds of a subset that were not learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from topwork_server import Examples, InvalidInput, folds, rest
from topwork_server.types import Array

from topwork_plugins.linear.frames import frame
from topwork_plugins.linear.losses import Loss
from topwork_plugins.linear.models import Logistic, Model
from topwork_plugins.linear.problem import Problem
from topwork_plugins.linear.temperature import tempered

#: Folds of a subset of so many rows or fewer; where there are more, one split.
FOLDS = ((150, 5), (8000, 3))
#: Rows that judge, and rows that a path of iterations learns from, where there are many more: what is best of a mean loss was the
#: same from 2,500 rows on (100 clusters, 768 columns).
JUDGES, SAMPLE = 4000, 4000
#: Scores that are held at a time.
SCORES = 8_000_000


@dataclass(frozen=True)
class Tried:
    """`temperature` is what scores were multiplied by, `score` what they then got, `rows` how many were learnt from (a fold)."""

    model: str
    strength: float
    temperature: float
    score: float
    rows: int = 0


class Part:
    """A fold: the problem of the rows that learn, and the rows that judge, in one frame. Both are positions in `subset`."""

    def __init__(self, view: Array, learn: Array, judge: Array, loss: Loss, subset: Array, standardise: str) -> None:
        self.frame = frame(view, subset[learn], standardise)
        self.problem = Problem(view, subset[learn], self.frame, loss.take(learn))
        self.judge = judge
        self.judged = self.frame.rows(view, subset[judge])

    @property
    def many(self) -> bool:
        return len(self.problem.positions) > 2 * SAMPLE

    def learnt(self, closed: bool, random: np.random.Generator) -> Problem:
        """Of fewer rows for paths, where there are many."""
        return self.problem if closed or not self.many else self.problem.sample(SAMPLE, random)


def splits(examples: Examples, seed: int) -> list[tuple[Array, Array]]:
    """(rows that learn, rows that judge), positions in `examples`. None where no split can be made."""
    count = examples.count
    wanted = next((folds for most, folds in FOLDS if count <= most), 0)
    try:
        held = folds(examples, wanted or 5, seed)
    except InvalidInput:  # one group
        return []
    if wanted:
        return [(rest(count, some), some) for some in held]
    return [(rest(count, held[0]), _some(examples, held[0], seed))]


def _some(examples: Examples, judge: Array, seed: int) -> Array:
    """At most JUDGES of them, and whole items."""
    items = np.unique(examples.items[judge])
    share = JUDGES / len(judge)
    if share >= 1:
        return judge
    kept = np.random.default_rng(seed).permutation(items)[: max(1, int(share * len(items)))]
    return judge[np.isin(examples.items[judge], kept)]


def sweep(parts: Sequence[Part], loss: Loss, model: type[Model], strengths: int, seed: int) -> Iterator[Tried]:
    """Every strength from strong to weak, until a path has been getting worse."""
    judges = np.sort(np.concatenate([part.judge for part in parts]))
    places = [np.searchsorted(judges, part.judge) for part in parts]
    judged = loss.take(judges)
    random = np.random.default_rng(seed)
    paths = [model(part.learnt(model.closed, random)) for part in parts]
    best = -np.inf
    scores = np.empty(0, np.float32)
    for block in blocks(model, strengths, paths[0].problem, len(judges)):
        scores = scores if scores.size == len(judges) * len(block) * loss.outputs else _room(judges, block, loss)
        for part, place, path in zip(parts, places, paths, strict=True):
            _judge(part, path.coefficients(block), place, scores)
        temperatures, losses = tempered(judged, scores)
        found = judged.score(losses)
        for at in range(len(block)):
            yield Tried(model.name, float(block[at]), float(temperatures[at]), float(found[at]), len(paths[0].problem.positions))
        if not model.closed and found.max() < best:
            return
        best = max(best, found.max())


def _room(judges: Array, block: Array, loss: Loss) -> Array:
    return np.empty((len(judges), len(block), loss.outputs), np.float32)


def _judge(part: Part, coefficients: Array, place: Array, scores: Array) -> None:
    flat = coefficients.reshape(len(coefficients), -1).astype(np.float32)
    scores[place] = (part.judged @ flat).reshape(len(place), *coefficients.shape[1:])


def blocks(model: type[Model], strengths: int, problem: Problem, judges: int) -> list[Array]:
    """The strengths, strong first, in blocks that are worked on at once: as many as memory allows, of a path fewer where rows
    are many (the last of a block is where the next begins)."""
    every = np.geomspace(*model.strengths, strengths)
    size = max(1, SCORES // (judges * problem.loss.outputs))
    if not model.closed:
        work = len(problem.positions) * problem.loss.outputs
        size = min(size, int(np.clip(200_000 // work, 2, 9)))
    return [every[start : start + size] for start in range(0, strengths, size)]


def grown(part: Part, tried: Sequence[Tried], loss: Loss, start: Array | None) -> tuple[Array, Tried]:
    """Where a path was swept on a sample: its best strength learnt from all rows of the part, and what that got."""
    best = max(tried, key=lambda one: one.score)
    found = Logistic(part.problem, start).finished(best.strength)
    judged = loss.take(part.judge)
    temperatures, losses = tempered(judged, (part.judged @ found.astype(np.float32))[:, None])
    [temperature], [score] = temperatures.tolist(), judged.score(losses).tolist()
    return found, Tried(best.model, best.strength, temperature, score, len(part.problem.positions))
