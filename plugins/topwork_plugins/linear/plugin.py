"""Linear heads: the whole range of regularisation at once, chosen on folds within the rows that are learnt from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from topwork_server import Array, Examples, FittedHead, InvalidInput, Report, Trainer, TrainerSpec, hookimpl

from topwork_plugins.linear.fold import SubsetFit
from topwork_plugins.linear.options import LinearOptions


class LinearTrainer(Trainer):
    """Softmax regression or a discriminant for classes, a sigmoid for each label, ridge regression for numbers, and a softmax
    over the rows of an item for spans."""

    options: ClassVar[type[Any]] = LinearOptions

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
    yield TrainerSpec("linear", LinearTrainer, "softmax, discriminant or ridge, swept over its whole range of regularisation")
