"""The nearest examples vote, weighted by exp(cosine / T), as Wu et al. (2018, section 3.4) and DINO (Caron et al. 2021) do.

A head holds its examples: the k nearest of a row, and their weighted vote, in numpy and as a graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from topwork_server import Array, Examples, FittedHead, InvalidInput, Report, Target, Trainer, Trial, head_graph, option

from topwork_plugins.few_shot.prototype import (
    COLDEST,
    HOTTEST,
    MEASURE,
    best_trial,
    check_not_empty,
    check_target,
    log_likelihood,
    unit,
    unit_constants,
    unit_nodes,
)

if TYPE_CHECKING:
    import onnx

#: What all examples together weigh beside the nearest (which weighs 1): nothing is impossible, and a lone neighbor not certain.
DOUBT = {Target.CLASSES: 0.1, Target.LABELS: 0.1, Target.NUMBERS: 1e-3}
#: What the k-th neighbor weighs at the least: where all k are equally near, they vote alike.
LEAST = 1e-6
#: Numbers in one block of the work.
BLOCK = 1 << 24
NEIGHBORS = (10, 20, 100, 200)
#: 0.07 is that of Wu et al. and DINO. Cosines of unit rows from their center are spread more, those of rows that all point
#: one way (after a ReLU, say) less.
TEMPERATURES = (0.02, 0.07, 0.2)
DEFAULT_NEIGHBORS, DEFAULT_TEMPERATURE = 10, 0.07
#: Rows that are evaluated by the others, at random: enough to tell one k from another.
EVALUATED_ROWS = 2000
#: A head holds its examples, and a graph may not pass 2 GB.
MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Votes:
    """The votes of the examples: CLASSES (n,) int64, else (n, outputs) float32; prior (outputs,): the vote of all together."""

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
        """Count the votes, (b, outputs), of cosines (b, at least k) and positions, nearest first. Where there is one more than k,
        its weight is taken off all: what comes k-th then counts next to nothing, and scores do not leap where two change
        places."""
        nearness = np.exp((similar[:, : k + 1] - similar[:, :1]) / temperature)
        if nearness.shape[1] > k:
            nearness = nearness[:, :k] - nearness[:, k:] + LEAST
            nearness /= nearness[:, :1]
        doubt = DOUBT[self.target]
        share = doubt * self.prior + self._sums(nearness, positions[:, :k])
        share /= nearness.sum(axis=1, keepdims=True) + doubt
        if self.target is Target.NUMBERS:
            return np.asarray(share)
        return np.asarray(np.log(share) if self.target is Target.CLASSES else np.log(share) - np.log(1 - share))

    def _sums(self, weights: Array, positions: Array) -> Array:
        if self.target is not Target.CLASSES:
            return np.asarray(np.einsum("bk,bko->bo", weights, self.values[positions]))
        sums = np.zeros((len(weights), len(self.prior)), weights.dtype)
        np.add.at(sums, (np.arange(len(weights))[:, None], self.values[positions]), weights)
        return sums


def nearest(cosines: Array, count: int) -> tuple[Array, Array]:
    """Find the largest `count` (or all) of each row of (b, n) cosines, largest first, and their positions."""
    count = min(count, cosines.shape[1])
    found = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(cosines, found, axis=1), axis=1, kind="stable")
    found = np.take_along_axis(found, order, axis=1)
    return np.take_along_axis(cosines, found, axis=1), found


class KnnHead(FittedHead):
    """A head that holds its examples, rows (n, dim), as unit rows from the center."""

    measure = "of examples that were left out"

    def __init__(self, view: int, center: Array, rows: Array, votes: Votes, settings: Mapping[str, Any]) -> None:
        self.view, self.chosen = view, settings
        self.trials: Sequence[Trial] = ()
        self._center, self._rows, self._votes = center.astype(np.float32), unit(rows, center), votes
        self._k, self._temperature = int(settings["k"]), float(settings["temperature"])

    def scores(self, rows: Array) -> Array:
        step = max(1, BLOCK // max(len(self._rows), self._k * len(self._votes.prior)))
        blocks = [self._block(rows[start : start + step]) for start in range(0, len(rows), step)]
        return np.concatenate([np.zeros((0, len(self._votes.prior)), np.float32), *blocks])

    def _block(self, rows: Array) -> Array:
        similar, positions = nearest(unit(rows, self._center) @ self._rows.T, self._k + 1)
        return self._votes.scores(similar, positions, self._k, self._temperature).astype(np.float32)

    def graph(self) -> onnx.ModelProto:
        outputs, doubt = len(self._votes.prior), DOUBT[self._votes.target]
        constants = {
            **unit_constants(self._center),
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
        """Make the nodes from `unit` to `weights` (n, k) and `positions` (n, k)."""
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
            make_node("Gather", ["unscaled", "nearest"], ["nearest_weight"], axis=1),
            make_node("Div", ["unscaled", "nearest_weight"], ["weights"]),
        ]


def _vote(target: Target) -> list[onnx.NodeProto]:
    """Make the nodes from `weights` and `positions` to `scores`."""
    from onnx.helper import make_node

    share = "scores" if target is Target.NUMBERS else "share"
    nodes = [
        *(_of_classes() if target is Target.CLASSES else _of_numbers()),
        make_node("ReduceSum", ["weights", "columns"], ["weight"]),
        make_node("Add", ["weight", "doubt"], ["whole"]),
        make_node("Div", ["sums", "whole"], [share]),
    ]
    if target is Target.CLASSES:
        nodes.append(make_node("Log", ["share"], ["scores"]))
    if target is Target.LABELS:
        nodes += [
            make_node("Log", ["share"], ["yes"]),
            make_node("Sub", ["one", "share"], ["other"]),
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


@dataclass(frozen=True)
class KnnOptions:
    """Options of a vote of the nearest examples. None leaves the choice to the examples that are left out."""

    k: int | None = option(None, "how many neighbors vote", minimum=1, maximum=1000)
    temperature: float | None = option(None, "what cosines are divided by in a vote's weight", minimum=COLDEST, maximum=HOTTEST)
    center: bool | None = option(None, "whether the mean of all rows is taken off before cosines")


class KnnTrainer(Trainer):
    options = KnnOptions
    targets = frozenset({Target.CLASSES, Target.LABELS, Target.NUMBERS})

    @classmethod
    def fit(
        cls, examples: Examples, subsets: Sequence[Array], options: KnnOptions, seed: int, threads: int, report: Report
    ) -> list[FittedHead]:
        check_target(examples, cls.targets, "knn")
        heads: list[FittedHead] = []
        for done, subset in enumerate(subsets):
            check_not_empty(subset, "knn")
            report(done / len(subsets), f"neighbors among {len(subset)} rows")
            heads.append(_fit(examples.take(subset), options, seed))
        report(1.0, "neighbors are found")
        return heads


def _fit(examples: Examples, options: KnnOptions, seed: int) -> KnnHead:
    _check_size(examples)
    votes, evaluated = Votes.from_examples(examples), _evaluated_rows(examples, seed)
    tried: list[tuple[int, Trial]] = []
    for view, centered in product(range(len(examples.views)), (True, False) if options.center is None else (options.center,)):
        tried += [(view, trial) for trial in _trials(examples, votes, view, centered, options, evaluated)]
    trials = [trial for _, trial in tried]
    if not trials:
        return _head(examples, votes, 0, _default_settings(examples, options))
    chosen = best_trial(trials)
    head = _head(examples, votes, tried[chosen][0], trials[chosen].settings)
    head.trials, head.measure = trials, "R2 of examples that were left out" if examples.target is Target.NUMBERS else MEASURE
    return head


def _check_size(examples: Examples) -> None:
    rows, dim = examples.count, max(view.rows.shape[1] for view in examples.views)
    if rows * dim * 4 > MOST_BYTES:
        raise InvalidInput(
            f"knn keeps its examples, and {rows} rows of {dim} numbers are more than {MOST_BYTES >> 30} GB",
            remedy="learn from fewer (`where`), or train another kind",
        )


def _evaluated_rows(examples: Examples, seed: int) -> Array:
    """Choose the rows that others can evaluate: there is another group, and of CLASSES another group with that class."""
    rows = np.random.default_rng(seed).permutation(examples.count)
    if len(np.unique(examples.groups)) < 2:
        return rows[:0]
    if examples.target is Target.CLASSES:
        pairs = np.unique(np.stack([examples.values, examples.groups]), axis=1)
        rows = rows[np.bincount(pairs[0], minlength=len(examples.names))[examples.values[rows]] > 1]
    return np.sort(rows[:EVALUATED_ROWS])


def _trials(
    examples: Examples, votes: Votes, view: int, centered: bool, options: KnnOptions, evaluated: Array
) -> Iterator[Trial]:
    if not len(evaluated):
        return
    seen = examples.views[view]
    ks = sorted({min(k, examples.count - 1) for k in (NEIGHBORS if options.k is None else (options.k,))})
    similar, positions = _nearest_of_other_groups(
        unit(seen.rows, _center(seen.rows, centered)), examples.groups, evaluated, ks[-1] + 1
    )
    for k, temperature in product(ks, TEMPERATURES if options.temperature is None else (options.temperature,)):
        scores = votes.scores(similar, positions, k, temperature)
        settings = {"k": k, "temperature": temperature, "center": centered}
        yield Trial(seen.tap, seen.pooling, settings, _score(examples.target, scores, examples.values[evaluated]))


def _nearest_of_other_groups(rows: Array, groups: Array, evaluated: Array, count: int) -> tuple[Array, Array]:
    """Find cosines and positions of the `count` nearest of each evaluated row in other groups; -inf where there are no more."""
    found = []
    step = max(1, BLOCK // len(rows))
    for start in range(0, len(evaluated), step):
        block = evaluated[start : start + step]
        cosines = rows[block] @ rows.T
        cosines[groups[block][:, None] == groups] = -np.inf
        found.append(nearest(cosines, count))
    similar, positions = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return similar.astype(np.float64), positions


def _score(target: Target, scores: Array, values: Array) -> float:
    if target is not Target.NUMBERS:
        return log_likelihood(target, scores, values)
    spread = float(values.var(dtype=np.float64))
    return 1 - float(((scores - values) ** 2).mean()) / spread if spread else 0.0


def _default_settings(examples: Examples, options: KnnOptions) -> dict[str, Any]:
    return {
        "k": min(options.k or DEFAULT_NEIGHBORS, examples.count),
        "temperature": options.temperature or DEFAULT_TEMPERATURE,
        "center": options.center is not False,
    }


def _center(rows: Array, centered: bool) -> Array:
    return np.asarray(rows.mean(axis=0, dtype=np.float64) if centered else np.zeros(rows.shape[1]))


def _head(examples: Examples, votes: Votes, view: int, settings: Mapping[str, Any]) -> KnnHead:
    rows = examples.views[view].rows
    return KnnHead(view, _center(rows, bool(settings["center"])), rows, votes, settings)
