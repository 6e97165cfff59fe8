"""A training: a job's function, in a process of its own. What was learnt is published with its report, all of it or nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from topwork.report import Report

import topwork_server
from topwork_server.blocking_calls import Report as Progress
from topwork_server.heads.head_store import HeadStore
from topwork_server.heads.head_types import Head, HeadDefinition, definition_of
from topwork_server.heads.pair_features import PairEncoder
from topwork_server.heads.training import frozen
from topwork_server.heads.training.training_result import TrainingResult
from topwork_server.plugin_api.plugin_registry import PluginRegistry


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What a job is given. `home` is where the shelf of heads is, and the catalogue."""

    home: Path
    definition: HeadDefinition
    threads: int

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> TrainingJob:
        return cls(Path(arguments["home"]), definition_of(arguments["definition"]), int(arguments["threads"]))


def train(arguments: Mapping[str, Any], report: Progress) -> Mapping[str, Any]:
    """The job. Returns the head's name and its figures."""
    order, plugins = TrainingJob.of(arguments), PluginRegistry.load()
    head = run_training(order, plugins, report)
    return {"head": head.name, "estimate": head.estimate, "metrics": [asdict(figure) for figure in head.metrics]}


def run_training(order: TrainingJob, plugins: PluginRegistry, report: Progress) -> Head:
    """Learn, judge, publish. TopworkError for what cannot be learnt; then nothing has changed."""
    began = time.monotonic()
    spec = plugins.trainer(order.definition.kind)
    if spec.tunes:
        from topwork_server.heads.training import fine_tuning

        learnt = fine_tuning.fine_tune(order.definition, spec, order.home, plugins, order.threads, report)
    else:
        encode = PairEncoder(order.home, plugins, order.definition, order.threads)
        learnt = frozen.train_on_frozen_features(order.definition, spec, order.threads, report, encode)
    report(0.97, "publishing")
    head = _head(order.definition, learnt, time.monotonic() - began)
    HeadStore(order.home / "heads").publish(head, learnt.graph, _report(head, learnt))
    return head


def _head(definition: HeadDefinition, learnt: TrainingResult, seconds: float) -> Head:
    head = Head(
        name=definition.name,
        definition=definition,
        task=definition.task,
        encoder=learnt.encoder,
        encoder_options=definition.encoder_options,
        tap=learnt.tap,
        pooling=learnt.pooling,
        dim=learnt.dim,
        names=learnt.names,
        created=time.time(),
        server_version=topwork_server.__version__,
        kind=definition.kind,
        chosen=dict(learnt.fitted.chosen),
        estimate=learnt.estimate,
        labeled=learnt.labeled,
        unlabeled=learnt.unlabeled,
        max_abs_error=learnt.max_abs_error,
        training_seconds=seconds,
        warnings=learnt.warnings,
        tuned=learnt.tuned_encoder,
        target_center=learnt.target.center if learnt.target else 0.0,
        target_unit=learnt.target.unit if learnt.target else 1.0,
    )
    judged = learnt.evaluation
    if judged is None:
        return head
    return replace(
        head,
        temperature=judged.temperature,
        interval=judged.interval,
        metrics=judged.metrics,
        baseline=judged.baseline,
        warnings=(*head.warnings, *judged.warnings),
    )


def _report(head: Head, learnt: TrainingResult) -> Report:
    definition, judged = head.definition, learnt.evaluation
    assert definition is not None, "a head that was trained has a definition"
    report = Report(
        head=head.name,
        task=head.task,
        kind=head.kind,
        set=definition.set,
        version=definition.version,
        target=definition.target,
        encoder=head.encoder,
        tap=head.tap.tap.name,
        pooling=head.pooling,
        fingerprint=head.tap.fingerprint,
        names=head.names,
        estimate=head.estimate,
        items=learnt.items,
        labeled=head.labeled,
        unlabeled=head.unlabeled,
        metrics=head.metrics,
        baseline=head.baseline,
        temperature=head.temperature,
        interval=head.interval,
        curve=learnt.curve,
        curve_estimate=learnt.curve_estimate,
        help=learnt.help,
        chosen=head.chosen,
        measure=learnt.fitted.measure,
        trials=tuple(asdict(trial) for trial in learnt.fitted.trials),
        history=tuple(learnt.history),
        options=definition.options,
        seed=definition.seed,
        server_version=head.server_version,
        training_seconds=head.training_seconds,
        warnings=head.warnings,
    )
    if judged is None:
        return report
    shown = learnt.previews or {}
    return replace(
        report,
        calibration_before=judged.calibration_before,
        calibration_after=judged.calibration_after,
        classes=judged.classes,
        confusion=judged.confusion,
        scatter=judged.scatter,
        wrong=tuple(replace(wrong, shown=shown.get(wrong.id, "")) for wrong in judged.wrong),
    )
