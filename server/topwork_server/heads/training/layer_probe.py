"""The probe job: trains the same task on several sets, taps and poolings, on the same folds, in a process of its own.

Its table shows which trunk and which depth suits the data (Alain and Bengio 2016, "Understanding intermediate layers using linear
classifier probes").
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from topwork.heads import MetricValue

from topwork_server.blocking_calls import Report as Progress
from topwork_server.blocking_calls import part
from topwork_server.errors import InvalidInput
from topwork_server.heads.evaluation import evaluate
from topwork_server.heads.evaluation.evaluation_data import HeldOutPredictions
from topwork_server.heads.evaluation.metrics import MAIN_METRIC
from topwork_server.heads.evaluation.split_plan import plan_splits
from topwork_server.heads.head_types import HeadDefinition, definition_of
from topwork_server.heads.pair_features import Encode, TextEncoder
from topwork_server.heads.training import dataset
from topwork_server.heads.training.dataset import TrainingDataset
from topwork_server.heads.training.frozen import threads_for
from topwork_server.heads.training.scaling import Scaling
from topwork_server.heads.training.training_result import held_out_predictions, item_count
from topwork_server.plugin_api.options import parse
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.plugin_api.result_checks import fit_heads
from topwork_server.plugin_api.trainer import Examples, Trainer, TrainerSpec

DEPTH = re.compile(r"(?:layer|blocks|hidden|Mixed_)\D*(\d+)")


@dataclass(frozen=True)
class ProbeLine:
    """A line of the table. `difference` is that to the best line, on the same items; None where the items differ."""

    set: str
    encoder: str
    tap: str
    pooling: str
    dim: int
    metric: MetricValue
    chosen: Mapping[str, Any]
    seconds: float
    difference: MetricValue | None = None


@dataclass(frozen=True)
class _Probed:
    """A line with the predictions that it was computed from."""

    line: ProbeLine
    examples: Examples
    predictions: HeldOutPredictions
    ids: tuple[str, ...]


def probe(arguments: Mapping[str, Any], report: Progress) -> Mapping[str, Any]:
    """Run the job. The table is {"measure", "estimate", "items", "baseline", "rows", "advice", "warnings"}, best line first."""
    definitions = [definition_of(one) for one in arguments["definitions"]]
    plugins, threads = PluginRegistry.load(), int(arguments["threads"])
    home = Path(arguments["home"])
    encoders = [TextEncoder.of(one, home, plugins, threads) for one in definitions]
    return probe_table(definitions, plugins.trainer(definitions[0].kind), threads, report, encoders)


def probe_table(
    definitions: Sequence[HeadDefinition], spec: TrainerSpec, threads: int, report: Progress, encoders: Sequence[Encode] = ()
) -> dict[str, Any]:
    """Compute the table. InvalidInput where nothing can be trained on, or nothing can be evaluated."""
    probed: list[_Probed] = []
    first: _Set | None = None
    warnings: list[str] = []
    for i, definition in enumerate(definitions):
        steps = part(report, i / len(definitions), (i + 1) / len(definitions))
        one = _Set(definition, spec, threads, steps, encoders[i] if encoders else None)
        first = first or one
        warnings += [f"{definition.set}: {warning}" for warning in one.data.warnings]
        probed += one.probe_views()
    assert first is not None, "a probe is of one set at least"
    probed.sort(key=lambda one: -one.line.metric.value)
    task, seed = definitions[0].task, definitions[0].seed
    rows = [replace(one.line, difference=_difference(probed[0], one, task, seed)) for one in probed]
    return {
        "measure": MAIN_METRIC[task],
        "estimate": first.plan.estimate,
        "items": item_count(first.data.examples, probed[0].predictions.rows),
        "baseline": asdict(first.baseline(probed)),
        "rows": [asdict(row) for row in rows],
        "advice": advice(rows),
        "warnings": warnings,
    }


class _Set:
    """A set: its examples are loaded once, and each view has a head for each fold."""

    def __init__(
        self, definition: HeadDefinition, spec: TrainerSpec, threads: int, report: Progress, encode: Encode | None
    ) -> None:
        if not issubclass(spec.trainer, Trainer):
            raise InvalidInput(f"a probe compares frozen features, and {spec.kind} changes them", remedy="probe with linear")
        self.definition, self._trainer, self._report = definition, spec.trainer, report
        self._options = parse(spec.trainer.options, definition.options, f"the trainer {spec.kind}")
        self.data: TrainingDataset = dataset.load_dataset(
            definition, spec.min_per_class, part(report, 0, 0.2), spec.reads_directions, encode
        )
        if not self.data.examples.count:
            raise InvalidInput(f"no item of {definition.set} has a label in {definition.target}", remedy="label some")
        self._threads = threads_for(self.data.examples, threads)
        self.plan = plan_splits(self.data.examples, definition.folds, definition.seed)
        if not self.plan.test:
            raise InvalidInput(f"{definition.set} cannot be probed: {self.plan.estimate}", remedy="label more of its items")

    def probe_views(self) -> list[_Probed]:
        count = len(self.data.examples.views)
        return [self._probe_view(i, part(self._report, 0.2 + 0.8 * i / count, 0.2 + 0.8 * (i + 1) / count)) for i in range(count)]

    def _probe_view(self, position: int, report: Progress) -> _Probed:
        began, definition = time.monotonic(), self.definition
        view, encoder = self.data.examples.views[position], definition.encoder
        examples = replace(self.data.examples, views=(view,), unlabeled=(), described=self._described(position))
        report(0.0, f"{definition.set}: {view.tap} ({view.pooling})")
        scaling, plan, seed = Scaling.of(examples), self.plan, definition.seed
        heads = fit_heads(self._trainer, scaling.examples, plan.train, self._options, seed, self._threads, report)
        predictions = held_out_predictions(examples, plan.test, [scaling.unscaled(head) for head in heads])
        figure = evaluate.main_metric(examples, definition.task, predictions, definition.seed)
        seconds, chosen = time.monotonic() - began, dict(heads[0].chosen)
        row = ProbeLine(definition.set, encoder, view.tap, view.pooling, view.rows.shape[1], figure, chosen, seconds)
        return _Probed(row, replace(examples, views=()), predictions, self.data.ids)

    def _described(self, position: int) -> tuple[Any, ...]:
        described = self.data.examples.described
        return described[position : position + 1]

    def baseline(self, probed: Sequence[_Probed]) -> MetricValue:
        """Compute the main metric of the majority class, or of the mean, on the same folds."""
        one = next(one for one in probed if one.line.set == self.definition.set)
        return evaluate.evaluate_predictions(
            one.examples, self.definition.task, one.predictions, one.ids, None, self.definition.seed
        ).baseline[0]


def _difference(best: _Probed, one: _Probed, task: Any, seed: int) -> MetricValue | None:
    """Compare the main metrics of two heads that were evaluated on the same labels of the same items."""
    if one is best or one.ids != best.ids or not _same(one, best):
        return None
    return evaluate.metric_difference(best.examples, task, one.predictions, best.predictions, seed)


def _same(one: _Probed, best: _Probed) -> bool:
    """Tell whether both sets have the same classes, and the same label of each item."""
    there, truth = one.examples.names == best.examples.names, (one.examples.values, best.examples.values)
    return there and np.array_equal(one.predictions.rows, best.predictions.rows) and np.array_equal(*truth)


def advice(rows: Sequence[ProbeLine]) -> str:
    """Summarize the table in a sentence or two."""
    best = rows[0]
    if len(rows) == 1:
        return ""
    ties = [row for row in rows[1:] if row.difference and row.difference.high >= 0]
    taps = [(row.set, row.tap) for row in rows]

    def named(row: ProbeLine) -> str:
        pooling = f" ({row.pooling})" if taps.count((row.set, row.tap)) > 1 else ""
        return f"{row.tap}{pooling} of {row.set}"

    text = f"{named(best)} is best"
    if ties:
        text += f", not measurably before {', '.join(map(named, ties[:4]))}"
    return f"{text}.{_freezing(rows, ties)}"


def _freezing(rows: Sequence[ProbeLine], ties: Sequence[ProbeLine]) -> str:
    """Say how much of the best set's trunk fine-tuning may freeze: up to the lowest layer that is as good as the best.

    "" where no layer stands above that one.
    """
    best = rows[0]
    depths = {row.tap: depth for row in rows if row.set == best.set and (depth := depth_of(row.tap)) is not None}
    good = [row.tap for row in (best, *ties) if row.set == best.set and row.tap in depths]
    lowest = min(good, key=lambda tap: depths[tap], default="")
    if not lowest or depths[lowest] == max(depths.values()):
        return ""
    text = f" What {lowest} gives is as good as what stands above it: fine-tuning may freeze the layers up to it"
    # A transformer's blocks are its embeddings and its layers; those of other nets are grouped as their makers did.
    return f"{text} (frozen_blocks={depths[lowest] + 1})." if lowest.startswith("hidden.") else f"{text}."


def depth_of(tap: str) -> int | None:
    """Read the depth from a tap's name: 6 of "hidden.6", 3 of "layer3.pooled"; None where it has none."""
    found = DEPTH.match(tap)
    return int(found.group(1)) if found else None
