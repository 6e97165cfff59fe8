"""A training of trunk and head together. The trunk that comes of it is an encoder like any other, exported and checked."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from topwork_server.blocking_calls import Report as Progress
from topwork_server.blocking_calls import part
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.features import TapRows, aranges, rows_of, spans_of, starts_of
from topwork_server.heads import pooling
from topwork_server.heads.evaluation import evaluate
from topwork_server.heads.evaluation.evaluation_data import HeldOutPredictions
from topwork_server.heads.head_types import HeadDefinition
from topwork_server.heads.serving.head_session import max_score_difference
from topwork_server.heads.training import dataset
from topwork_server.heads.training.dataset import TrainingDataset
from topwork_server.heads.training.fine_tune_dataset import fine_tune_dataset
from topwork_server.heads.training.frozen import MOST_DISAGREEMENT
from topwork_server.heads.training.previews import SpanPreviews, preview
from topwork_server.heads.training.scaling import ScaledHead, TargetScale
from topwork_server.heads.training.training_result import TrainingResult
from topwork_server.models.artifacts import MODEL
from topwork_server.models.catalog import Catalog, CatalogEntry
from topwork_server.models.head_graph import served_graph
from topwork_server.plugin_api import sources
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.plugin_api.options import parse
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.plugin_api.trainer import (
    Examples,
    FeatureView,
    FineTuneDataset,
    FineTuner,
    FineTuneResult,
    Target,
    TrainerSpec,
)
from topwork_server.runtime import export
from topwork_server.runtime.session import Session
from topwork_server.types import Array, FingerprintedTap, Item

#: Held-out items whose scores through the exported trunk are compared with torch's.
COMPARED = 16


def fine_tune(
    definition: HeadDefinition, spec: TrainerSpec, home: Path, plugins: PluginRegistry, threads: int, report: Progress
) -> TrainingResult:
    """InvalidInput for what cannot be learnt; TopworkError where what is exported is not what was trained."""
    if not issubclass(spec.trainer, FineTuner):
        raise InvalidInput(f"{spec.kind} learns heads on frozen features")
    catalogue = Catalog(plugins, home)
    found = dataset.load_dataset(definition, spec.min_per_class, part(report, 0.0, 0.02))
    with tempfile.TemporaryDirectory(prefix="topwork-tune-") as scratch:
        base = catalogue.spec(definition.encoder)
        assets = sources.fetch(catalogue.source(base.name), home, base.sha256)
        trunk = export.open_trunk(base, assets, Path(scratch))
        encoder = base.encoder(base, Path(scratch))
        warnings = list(found.warnings)
        asked = parse(base.encoder.options, definition.encoder_options)
        lesson, ids = fine_tune_dataset(definition, found, asked, definition.seed, warnings.append)
        options = parse(spec.trainer.options, definition.options, f"the trainer {spec.kind}")
        target = TargetScale.of(lesson.values) if lesson.target is Target.NUMBERS else None
        tuned = spec.trainer.tune(
            trunk, encoder, _scaled(lesson, target), options, definition.seed, threads, Path(scratch), part(report, 0.02, 0.85)
        )
        name = f"{definition.name}-{secrets.token_hex(4)}"  # never that of an encoder which serves
        report(0.85, "exporting the trunk")
        found = replace(found, warnings=tuple(warnings))
        return _published(definition, found, lesson, ids, _in_numbers(tuned, target), name, catalogue, target)


def _scaled(lesson: FineTuneDataset, target: TargetScale | None) -> FineTuneDataset:
    return lesson if target is None else replace(lesson, values=target.to_scores(lesson.values))


def _in_numbers(tuned: FineTuneResult, target: TargetScale | None) -> FineTuneResult:
    """With scores as the values came."""
    if target is None:
        return tuned
    validation, test = target.to_numbers(tuned.validation_scores), target.to_numbers(tuned.test_scores)
    return replace(tuned, head=ScaledHead(tuned.head, None, target), validation_scores=validation, test_scores=test)


def _published(
    definition: HeadDefinition,
    found: TrainingDataset,
    lesson: FineTuneDataset,
    ids: Sequence[str],
    tuned: FineTuneResult,
    name: str,
    catalogue: Catalog,
    target: TargetScale | None,
) -> TrainingResult:
    """The trunk is in the catalogue once this returns; where it raises, it is not."""
    said = f"{catalogue.spec(definition.encoder).trained_on}; then {definition.target} of {definition.set}"
    catalogue.add_fine_tuned(name, definition.encoder, tuned.weights, lesson.tap.name, said)
    try:
        catalogue.export(name)
        return _learnt(definition, found, lesson, ids, tuned, catalogue.entry(name), target)
    except BaseException:
        catalogue.delete_fine_tuned(name)
        raise


def _learnt(
    definition: HeadDefinition,
    found: TrainingDataset,
    lesson: FineTuneDataset,
    ids: Sequence[str],
    tuned: FineTuneResult,
    entry: CatalogEntry,
    target: TargetScale | None,
) -> TrainingResult:
    assert entry.manifest is not None, "it was exported"
    tap = entry.manifest.tap(lesson.tap.name)
    assert tap is not None, "its taps are those of its base"
    groups = _groups(found, ids)
    judged, learnt = (_examples(lesson, positions, groups) for positions in (lesson.test, lesson.train))
    test_ids = [ids[position] for position in lesson.test]
    said = HeldOutPredictions(np.arange(judged.count), tuned.test_scores, np.zeros(judged.count, np.int64))
    judgement = evaluate.evaluate_predictions(
        judged, definition.task, said, test_ids, learnt, definition.seed, SpanPreviews(found)
    )
    served = served_graph(tuned.head.graph(), lesson.target, judgement.temperature)
    inputs = dict(zip(ids, lesson.items, strict=True))
    return TrainingResult(
        fitted=tuned.head,
        graph=served,
        encoder=entry.spec.name,
        tap=tap,
        pooling=definition.views[0][1],
        dim=pooling.dim_after(definition.views[0][1], tap.tap.dim),
        names=lesson.names,
        estimate=_estimate(definition, lesson),
        items=len(lesson.test),
        labeled=len(lesson.train) + len(lesson.validation),
        unlabeled=found.unlabeled,
        max_abs_error=_agreement(definition, lesson, tuned, served, entry, tap, target or TargetScale()),
        target=target,
        evaluation=judgement,
        previews={wrong.id: preview(inputs[wrong.id]) for wrong in judgement.wrong},
        history=tuned.history,
        warnings=found.warnings,
        tuned_encoder=entry.spec.name,
    )


def _estimate(definition: HeadDefinition, lesson: FineTuneDataset) -> str:
    which = f"that match {definition.test_where}" if definition.test_where else "held out"
    train, validation, test = (f"{len(part):,}" for part in (lesson.train, lesson.validation, lesson.test))
    return f"{test} items {which}; {train} trained it and {validation} told when to stop"


def _groups(found: TrainingDataset, ids: Sequence[str]) -> Array:
    """(items,) int64: the group of each, of those that learn and of those of a test set by themselves."""
    of: dict[str, int] = {}
    for examples, names in ((found.examples, found.ids), (found.test, found.test_ids)):
        if examples is not None:
            of |= {names[item]: group for item, group in zip(examples.items.tolist(), examples.groups.tolist(), strict=True)}
    return np.array([of[id] for id in ids], np.int64)


def _examples(lesson: FineTuneDataset, positions: Array, groups: Array) -> Examples:
    """The rows of those items, without features: the judge looks at values alone. `groups` of all items."""
    counts = lesson.counts[positions]
    rows = aranges(starts_of(lesson.counts)[positions], counts)
    items = np.repeat(np.arange(len(positions)), counts)
    view = FeatureView(lesson.tap.name, lesson.pooling, np.zeros((len(rows), 1), np.float32))
    return Examples((view,), lesson.target, lesson.names, lesson.values[rows], items, np.repeat(groups[positions], counts))


def _agreement(
    definition: HeadDefinition,
    lesson: FineTuneDataset,
    tuned: FineTuneResult,
    served: bytes,
    entry: CatalogEntry,
    tap: FingerprintedTap,
    target: TargetScale,
) -> float:
    """The whole way of a request, from the item to the score, against torch's, in units of the target. TopworkError where they
    differ."""
    assert entry.folder is not None, "it was exported"
    encoder, session = entry.spec.encoder(entry.spec, entry.folder), Session(entry.folder / MODEL)
    compared = lesson.test[:COMPARED]
    features = [_features(encoder, session, tap, lesson.items[i], lesson.options) for i in compared]
    rows = np.concatenate([pooling.pool_rows(definition.task, definition.views[0][1], one)[0] for one in features])
    wanted = tuned.test_scores[: len(rows)]
    apart = float(np.abs((tuned.head.scores(rows) - wanted) / target.unit).max())
    found = max(max_score_difference(tuned.head, served, rows, target.unit), apart)
    if not found <= 10 * MOST_DISAGREEMENT * max(1.0, float(np.abs((wanted - target.center) / target.unit).max())):
        raise TopworkError(
            f"the exported trunk and head are not what was trained: their scores differ by {found:.2g}",
            remedy="report it to the trainer's author",
        )
    return found


def _features(encoder: Encoder, session: Session, tap: FingerprintedTap, item: Item, options: Any) -> TapRows:
    samples = list(encoder.preprocess(item, options))
    outputs = [session.run([tap.tap.name], encoder.collate([sample]))[0][0] for sample in samples]
    rows = np.concatenate([rows_of(tap.tap, output, sample) for output, sample in zip(outputs, samples, strict=True)])
    return TapRows(tap, rows, np.array([len(rows)]), spans_of(tap.tap, samples))
