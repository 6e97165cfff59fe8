"""One subset: what its values cost, and the head that is learnt from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from topwork_server import Array, Examples, InvalidInput, Target, Trial

from topwork_plugins.linear.head import LinearHead
from topwork_plugins.linear.losses import Loss, Sigmoids, Softmax, Spans, Squares
from topwork_plugins.linear.models import MODELS, Logistic
from topwork_plugins.linear.options import LinearOptions
from topwork_plugins.linear.problem import Problem
from topwork_plugins.linear.sweep import Frames, Part, Tried, grown, splits, sweep

#: Where a subset cannot be split: these strengths, unjudged.
USUAL = {"logistic": 1e-2, "discriminant": 1.0, "ridge": 1e-1}


Start = tuple[Array, Array] | None


@dataclass(frozen=True)
class Candidate:
    """A head that may be chosen: what was tried, and weight and bias to start the last training from, if any."""

    view: int
    frames: Frames
    tried: Tried
    start: Start = None


class Lesson:
    """`seen` (classes,) int64 are those that the subset has; others are never expected."""

    def __init__(self, examples: Examples, subset: Array, options: LinearOptions, seed: int) -> None:
        self.examples, self.subset, self.options, self.seed = examples, subset, options, seed
        bare = replace(examples, views=(), unlabelled=(), described=()).take(subset)
        self.seen = np.unique(bare.values) if bare.target is Target.CLASSES else np.arange(bare.values.shape[1])
        self.loss = loss_of(bare, self.seen, options.class_weight == "balanced")
        widest = max(view.rows.shape[1] for view in examples.views)
        told = bare.target is not Target.CLASSES or len(self.seen) > 1
        self.splits = splits(bare, widest, seed) if told else []
        self.models = models(bare.target, options)
        self.trials: list[Trial] = []

    def head(self, step: Callable[[], None]) -> LinearHead:
        """`step` is called once a view."""
        candidates: list[Candidate] = []
        for at in range(len(self.examples.views)):
            candidates += self._candidates(at)
            step()
        best = max(candidates, key=lambda one: one.tried.score, default=None) or self._usual()
        weight, bias = self._learnt(best)
        chosen = {"model": best.tried.model, "l2": best.tried.strength}
        return LinearHead(weight, bias, best.view, chosen, self.trials, self.loss.measure if self.trials else "")

    def _usual(self) -> Candidate:
        """Where nothing can be judged."""
        frames = Frames(self.examples.views[0].rows, self.subset, (), self.options.standardise)
        return Candidate(0, frames, Tried(self.models[0], USUAL[self.models[0]], 1.0, 0.0))

    def _candidates(self, at: int) -> list[Candidate]:
        rows = self.examples.views[at].rows
        frames = Frames(rows, self.subset, self.splits, self.options.standardise)
        parts = [Part(rows, frames.split(i), *split, self.loss, self.subset) for i, split in enumerate(self.splits)]
        found: list[Candidate] = []
        for name in self.models if parts else ():
            tried = list(sweep(parts, self.loss, MODELS[name], self.options.strengths, self.seed))
            self._remember(at, tried)
            if MODELS[name].closed or not parts[0].many:
                found += [Candidate(at, frames, one) for one in tried]
            else:
                found.append(self._grown(at, frames, parts[0], tried, found))
        return found

    def _grown(self, at: int, frames: Frames, part: Part, tried: Sequence[Tried], others: Sequence[Candidate]) -> Candidate:
        """The best of a path that was followed on a sample, learnt from all rows of the part: from the best closed form on, which
        is near."""
        near = max((one.tried for one in others), key=lambda one: one.score, default=None)
        start = None if near is None else near.temperature * MODELS[near.model](part.problem).coefficients(_one(near))[:, 0]
        coefficients, better = grown(part, tried, self.loss, start)
        self._remember(at, [better])
        return Candidate(at, frames, better, part.frame.unfolded(coefficients))

    def _remember(self, at: int, tried: Sequence[Tried]) -> None:
        view = self.examples.views[at]
        settings = [{"model": one.model, "l2": one.strength, "rows": one.rows} for one in tried]
        self.trials += [Trial(view.tap, view.pooling, said, one.score) for said, one in zip(settings, tried, strict=True)]

    def _learnt(self, best: Candidate) -> tuple[Array, Array]:
        """Weight and bias float32, of all rows of the subset."""
        rows, tried = self.examples.views[best.view].rows, best.tried
        seen = best.frames.whole()
        problem = Problem(rows, self.subset, seen, self.loss)
        if tried.model == Logistic.name:
            found = Logistic(problem, None if best.start is None else seen.folded(*best.start)).finished(tried.strength)
        else:
            found = MODELS[tried.model](problem).coefficients(_one(tried))[:, 0]
        weight, bias = seen.unfolded(found * tried.temperature)
        if self.examples.target is Target.CLASSES:
            weight, bias = self._of_all_classes(weight, bias)
        return weight.astype(np.float32), bias.astype(np.float32)

    def _of_all_classes(self, weight: Array, bias: Array) -> tuple[Array, Array]:
        """A softmax does not change where all scores are shifted alike. Shifted so that they sum to 0, the best is 0 or more
        whatever the row: a class that was not seen scores less than that, always."""
        outputs = len(self.examples.names)
        weights, biases = np.zeros((outputs, weight.shape[1])), np.zeros(outputs)
        weights[self.seen], biases[self.seen] = weight - weight.mean(axis=0), bias - bias.mean()
        biases[np.setdiff1d(np.arange(outputs), self.seen)] = biases.min() - np.log(len(self.subset) + 1)
        return weights, biases


def _one(tried: Tried) -> Array:
    return np.array([tried.strength])


def models(target: Target, options: LinearOptions) -> list[str]:
    """Those that are tried. InvalidInput where what is asked for does not learn the target."""
    able = {Target.CLASSES: ["discriminant", "logistic", "ridge"], Target.NUMBERS: ["ridge"], Target.SPAN: ["logistic"]}
    names = able.get(target, ["logistic", "ridge"])
    asked, balanced = options.model, options.class_weight == "balanced"
    if balanced and target in (Target.NUMBERS, Target.SPAN):
        raise InvalidInput(f"class_weight 'balanced' means nothing for {target.value}", remedy="leave it out")
    if balanced and asked == "ridge":
        raise InvalidInput("model 'ridge' knows no class_weight", remedy="give model auto or logistic")
    if asked == "auto":
        return names if target is Target.NUMBERS else [name for name in names if name != "ridge"]
    if asked not in names:
        raise InvalidInput(f"model {asked!r} does not learn {target.value}", remedy=f"give auto or {' or '.join(names)}")
    return [asked]


def loss_of(examples: Examples, seen: Array, balanced: bool) -> Loss:
    values = examples.values
    if examples.target is Target.NUMBERS:
        return Squares(values)
    if examples.target is Target.SPAN:
        return Spans(values, examples.items)
    if examples.target is Target.LABELS:
        share = np.clip(values.mean(axis=0, dtype=np.float64), 1 / (len(values) + 1), 1 - 1 / (len(values) + 1))
        weights = np.where(values > 0, 0.5 / share, 0.5 / (1 - share)) if balanced else np.ones(values.shape)
        return Sigmoids(values, weights.astype(np.float32))
    classes = np.searchsorted(seen, values)
    counts = np.bincount(classes)
    weights = len(values) / (len(seen) * counts[classes]) if balanced else np.ones(len(values))
    return Softmax(classes, weights.astype(np.float32), len(seen))
