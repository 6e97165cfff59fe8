"""The training job: trains a head in a process of its own, and publishes it with its report, both or neither."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from topwork.report import Report

import topwork_server
from topwork_server.blocking_calls import Report as Progress
from topwork_server.heads.head_store import HeadStore, NewHead
from topwork_server.heads.head_types import Head, HeadDefinition, Task, definition_of
from topwork_server.heads.pair_features import TextEncoder
from topwork_server.heads.training import frozen
from topwork_server.heads.training.training_result import TrainingResult
from topwork_server.heads.training.two_towers import with_two_towers
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """The arguments of a job. `home` holds the heads and the catalog."""

    home: Path
    definition: HeadDefinition
    threads: int

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> TrainingJob:
        return cls(Path(arguments["home"]), definition_of(arguments["definition"]), int(arguments["threads"]))


def train(arguments: Mapping[str, Any], report: Progress) -> Mapping[str, Any]:
    """Run the job. Returns the head's name, its metrics and how they were estimated."""
    job, plugins = TrainingJob.of(arguments), PluginRegistry.load()
    return run_training(job, plugins, report).training_result()


def run_training(job: TrainingJob, plugins: PluginRegistry, report: Progress) -> Head:
    """Train, evaluate and publish a head, and those that are trained together with it, all or none. TopworkError where it cannot
    be trained; then nothing has changed."""
    began = time.monotonic()
    spec = plugins.trainer(job.definition.kind)
    if spec.tunes:
        from topwork_server.heads.training import fine_tuning

        results = fine_tuning.fine_tune(job.definition, spec, job.home, plugins, job.threads, report)
    else:
        encode = TextEncoder.of(job.definition, job.home, plugins, job.threads)
        results = [frozen.train_on_frozen_features(job.definition, spec, job.threads, report, encode)]
    catalog = Catalog(plugins, job.home)
    if job.definition.task is Task.ALIGNMENT:
        report(0.95, "exporting the encoder of two towers")
        results = [with_two_towers(job.definition, one, catalog) for one in results]
    report(0.97, "publishing")
    seconds = time.monotonic() - began
    heads = [_head(one, result, seconds) for one, result in zip(job.definition.together, results, strict=True)]
    made = [
        NewHead(head, result.graph, _report(head, result), result.typicality) for head, result in zip(heads, results, strict=True)
    ]
    HeadStore(job.home / "heads").publish_together(made)
    return heads[0]


def _head(definition: HeadDefinition, result: TrainingResult, seconds: float) -> Head:
    head = Head(
        name=definition.name,
        definition=definition,
        task=definition.task,
        encoder=result.encoder,
        encoder_options=definition.encoder_options if result.encoder_options is None else result.encoder_options,
        tap=result.tap,
        pooling=result.pooling,
        dim=result.dim,
        names=result.names,
        created=time.time(),
        server_version=topwork_server.__version__,
        kind=definition.kind,
        chosen=dict(result.fitted.chosen),
        estimate=result.estimate,
        labeled=result.labeled,
        unlabeled=result.unlabeled,
        max_abs_error=result.max_abs_error,
        training_seconds=seconds,
        warnings=result.warnings,
        tuned=result.tuned_encoder,
        parts=result.parts,
        target_center=result.target.center if result.target else 0.0,
        target_unit=result.target.unit if result.target else 1.0,
    )
    if definition.texts:
        made = {"encoder": result.tuned_encoder, "text_encoder": definition.texts.encoder}
        head = replace(head, chosen={**head.chosen, **made})
    evaluation = result.evaluation
    if evaluation is None:
        return head
    return replace(
        head,
        temperature=evaluation.temperature,
        interval=evaluation.interval,
        held_out=evaluation.held_out,
        chosen={**head.chosen, "min_score": evaluation.min_score} if head.task is Task.DETECTION else head.chosen,
        metrics=evaluation.metrics,
        baseline=evaluation.baseline,
        warnings=(*head.warnings, *evaluation.warnings),
    )


def _report(head: Head, result: TrainingResult) -> Report:
    definition, evaluation = head.definition, result.evaluation
    assert definition is not None, "a head that was trained has a definition"
    report = Report(
        head=head.name,
        task=head.task,
        kind=head.kind,
        set=definition.set,
        version=definition.version,
        target=definition.target,
        encoder="+".join(head.encoders),
        tap=head.tap.tap.name,
        pooling=head.pooling,
        fingerprint=head.tap.fingerprint,
        names=head.names,
        estimate=head.estimate,
        items=result.items,
        labeled=head.labeled,
        unlabeled=head.unlabeled,
        metrics=head.metrics,
        baseline=head.baseline,
        temperature=head.temperature,
        interval=head.interval,
        learning_curve=result.learning_curve,
        learning_curve_estimate=result.learning_curve_estimate,
        semi_supervised=result.semi_supervised,
        chosen=head.chosen,
        measure=result.fitted.measure,
        trials=tuple(asdict(trial) for trial in result.fitted.trials),
        history=tuple(result.history),
        options=definition.options,
        weight=definition.weight,
        seed=definition.seed,
        server_version=head.server_version,
        training_seconds=head.training_seconds,
        warnings=head.warnings,
    )
    if evaluation is None:
        return report
    shown = result.previews or {}
    return replace(
        report,
        calibration_before=evaluation.calibration_before,
        calibration_after=evaluation.calibration_after,
        abstaining=evaluation.abstaining,
        classes=evaluation.classes,
        confusion=evaluation.confusion,
        scatter=evaluation.scatter,
        pictures=result.pictures,
        misclassified=tuple(replace(wrong, shown=shown.get(wrong.id, "")) for wrong in evaluation.misclassified),
    )
