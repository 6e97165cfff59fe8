"""The full head: a multi-layer perceptron. torch is imported where it learns."""

from __future__ import annotations

from collections.abc import Iterable

from topwork_server import TrainerSpec, hookimpl

from topwork_plugins.mlp.trainer import MlpTrainer


@hookimpl
def register_trainers() -> Iterable[TrainerSpec]:
    yield TrainerSpec("mlp", MlpTrainer, "a multi-layer perceptron with dropout and early stopping")
