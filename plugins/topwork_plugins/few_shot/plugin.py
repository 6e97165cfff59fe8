"""Heads from a few examples, or none: numpy alone."""

from __future__ import annotations

from collections.abc import Iterable

from topwork_server import TrainerSpec, hookimpl

from topwork_plugins.few_shot.knn import Knn
from topwork_plugins.few_shot.prototype import Prototype
from topwork_plugins.few_shot.zero_shot import ZeroShot


@hookimpl
def register_trainers() -> Iterable[TrainerSpec]:
    yield TrainerSpec(
        "prototype",
        Prototype,
        "the nearest mean of a class, by cosine",
        least_per_class=1,
        reads_descriptions=True,
        reads_directions=True,
    )
    yield TrainerSpec("knn", Knn, "a vote of the nearest examples, by cosine", least_per_class=1, reads_directions=True)
    yield TrainerSpec(
        "zero-shot",
        ZeroShot,
        "the nearest description of a class, by cosine",
        least_per_class=0,
        needs_descriptions=True,
        reads_directions=True,
    )
