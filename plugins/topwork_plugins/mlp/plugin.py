"""A multi-layer perceptron on frozen features, or five that each leave another fifth out, averaged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

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
    folds,
    hookimpl,
)

from topwork_plugins.mlp.nets import ColumnScaler, MlpHead, MlpOptions, TrainedNets, UnitLosses, check_balanced, train_nets

#: Up to so many examples several nets are averaged; a larger set gives one net enough, and leaves a tenth of it out.
SMALL, MEMBERS, SINGLE = 2000, 5, 10


class MlpTrainer(Trainer):
    options = MlpOptions

    @classmethod
    def check(cls, plan: TrainingPlan, options: MlpOptions) -> None:
        """Raise InvalidInput for weights of classes where none are learned."""
        check_balanced(plan.target, options)

    @classmethod
    def fit(
        cls, examples: Examples, subsets: Sequence[Array], options: MlpOptions, seed: int, threads: int, report: Report
    ) -> list[FittedHead]:
        heads: list[FittedHead] = []
        for done, subset in enumerate(subsets):
            if not len(subset):
                raise InvalidInput("mlp has no examples to learn from", remedy="label some items")
            report(done / len(subsets), f"nets of {len(subset)} rows")
            heads.append(_fit(examples.take(subset), options, seed, threads))
        report(1.0, "nets are trained")
        return heads


def _fit(examples: Examples, options: MlpOptions, seed: int, threads: int) -> MlpHead:
    task = UnitLosses(examples, balanced=options.class_weight == "balanced")
    held = _held(examples, task, options, seed)
    tried: list[tuple[int, ColumnScaler, TrainedNets]] = []
    for at, view in enumerate(examples.views):
        scale = ColumnScaler(view.rows, None if examples.weights is None else examples.counted)
        tried.append((at, scale, train_nets(scale(view.rows), task, held, options, seed, threads)))
    at, scale, learned = min(tried, key=lambda one: one[2].loss)
    head = MlpHead(at, scale, _unscaled(learned.layers, task))
    head.chosen = {"epochs": learned.epoch, "members": len(held)}
    head.trials = [_trial(examples, *one) for one in tried]
    head.measure = f"{'R2' if examples.target is Target.NUMBERS else 'mean log likelihood'} of examples that were left out"
    return head


def _held(examples: Examples, task: UnitLosses, options: MlpOptions, seed: int) -> Array:
    """Mark what each member leaves out, (members, units) bool, to stop early and to choose by: items, where all are of one
    group."""
    members = options.members or (MEMBERS if task.count <= SMALL else 1)
    bare = replace(examples, views=(), unlabeled=(), described=())
    if len(np.unique(bare.groups)) < 2:
        bare = replace(bare, groups=bare.items)
    held = np.zeros((members, examples.count), bool)
    parts = folds(bare, members if members > 1 else SINGLE, seed)[:members]
    for part, rows in enumerate(parts):
        held[part, rows] = True
    return held[: len(parts), task.starts]


def _unscaled(layers: Sequence[tuple[Array, Array]], task: UnitLosses) -> list[tuple[Array, Array]]:
    """Fold shift and spread into the last layer, so that it gives numbers as they came."""
    weight, bias = layers[-1]
    last = (weight * task.spread).astype(np.float32), (bias * task.spread + task.shift).astype(np.float32)
    return [*layers[:-1], last]


def _trial(examples: Examples, at: int, scale: ColumnScaler, learned: TrainedNets) -> Trial:
    view = examples.views[at]
    score = 1 - learned.loss if examples.target is Target.NUMBERS else -learned.loss
    return Trial(view.tap, view.pooling, {"epochs": learned.epoch}, score)


@hookimpl
def register_trainers() -> Iterable[TrainerSpec]:
    yield TrainerSpec("mlp", MlpTrainer, "a multi-layer perceptron with dropout and early stopping", reads_weights=True)
