"""Fine-tuning: the trunk learns with its head, from the raw inputs that a set kept."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from topwork_server import Encoder, FineTuneDataset, FineTuner, FineTuneResult, Report, TrainerSpec, Trunk, hookimpl

from topwork_plugins.fine_tune.options import FineTuneOptions


class FineTune(FineTuner):
    """A new linear output layer on one tap, and AdamW with small rates below it (Howard and Ruder 2018; Mosbach et al. 2021).

    The trunk's batch norms keep their statistics. The best epoch on the validation items is what stays.
    """

    options = FineTuneOptions

    @classmethod
    def tune(
        cls,
        trunk: Trunk,
        encoder: Encoder,
        dataset: FineTuneDataset,
        options: Any,
        seed: int,
        threads: int,
        out: Path,
        report: Report,
    ) -> FineTuneResult:
        from topwork_plugins.fine_tune.tune import fine_tune

        return fine_tune(trunk, encoder, dataset, options, seed, threads, out, report)


@hookimpl
def register_trainers() -> Iterable[TrainerSpec]:
    yield TrainerSpec(
        "fine-tune",
        FineTune,
        "the trunk learns with the head, from raw inputs that the set kept; the result is a new encoder",
        min_per_class=4,
    )
