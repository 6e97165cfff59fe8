"""Training of trunk and head together. The new trunk becomes an encoder like any other, exported and checked."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
from topwork_server.heads.head_types import HeadDefinition, Pooling
from topwork_server.heads.pair_features import TextEncoder, paired_rows, split_sides
from topwork_server.heads.training import dataset
from topwork_server.heads.training.dataset import TrainingDataset
from topwork_server.heads.training.fine_tune_dataset import fine_tune_dataset
from topwork_server.heads.training.frozen import MOST_DISAGREEMENT, max_score_difference
from topwork_server.heads.training.labeled_items import named_test_items
from topwork_server.heads.training.previews import SpanPreviews, preview
from topwork_server.heads.training.scaling import ScaledHead, TargetScale
from topwork_server.heads.training.training_result import TrainingResult
from topwork_server.models import fingerprint
from topwork_server.models.artifacts import MODEL
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import CatalogEntry
from topwork_server.models.head_graph import served_graph
from topwork_server.plugin_api.encoder import Encoder, Trunk
from topwork_server.plugin_api.options import parse, parse_own
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
from topwork_server.types import Adapter, Array, EncoderSpec, FingerprintedTap, Item

COMPARED = 16  # held-out items whose scores through the exported trunk are compared with torch's


@dataclass(frozen=True)
class TargetData:
    """One of the targets of a training: its items and ids, as the tuner has them, and the scale of its numbers."""

    definition: HeadDefinition
    data: TrainingDataset
    tuning: FineTuneDataset
    ids: Sequence[str]
    scale: TargetScale | None

    @property
    def scaled(self) -> FineTuneDataset:
        return self.tuning if self.scale is None else replace(self.tuning, values=self.scale.to_scores(self.tuning.values))


def fine_tune(
    definition: HeadDefinition, spec: TrainerSpec, home: Path, plugins: PluginRegistry, threads: int, report: Progress
) -> list[TrainingResult]:
    """Train and evaluate; return a result for each of `definition.together`. InvalidInput for what cannot be trained;
    TopworkError where the export is not what was trained."""
    tuner = spec.trainer
    if not issubclass(tuner, FineTuner):
        raise InvalidInput(f"{spec.kind} trains heads on frozen features")
    catalog = Catalog(plugins, home)
    step = 0.02 / len(definition.together)
    loaded = [
        dataset.load_dataset(
            one, spec.min_per_class, part(report, i * step, (i + 1) * step), encode=TextEncoder.of(one, home, plugins, threads)
        )
        for i, one in enumerate(definition.together)
    ]
    with tempfile.TemporaryDirectory(prefix="topwork-tune-") as scratch:
        base, out = catalog.spec(definition.encoder), Path(scratch)
        trunk = export.open_trunk(base, catalog.weights(base.name, base), out)
        for one in definition.together:
            _check_tower(base, trunk, one.views[0][0].tap.name)
        digest = "" if trunk.module is None else fingerprint.module_digest(trunk.module)
        encoder = base.encoder(base, out)
        asked = parse_own(base.encoder.options, definition.encoder_options)
        targets = [_target_data(one, data, asked, tuner.validates) for one, data in zip(definition.together, loaded, strict=True)]
        options = parse(tuner.options, definition.options, f"the trainer {spec.kind}")
        arguments: tuple[Any, ...] = (options, definition.seed, threads, out, part(report, 0.02, 0.85))
        if definition.also:
            shares = [one.share for one in definition.together]
            found = tuner.tune_jointly(trunk, encoder, [one.scaled for one in targets], shares, *arguments)
        else:
            found = [tuner.tune(trunk, encoder, targets[0].scaled, *arguments)]
        tuned = [_in_numbers(one, target.scale) for one, target in zip(found, targets, strict=True)]
        report(0.85, "exporting the trunk")
        return _published(targets, tuned, digest, catalog)


def _target_data(definition: HeadDefinition, data: TrainingDataset, encoder_options: Any, validates: bool) -> TargetData:
    warnings = list(data.warnings)
    tuning, ids = fine_tune_dataset(definition, data, encoder_options, definition.seed, warnings.append, validates=validates)
    scale = TargetScale.of(tuning.values) if tuning.target is Target.NUMBERS else None
    return TargetData(definition, replace(data, warnings=tuple(warnings)), tuning, ids, scale)


def _check_tower(base: EncoderSpec, trunk: Trunk, tap: str) -> None:
    """Raise InvalidInput for a tap of another tower than the first, which is the one that is tuned."""
    if all(known.name != tap for known in trunk.taps):
        raise InvalidInput(
            f"the tower of {base.name} that is fine-tuned is that of {base.modality}s, and it has no tap {tap}",
            remedy="train a kind that learns from features, or fine-tune an encoder of that modality alone",
        )


def _in_numbers(tuned: FineTuneResult, target: TargetScale | None) -> FineTuneResult:
    """Convert the scores of a regression back to the numbers that they stand for."""
    if target is None:
        return tuned
    validation, test = target.to_numbers(tuned.validation_scores), target.to_numbers(tuned.test_scores)
    return replace(tuned, head=ScaledHead(tuned.head, None, target), validation_scores=validation, test_scores=test)


def _published(
    targets: Sequence[TargetData], tuned: Sequence[FineTuneResult], base_digest: str, catalog: Catalog
) -> list[TrainingResult]:
    """Add the trunk to the catalog and describe the training; where it raises, the trunk is removed again."""
    first, definition = tuned[0], targets[0].definition
    name = f"{definition.name}-{secrets.token_hex(4)}"  # never that of an encoder which serves
    adapter = None if first.adapter is None else Adapter(first.adapter, base_digest)
    learned = " and ".join(one.definition.target for one in targets)
    trained_on = f"{catalog.spec(definition.encoder).trained_on}; then {learned} of {definition.set}"
    catalog.add_fine_tuned(name, definition.encoder, first.weights, targets[0].tuning.tap.name, trained_on, adapter)
    try:
        catalog.export(name)
        entry = catalog.entry(name)
        results = [_result(target, one, entry) for target, one in zip(targets, tuned, strict=True)]
        return [results[0], *(replace(one, tuned_encoder="") for one in results[1:])]  # it goes with the first
    except BaseException:
        catalog.delete_fine_tuned(name)
        raise


def _result(one: TargetData, tuned: FineTuneResult, entry: CatalogEntry) -> TrainingResult:
    definition, data, tuning, ids = one.definition, one.data, one.tuning, one.ids
    assert entry.manifest is not None, "it was exported"
    tap = entry.manifest.tap(tuning.tap.name)
    assert tap is not None, "its taps are those of its base"
    groups = _groups(data, ids)
    test, training = (_examples(tuning, positions, groups) for positions in (tuning.test, tuning.train))
    test_ids = [ids[position] for position in tuning.test]
    predictions = HeldOutPredictions(np.arange(test.count), tuned.test_scores, np.zeros(test.count, np.int64))
    evaluation = evaluate.evaluate_predictions(
        test, definition.task, predictions, test_ids, training, definition.seed, SpanPreviews(data)
    )
    served = served_graph(tuned.head.graph(), tuning.target, evaluation.temperature)
    if tuned.test_order_before is not None:
        before = HeldOutPredictions(predictions.rows, tuned.test_order_before, predictions.folds)
        evaluation = evaluate.with_order_before(evaluation, test, definition.task, before, definition.seed)
    inputs = dict(zip(ids, tuning.items, strict=True))
    return TrainingResult(
        fitted=tuned.head,
        graph=served,
        encoder=entry.spec.name,
        tap=tap,
        pooling=definition.views[0][1],
        dim=pooling.dim_after(definition.views[0][1], tap.tap.dim),
        names=tuning.names,
        estimate=_estimate(definition, tuning),
        items=len(tuning.test),
        labeled=len(tuning.train) + len(tuning.validation),
        unlabeled=data.unlabeled,
        max_abs_error=_agreement(one, tuned, served, entry, tap),
        target=one.scale,
        evaluation=evaluation,
        previews={wrong.id: preview(inputs[wrong.id]) for wrong in evaluation.misclassified},
        history=tuned.history,
        warnings=data.warnings,
        tuned_encoder=entry.spec.name,
        encoder_options=asdict(tuning.options),
    )


def _estimate(definition: HeadDefinition, tuning: FineTuneDataset) -> str:
    train, validation = (f"{len(part):,}" for part in (tuning.train, tuning.validation))
    stopped = f" and {validation} told when to stop" if len(tuning.validation) else ""
    return f"{named_test_items(len(tuning.test), definition.test_where)}; {train} trained it{stopped}"


def _groups(data: TrainingDataset, ids: Sequence[str]) -> Array:
    """Find the group of each item, (items,) int64; the items of a test set have groups of their own."""
    of: dict[str, int] = {}
    for examples, names in ((data.examples, data.ids), (data.test, data.test_ids)):
        if examples is not None:
            of |= {names[item]: group for item, group in zip(examples.items.tolist(), examples.groups.tolist(), strict=True)}
    return np.array([of[id] for id in ids], np.int64)


def _examples(tuning: FineTuneDataset, positions: Array, groups: Array) -> Examples:
    """Take the rows of items, without features, which the evaluation does not read. `groups` are those of all items."""
    counts = tuning.counts[positions]
    rows = aranges(starts_of(tuning.counts)[positions], counts)
    items = np.repeat(np.arange(len(positions)), counts)
    view = FeatureView(tuning.tap.name, tuning.pooling, np.zeros((len(rows), 1), np.float32))
    return Examples((view,), tuning.target, tuning.names, tuning.values[rows], items, np.repeat(groups[positions], counts))


def _agreement(one: TargetData, tuned: FineTuneResult, served: bytes, entry: CatalogEntry, tap: FingerprintedTap) -> float:
    """Compare the served scores of items with torch's, in units of the target. TopworkError where they differ."""
    assert entry.folder is not None, "it was exported"
    definition, tuning, target = one.definition, one.tuning, one.scale or TargetScale()
    encoder, session = entry.spec.encoder(entry.spec, entry.folder), Session(entry.folder / MODEL)
    compared = tuning.test[:COMPARED]
    how = definition.views[0][1]
    features = [_features(encoder, session, tap, tuning.items[i], tuning.options, how) for i in compared]
    rows = np.concatenate([pooling.pool_rows(definition.task, how, of_item)[0] for of_item in features])
    wanted = tuned.test_scores[: len(rows)]
    apart = float(np.abs((tuned.head.scores(rows) - wanted) / target.unit).max())
    difference = max(max_score_difference(tuned.head, served, rows, target.unit), apart)
    if not difference <= 10 * MOST_DISAGREEMENT * max(1.0, float(np.abs((wanted - target.center) / target.unit).max())):
        raise TopworkError(
            f"the exported trunk and head are not what was trained: their scores differ by {difference:.2g}",
            remedy="report it to the trainer's author",
        )
    return difference


def _features(encoder: Encoder, session: Session, tap: FingerprintedTap, item: Item, options: Any, how: Pooling) -> TapRows:
    """Compute the rows of an item or, where the pooling reads each text of a pair by itself, a row of each text."""
    if how in pooling.TOWERS:
        one, other = (_features(encoder, session, tap, side, options, Pooling.MEAN) for side in split_sides([item]))
        sides = TapRows(tap, np.concatenate([one.rows, other.rows]), np.concatenate([one.counts, other.counts]))
        return paired_rows(sides, 1)
    samples = list(encoder.preprocess(item, options))
    outputs = [session.run([tap.tap.name], encoder.collate([sample]))[0][0] for sample in samples]
    rows = np.concatenate([rows_of(tap.tap, output, sample) for output, sample in zip(outputs, samples, strict=True)])
    return TapRows(tap, rows, np.array([len(rows)]), spans_of(tap.tap, samples))
