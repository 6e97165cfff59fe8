"""The nearest mean of a class (Snell et al. 2017, "Prototypical networks"), by cosine over unit rows, and the head of cosines
that zero-shot classes share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
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
    TrainingPlan,
    Trial,
    folds,
    head_graph,
    option,
)

if TYPE_CHECKING:
    import onnx

#: Bounds of the option temperature, which is above 0.
COLDEST, HOTTEST = 1e-4, 1e4
#: Temperatures that are tried: a factor of about 1.6 from one to the next.
TEMPERATURES = tuple(float(f"{t:.2g}") for t in np.geomspace(0.002, 1, 14))
MEASURE = "mean log likelihood of examples that were left out"
#: Below it a row has no direction.
TINY = 1e-12
#: Groups are left out one at a time; of more than so many, as many at a time as make so many turns.
TURNS = 50
#: Where nothing can be left out: one example a class.
DEFAULT_TEMPERATURE = 0.1
#: How much less than any other a class scores of which nothing is known.
UNKNOWN = 5.0
#: Rows times means on which temperatures are tried; of more, some are taken.
MOST_COSINES = 500_000


def unit(rows: Array, center: Array) -> Array:
    """Return directions (n, dim) float32 from the center (dim,); zeros where a row has none. The largest number of a row is
    brought to 1 first: squares of 1e20 are infinite."""
    off = rows - center.astype(np.float32)
    off /= np.maximum(np.abs(off).max(axis=1, keepdims=True, initial=0), np.float32(TINY))
    return np.asarray(off / np.maximum(np.linalg.norm(off, axis=1, keepdims=True), 1), np.float32)


class CosineHead(FittedHead):
    """The head scores = unit(row - center) @ weight.T + bias, for weight (outputs, dim) and bias (outputs,)."""

    def __init__(self, view: int, center: Array, weight: Array, bias: Array) -> None:
        self.view = view
        self._center, self._weight, self._bias = (array.astype(np.float32) for array in (center, weight, bias))

    def with_trials(self, chosen: Mapping[str, Any], trials: Sequence[Trial], measure: str = MEASURE) -> CosineHead:
        self.chosen, self.trials, self.measure = chosen, trials, measure
        return self

    def scores(self, rows: Array) -> Array:
        return np.asarray(unit(rows, self._center) @ self._weight.T + self._bias, np.float32)

    def graph(self) -> onnx.ModelProto:
        from onnx import helper

        nodes = [*unit_nodes(), helper.make_node("Gemm", ["unit", "weight", "bias"], ["scores"], transB=1)]
        constants = {**unit_constants(self._center), "weight": self._weight, "bias": self._bias}
        return head_graph(nodes, constants, self._weight.shape[1], len(self._weight))


def unit_nodes() -> list[onnx.NodeProto]:
    """Make the nodes of `unit`, from `rows` to `unit`."""
    from onnx import helper

    return [
        helper.make_node("Sub", ["rows", "center"], ["off"]),
        helper.make_node("Abs", ["off"], ["magnitudes"]),
        helper.make_node("ReduceMax", ["magnitudes", "columns"], ["largest"]),
        helper.make_node("Max", ["largest", "tiny"], ["scale"]),
        helper.make_node("Div", ["off", "scale"], ["scaled"]),
        helper.make_node("ReduceL2", ["scaled", "columns"], ["norm"]),
        helper.make_node("Max", ["norm", "least_length"], ["length"]),
        helper.make_node("Div", ["scaled", "length"], ["unit"]),
    ]


def unit_constants(center: Array) -> dict[str, Array]:
    return {"center": center, "columns": np.array([1]), "tiny": np.array([TINY]), "least_length": np.array([1.0])}


def log_likelihood(target: Target, scores: Array, values: Array, counted: Array | None = None) -> float:
    """Return the mean over rows of CLASSES or LABELS, each as often as it counts, with labels held for a little less than
    certain, as Platt (1999, section 2.2) does: a handful of rows that are all right must not make a head infinitely sure."""
    counted = np.ones(len(scores)) if counted is None else counted
    doubt = 1 / (counted.sum() + 2)
    if target is Target.LABELS:
        y_true = values * (1 - doubt) + doubt / 2
        losses = y_true * np.logaddexp(0, -scores) + (1 - y_true) * np.logaddexp(0, scores)
        return float(-np.average(losses.mean(axis=1), weights=counted))
    log_probabilities = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    right = log_probabilities[np.arange(len(values)), values]
    return float(np.average((1 - doubt) * right + doubt * log_probabilities.mean(axis=1), weights=counted))


def best_trial(trials: Sequence[Trial]) -> int:
    """Return the position of the best trial; of trials that are equal but for rounding, the first."""
    most = max(trial.score for trial in trials)
    return next(at for at, trial in enumerate(trials) if trial.score >= most - 1e-6)


def check_target(examples: Examples, targets: frozenset[Target], kind: str) -> None:
    if examples.target not in targets:
        learns = ", ".join(sorted(targets))
        raise InvalidInput(f"{kind} does not learn {examples.target}", remedy=f"it learns {learns}: choose another kind")


def check_not_empty(subset: Array, kind: str) -> None:
    if not len(subset):
        raise InvalidInput(f"{kind} has no examples to learn from", remedy="label some items")


@dataclass(frozen=True)
class PrototypeOptions:
    """Options of a mean for each class. None leaves the choice to the examples that are left out."""

    temperature: float | None = option(None, "what cosines are divided by", minimum=COLDEST, maximum=HOTTEST)
    center: bool | None = option(None, "whether the mean of all rows is taken off before cosines")
    #: Of MiniLM and 20 topics of docstrings, 3 was better than 1 with one to five examples a class.
    prior: float = option(3.0, "how many examples the description of a class counts for", minimum=0, maximum=1e6)


class PrototypeTrainer(Trainer):
    """The nearest mean by cosine. Of LABELS, each label has two means: of the rows that have it, and of the others."""

    options = PrototypeOptions
    targets = frozenset({Target.CLASSES, Target.LABELS})

    @classmethod
    def check(cls, plan: TrainingPlan, options: PrototypeOptions) -> None:
        """Raise InvalidInput for a prior of descriptions that are not there."""
        if options.prior != PrototypeOptions.prior and not (plan.described and plan.target is Target.CLASSES):
            raise InvalidInput(
                "prior is what the description of a class counts for, and there are none",
                remedy="pass descriptions, or leave it out",
            )

    @classmethod
    def fit(
        cls, examples: Examples, subsets: Sequence[Array], options: PrototypeOptions, seed: int, threads: int, report: Report
    ) -> list[FittedHead]:
        check_target(examples, cls.targets, "prototype")
        heads: list[FittedHead] = []
        for done, subset in enumerate(subsets):
            check_not_empty(subset, "prototype")
            report(done / len(subsets), f"prototypes of {len(subset)} rows")
            heads.append(_fit(examples.take(subset), options, _folds_to_leave_out(examples, subset, seed)))
        report(1.0, "prototypes are computed")
        return heads


def _folds_to_leave_out(examples: Examples, subset: Array, seed: int) -> list[Array]:
    """Choose the rows that are left out together; none where all are of one group."""
    bare = replace(examples, views=(), unlabeled=(), described=()).take(subset)
    try:
        return folds(bare, TURNS, seed)
    except InvalidInput:
        return []


@dataclass(frozen=True)
class _Means:
    """Means of one view and center: unit rows (n, dim), members (n, means) of 0 and what a row counts for, their sums
    (means, dim) and counts (means,), in which a description stands for so many members. Of LABELS the first half of the means is
    of those that have the label."""

    view: int
    centered: bool
    center: Array
    rows: Array
    members: Array
    sums: Array
    counts: Array

    def without(self, turn: Array) -> tuple[Array, Array]:
        """Return unit means (means, dim), and which are known (means,), without those rows."""
        left = self.members[turn]
        return _directions(self.sums - left.T @ self.rows[turn], self.counts - left.sum(axis=0))

    @property
    def frequencies(self) -> Array:
        """Log shares of the rows, (means,). A mean known by its description alone is taken to be as frequent as the others."""
        counts = self.members.sum(axis=0)
        counts = np.where(counts > 0, counts, counts[counts > 0].mean())
        return np.asarray(np.log(counts / counts.sum()))


def _directions(sums: Array, counts: Array) -> tuple[Array, Array]:
    known = counts > 1e-6
    return unit(np.where(known[:, None], sums, 0), np.zeros(sums.shape[1])), known


def _means(examples: Examples, view: int, centered: bool, prior: float) -> _Means:
    rows = examples.views[view].rows
    center = np.average(rows, axis=0, weights=examples.counted) if centered else np.zeros(rows.shape[1])
    rows, members = unit(rows, center), _members(examples)
    sums, counts = members.T @ rows, members.sum(axis=0)
    if examples.described and examples.target is Target.CLASSES:
        sums, counts = sums + prior * unit(examples.described[view], center), counts + prior
    return _Means(view, centered, center, rows, members, sums, counts)


def _members(examples: Examples) -> Array:
    counted = examples.counted.astype(np.float32)[:, None]
    if examples.target is Target.LABELS:
        return np.asarray(counted * np.concatenate([examples.values, 1 - examples.values], axis=1), np.float32)
    return np.asarray(counted * np.eye(len(examples.names), dtype=np.float32)[examples.values])


def _fit(examples: Examples, options: PrototypeOptions, turns: Sequence[Array]) -> CosineHead:
    centering = (True, False) if options.center is None else (options.center,)
    alternatives = [
        _means(examples, view, centered, options.prior) for view, centered in product(range(len(examples.views)), centering)
    ]
    tried = [(means, *setting) for means in alternatives for setting in _evaluate_settings(examples, means, options, turns)]
    if not tried:
        setting = options.temperature or DEFAULT_TEMPERATURE, False
        return _head(examples, alternatives[0], *setting).with_trials(_settings(alternatives[0], *setting), ())
    trials = [_trial(examples, *one) for one in tried]
    chosen = best_trial(trials)
    means, temperature, weighted, _ = tried[chosen]
    return _head(examples, means, temperature, weighted).with_trials(trials[chosen].settings, trials)


def _settings(means: _Means, temperature: float, weighted: bool) -> dict[str, Any]:
    return {"center": means.centered, "temperature": temperature, "class_frequencies": weighted}


def _trial(examples: Examples, means: _Means, temperature: float, weighted: bool, score: float) -> Trial:
    view = examples.views[means.view]
    return Trial(view.tap, view.pooling, _settings(means, temperature, weighted), score)


def _evaluate_settings(
    examples: Examples, means: _Means, options: PrototypeOptions, turns: Sequence[Array]
) -> Iterator[tuple[float, bool, float]]:
    """Yield (temperature, whether class frequencies count, mean log likelihood of rows by the means of the others) for all that
    are tried; nothing where no row has others of its class."""
    cosines, known, rows = _left_out(examples, means, turns)
    if not len(rows):
        return
    for temperature in TEMPERATURES if options.temperature is None else (options.temperature,):
        for weighted in (False, True):
            scores = _joined(examples.target, _scored(cosines, known, temperature, means.frequencies * weighted))
            score = log_likelihood(examples.target, scores, examples.values[rows], examples.counted[rows])
            yield temperature, weighted, score


def _left_out(examples: Examples, means: _Means, turns: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Return cosines (m, means) of rows to the means of the others, which means are known, and the positions (m,) of the rows."""
    if not turns:
        return means.rows[:0] @ means.sums.T, np.zeros((0, len(means.counts)), bool), np.arange(0)
    found = []
    for turn in turns:
        directions, known = means.without(turn)
        found.append((means.rows[turn] @ directions.T, np.broadcast_to(known, (len(turn), len(known))), turn))
    cosines, known, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    fair = np.arange(len(rows))
    if examples.target is Target.CLASSES:
        fair = fair[known[fair, examples.values[rows]]]
    fair = fair[:: 1 + len(fair) * cosines.shape[1] // MOST_COSINES]
    return cosines[fair].astype(np.float64), known[fair], rows[fair]


def _scored(cosines: Array, known: Array, temperature: float, bias: Array) -> Array:
    return np.where(known, cosines / temperature + bias, _unknown(temperature, bias))


def _unknown(temperature: float, bias: Array) -> float:
    """Return the score of a mean that is not known: below any other."""
    return float(-1 / temperature + bias.min() - UNKNOWN)


def _joined(target: Target, scores: Array) -> Array:
    """Turn scores (n, means) into those of the outputs. Of LABELS: of having it against not."""
    if target is Target.CLASSES:
        return scores
    half = scores.shape[1] // 2
    return np.asarray(scores[:, :half] - scores[:, half:])


def _head(examples: Examples, means: _Means, temperature: float, weighted: bool) -> CosineHead:
    directions, known = _directions(means.sums, means.counts)
    bias = means.frequencies * weighted
    bias = np.where(known, bias, _unknown(temperature, bias))
    weight, bias = (_joined(examples.target, array.T).T for array in (directions / temperature, bias[:, None]))
    return CosineHead(means.view, means.center, weight, bias[:, 0])
