"""Fine-tuning: the trunk learns with its head, from the raw inputs that a set kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from topwork_server import (
    Encoder,
    FineTuneDataset,
    FineTuner,
    FineTuneResult,
    Report,
    Target,
    TrainerSpec,
    TrainingPlan,
    Trunk,
    hookimpl,
)

from topwork_plugins.fine_tune.early_checks import check_options
from topwork_plugins.fine_tune.options import FineTuneOptions, TrunkOptions


class FineTune(FineTuner):
    """A new linear output layer on one tap, and AdamW with small rates below it (Howard and Ruder 2018; Mosbach et al. 2021).

    The trunk's batch norms keep their statistics. The best epoch on the validation items is what stays.
    """

    options = FineTuneOptions
    joint = True
    towers = True

    @classmethod
    def check(cls, plan: TrainingPlan, options: Any) -> None:
        """Raise InvalidInput as `check_options`."""
        check_options(plan, options)

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
        return cls.tune_jointly(trunk, encoder, [dataset], [1.0], options, seed, threads, out, report)[0]

    @classmethod
    def tune_jointly(
        cls,
        trunk: Trunk,
        encoder: Encoder,
        datasets: Sequence[FineTuneDataset],
        weights: Sequence[float],
        options: Any,
        seed: int,
        threads: int,
        out: Path,
        report: Report,
    ) -> list[FineTuneResult]:
        from topwork_plugins.fine_tune.output_layer import LayerTuning
        from topwork_plugins.fine_tune.tune import tune_trunk

        return tune_trunk(LayerTuning(options), trunk, encoder, datasets, weights, options, seed, threads, out, report)


class Contrastive(FineTuner):
    """Rows of one class are drawn together and others apart (Tunstall et al. 2022), or cosines of pairs of texts into the order
    of their numbers (Su 2022), and a linear head is fitted to them.

    It is for few labels: all of them are learned from, for as many epochs as there are.
    """

    options = TrunkOptions
    targets = frozenset({Target.CLASSES, Target.NUMBERS})
    validates = False
    towers = True
    by_cosine = frozenset({Target.NUMBERS})

    @classmethod
    def check(cls, plan: TrainingPlan, options: Any) -> None:
        """Raise InvalidInput as `check_options`."""
        check_options(plan, options)

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
        from topwork_plugins.fine_tune.contrastive import PairTuning
        from topwork_plugins.fine_tune.tune import tune_trunk

        tuning = PairTuning(options, seed, threads)
        return tune_trunk(tuning, trunk, encoder, [dataset], [1.0], options, seed, threads, out, report)[0]


@hookimpl
def register_trainers() -> Iterable[TrainerSpec]:
    yield TrainerSpec(
        "fine-tune",
        FineTune,
        "the trunk learns with the head, from raw inputs that the set kept; the result is a new encoder",
        min_per_class=4,
    )
    yield TrainerSpec(
        "contrastive",
        Contrastive,
        "the trunk learns from pairs of few items, of one class or of two, or of texts with their similarity; the result is a new"
        " encoder and a linear head",
        min_per_class=1,
    )
