"""Heads from a few examples, or none, in numpy alone. Without any, descriptions of the classes stand for them (Radford et al.
2021, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
    Trial,
    hookimpl,
    option,
)

from topwork_plugins.few_shot.knn import KnnTrainer
from topwork_plugins.few_shot.prototype import (
    COLDEST,
    HOTTEST,
    TEMPERATURES,
    CosineHead,
    PrototypeTrainer,
    best_trial,
    check_target,
    log_likelihood,
    unit,
)

#: Where there are no examples to fit it on. CLIP's 0.01 is for CLIP, whose cosines are all alike; of MiniLM and 20 topics of
#: docstrings, those from 0.057 to 0.092 were likeliest (2,437 sentences, of which 44% were right).
DEFAULT_TEMPERATURE = 0.07


@dataclass(frozen=True)
class ZeroShotOptions:
    """Options of a head from descriptions alone."""

    temperature: float | None = option(
        None,
        "what cosines are divided by; fitted on the examples, 0.07 where there are none",
        minimum=COLDEST,
        maximum=HOTTEST,
    )


class ZeroShotTrainer(Trainer):
    """The nearest description by cosine. Examples choose the view and the temperature, and nothing else."""

    options = ZeroShotOptions
    targets = frozenset({Target.CLASSES})

    @classmethod
    def fit(
        cls, examples: Examples, subsets: Sequence[Array], options: ZeroShotOptions, seed: int, threads: int, report: Report
    ) -> list[FittedHead]:
        check_target(examples, cls.targets, "zero-shot")
        if not examples.described:
            raise InvalidInput("zero-shot needs a description of each class", remedy="give `descriptions`: a text for each class")
        report(0.0, "comparing with descriptions")
        heads: list[FittedHead] = [_fit(examples.take(subset), options) for subset in subsets]
        report(1.0, "compared with descriptions")
        return heads


def _fit(examples: Examples, options: ZeroShotOptions) -> CosineHead:
    if not examples.count:
        temperature = options.temperature or DEFAULT_TEMPERATURE
        return _head(examples, 0, temperature).with_trials({"temperature": temperature}, ())
    trials, views = [], []
    for at, view in enumerate(examples.views):
        cosines = _head(examples, at, 1.0).scores(view.rows).astype(np.float64)
        for temperature in TEMPERATURES if options.temperature is None else (options.temperature,):
            score = log_likelihood(examples.target, cosines / temperature, examples.values)
            trials.append(Trial(view.tap, view.pooling, {"temperature": temperature}, score))
            views.append(at)
    chosen = best_trial(trials)
    temperature = trials[chosen].settings["temperature"]
    return _head(examples, views[chosen], temperature).with_trials(trials[chosen].settings, trials, "mean log likelihood")


def _head(examples: Examples, view: int, temperature: float) -> CosineHead:
    texts = examples.described[view]
    nowhere = np.zeros(texts.shape[1])
    return CosineHead(view, nowhere, unit(texts, nowhere) / temperature, np.zeros(len(texts)))


@hookimpl
def register_trainers() -> Iterable[TrainerSpec]:
    yield TrainerSpec(
        "prototype",
        PrototypeTrainer,
        "the nearest mean of a class, by cosine",
        min_per_class=1,
        reads_descriptions=True,
        reads_directions=True,
        reads_weights=True,
    )
    yield TrainerSpec("knn", KnnTrainer, "a vote of the nearest examples, by cosine", min_per_class=1, reads_directions=True)
    yield TrainerSpec(
        "zero-shot",
        ZeroShotTrainer,
        "the nearest description of a class, by cosine",
        min_per_class=0,
        needs_descriptions=True,
        reads_directions=True,
    )
