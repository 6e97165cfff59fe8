"""Heads from a few examples, or none: numpy alone."""

from __future__ import annotations

from collections.abc import Iterable

from topwork_server import TrainerSpec, hookimpl

from topwork_plugins.few_shot.knn import KnnTrainer
from topwork_plugins.few_shot.prototype import PrototypeTrainer
from topwork_plugins.few_shot.zero_shot import ZeroShotTrainer


@hookimpl
def register_trainers() -> Iterable[TrainerSpec]:
    yield TrainerSpec(
        "prototype",
        PrototypeTrainer,
        "the nearest mean of a class, by cosine",
        least_per_class=1,
        reads_descriptions=True,
        reads_directions=True,
    )
    yield TrainerSpec("knn", KnnTrainer, "a vote of the nearest examples, by cosine", least_per_class=1, reads_directions=True)
    yield TrainerSpec(
        "zero-shot",
        ZeroShotTrainer,
        "the nearest description of a class, by cosine",
        least_per_class=0,
        needs_descriptions=True,
        reads_directions=True,
    )
