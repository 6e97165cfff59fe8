"""Linear heads: the whole range of regularization at once, chosen on folds within the rows that are learned from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from topwork_server import (
    Array,
    Examples,
    FittedHead,
    InvalidInput,
    Report,
    Target,
    Trainer,
    TrainerSpec,
    TrainingPlan,
    Trial,
    hookimpl,
    linear_graph,
    option,
)

from topwork_plugins.linear.alignment import AlignmentTrainer
from topwork_plugins.linear.losses import Loss, SigmoidLoss, SoftmaxLoss, SpanLoss, SquaredLoss
from topwork_plugins.linear.models import MODELS, Logistic, Problem
from topwork_plugins.linear.sweep import SplitBases, SweepFold, SweepResult, refit_best, splits, sweep

if TYPE_CHECKING:
    import onnx

#: Where a subset cannot be split: these strengths, unjudged.
DEFAULT_STRENGTHS = {"logistic": 1e-2, "discriminant": 1.0, "ridge": 1e-1}


Start = tuple[Array, Array] | None


@dataclass(frozen=True)
class LinearOptions:
    """Options of a linear head. The defaults suit most data."""

    model: Literal["auto", "logistic", "discriminant", "ridge"] = field(
        default="auto",
        metadata={
            "help": "logistic: softmax regression (a sigmoid a label); discriminant: Gaussian classes of one covariance, shrunk "
            "(classes only); ridge: least squares (numbers always); auto: what is likelier on held-out folds"
        },
    )
    strengths: int = option(45, "regularization strengths that are tried", minimum=1, maximum=500)
    class_weight: Literal["none", "balanced"] = field(
        default="none", metadata={"help": "balanced: rare classes (or labels) count as much as frequent ones"}
    )
    standardize: Literal["auto", "always", "never"] = field(
        default="auto",
        metadata={"help": "give columns equal variance before they are penalized; auto: where their scales differ widely"},
    )


@dataclass(frozen=True)
class LinearHead(FittedHead):
    """The head scores = rows @ weight.T + bias, with weight (outputs, dim) and bias (outputs,) float32."""

    weight: Array
    bias: Array
    view: int = 0
    chosen: Mapping[str, Any] = field(default_factory=dict)
    trials: Sequence[Trial] = ()
    measure: str = ""

    def scores(self, rows: Array) -> Array:
        found: Array = rows @ self.weight.T + self.bias
        return np.asarray(found, np.float32)

    def graph(self) -> onnx.ModelProto:
        return linear_graph(self.weight, self.bias)


@dataclass(frozen=True)
class HeadCandidate:
    """A head that may be chosen: its result in the sweep, and weight and bias to start the last training from, if any."""

    view: int
    bases: SplitBases
    results: SweepResult
    start: Start = None


class SubsetFit:
    """The fit of one subset. `seen` (classes,) int64 are the classes that it has; others are never predicted."""

    def __init__(self, examples: Examples, subset: Array, options: LinearOptions, seed: int) -> None:
        self.examples, self.subset, self.options, self.seed = examples, subset, options, seed
        bare = replace(examples, views=(), unlabeled=(), described=()).take(subset)
        self.seen = np.unique(bare.values) if bare.target is Target.CLASSES else np.arange(bare.values.shape[1])
        self.loss = loss_of(bare, self.seen, options.class_weight == "balanced")
        widest = max(view.rows.shape[1] for view in examples.views)
        can_judge = bare.target is not Target.CLASSES or len(self.seen) > 1
        self.splits = splits(bare, widest, seed) if can_judge else []
        self.models = models_for(bare.target, options)
        self.trials: list[Trial] = []

    def fit_head(self, step: Callable[[], None]) -> LinearHead:
        """Fit the best head of all views, models and strengths. `step` is called once a view."""
        candidates: list[HeadCandidate] = []
        for at in range(len(self.examples.views)):
            candidates += self._candidates(at)
            step()
        best = max(candidates, key=lambda one: one.results.score, default=None) or self._default_candidate()
        weight, bias = self._final_coefficients(best)
        chosen = {"model": best.results.model, "l2": best.results.strength}
        return LinearHead(weight, bias, best.view, chosen, self.trials, self.loss.measure if self.trials else "")

    def _default_candidate(self) -> HeadCandidate:
        """Return the candidate for a subset that no split can evaluate."""
        bases = SplitBases(self.examples.views[0].rows, self.subset, (), self.options.standardize, self.examples.weights)
        return HeadCandidate(0, bases, SweepResult(self.models[0], DEFAULT_STRENGTHS[self.models[0]], 1.0, 0.0))

    def _candidates(self, at: int) -> list[HeadCandidate]:
        rows = self.examples.views[at].rows
        bases = SplitBases(rows, self.subset, self.splits, self.options.standardize, self.examples.weights)
        folds = [SweepFold(rows, bases.split_basis(i), *split, self.loss, self.subset) for i, split in enumerate(self.splits)]
        found: list[HeadCandidate] = []
        for name in self.models if folds else ():
            results = list(sweep(folds, self.loss, MODELS[name], self.options.strengths, self.seed))
            self._record_trials(at, results)
            if MODELS[name].closed or not folds[0].many:
                found += [HeadCandidate(at, bases, one) for one in results]
            else:
                found.append(self._refit(at, bases, folds[0], results, found))
        return found

    def _refit(
        self, at: int, bases: SplitBases, fold: SweepFold, results: Sequence[SweepResult], others: Sequence[HeadCandidate]
    ) -> HeadCandidate:
        """Learn the best of a path, which was followed on a sample, from all rows of the fold: it starts at the best closed form,
        which is near."""
        near = max((one.results for one in others), key=lambda one: one.score, default=None)
        start = None if near is None else near.temperature * MODELS[near.model](fold.problem).coefficients(_one(near))[:, 0]
        coefficients, better = refit_best(fold, results, self.loss, start)
        self._record_trials(at, [better])
        return HeadCandidate(at, bases, better, fold.frame.to_raw(coefficients))

    def _record_trials(self, at: int, results: Sequence[SweepResult]) -> None:
        view = self.examples.views[at]
        settings = [{"model": one.model, "l2": one.strength, "rows": one.rows} for one in results]
        self.trials += [Trial(view.tap, view.pooling, setting, one.score) for setting, one in zip(settings, results, strict=True)]

    def _final_coefficients(self, best: HeadCandidate) -> tuple[Array, Array]:
        """Learn weight and bias, float32, from all rows of the subset."""
        rows, results = self.examples.views[best.view].rows, best.results
        seen = best.bases.full_basis()
        problem = Problem(rows, self.subset, seen, self.loss)
        if results.model == Logistic.name:
            found = Logistic(problem, None if best.start is None else seen.from_raw(*best.start)).converged_coefficients(
                results.strength
            )
        else:
            found = MODELS[results.model](problem).coefficients(_one(results))[:, 0]
        weight, bias = seen.to_raw(found * results.temperature)
        if self.examples.target is Target.CLASSES:
            weight, bias = self._of_all_classes(weight, bias)
        return weight.astype(np.float32), bias.astype(np.float32)

    def _of_all_classes(self, weight: Array, bias: Array) -> tuple[Array, Array]:
        """Add the classes that were not seen. A softmax does not change where all scores are shifted alike: where they sum to 0,
        the best is 0 or more for any row: a class that was not seen scores less than that, always."""
        outputs = len(self.examples.names)
        weights, biases = np.zeros((outputs, weight.shape[1])), np.zeros(outputs)
        weights[self.seen], biases[self.seen] = weight - weight.mean(axis=0), bias - bias.mean()
        biases[np.setdiff1d(np.arange(outputs), self.seen)] = biases.min() - np.log(self.loss.count + 1)
        return weights, biases


def _one(results: SweepResult) -> Array:
    return np.array([results.strength])


def models_for(target: Target, options: LinearOptions) -> list[str]:
    """List the models to try. InvalidInput where the requested one does not learn the target."""
    able = {Target.CLASSES: ["discriminant", "logistic", "ridge"], Target.NUMBERS: ["ridge"], Target.SPAN: ["logistic"]}
    names = able.get(target, ["logistic", "ridge"])
    requested, balanced = options.model, options.class_weight == "balanced"
    if balanced and target in (Target.NUMBERS, Target.SPAN):
        raise InvalidInput(f"class_weight 'balanced' means nothing for {target.value}", remedy="leave it out")
    if balanced and requested == "ridge":
        raise InvalidInput("model 'ridge' knows no class_weight", remedy="give model auto or logistic")
    if requested == "auto":
        return names if target is Target.NUMBERS else [name for name in names if name != "ridge"]
    if requested not in names:
        raise InvalidInput(f"model {requested!r} does not learn {target.value}", remedy=f"give auto or {' or '.join(names)}")
    return [requested]


def loss_of(examples: Examples, seen: Array, balanced: bool) -> Loss:
    values, often = examples.values, examples.counted
    counted = often.astype(np.float32)
    if examples.target is Target.NUMBERS:
        return SquaredLoss(values, counted)
    if examples.target is Target.SPAN:
        return SpanLoss(values, examples.items, counted)
    if examples.target is Target.LABELS:
        least = 1 / (often.sum() + 1)
        share = np.clip(np.average(values, axis=0, weights=often), least, 1 - least)
        weights = np.where(values > 0, 0.5 / share, 0.5 / (1 - share)) if balanced else np.ones(values.shape)
        return SigmoidLoss(values, (weights * often[:, None]).astype(np.float32), counted)
    classes = np.searchsorted(seen, values)
    counts = np.bincount(classes, often)
    weights = often.sum() / (len(seen) * counts[classes]) if balanced else np.ones(len(values))
    return SoftmaxLoss(classes, (weights * often).astype(np.float32), len(seen), counted)


class LinearTrainer(Trainer):
    """Softmax regression or a discriminant for classes, a sigmoid for each label, ridge regression for numbers, and a softmax
    over the rows of an item for spans."""

    options: ClassVar[type[Any]] = LinearOptions

    @classmethod
    def check(cls, plan: TrainingPlan, options: LinearOptions) -> None:
        """Raise InvalidInput for a model or weights that do not suit what is learned."""
        models_for(plan.target, options)

    @classmethod
    def fit(
        cls, examples: Examples, subsets: Sequence[Array], options: LinearOptions, seed: int, threads: int, report: Report
    ) -> list[FittedHead]:
        heads: list[FittedHead] = []
        steps = len(subsets) * len(examples.views)
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            report(done / steps, f"swept {options.strengths} strengths, {done} of {steps}")

        for subset in subsets:
            if not len(subset):
                raise InvalidInput("there are no rows to learn from", remedy="label some")
            heads.append(SubsetFit(examples, subset, options, seed).fit_head(step))
        return heads


@hookimpl
def register_trainers() -> Iterable[TrainerSpec]:
    about = "softmax, discriminant or ridge, swept over its whole range of regularization"
    yield TrainerSpec("linear", LinearTrainer, about, reads_weights=True)
    yield TrainerSpec("align", AlignmentTrainer, "a map to a text encoder's space, learned from captions by ridge regression")
