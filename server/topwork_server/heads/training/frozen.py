"""Training on frozen features: one call of the trainer fits heads on every fold, on growing parts of one, and on all rows."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
from topwork.heads import MetricValue
from topwork.report import DrawnPicture, LearningCurvePoint, SemiSupervisedGain

from topwork_server.blocking_calls import Report as Progress
from topwork_server.blocking_calls import part
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.heads.evaluation import evaluate
from topwork_server.heads.evaluation.drawn_pictures import drawn_pictures
from topwork_server.heads.evaluation.evaluation_data import Evaluation, HeldOutPredictions
from topwork_server.heads.evaluation.split_plan import SplitPlan, plan_splits
from topwork_server.heads.head_types import HeadDefinition, Task, UnlabeledUse
from topwork_server.heads.pair_features import Encode
from topwork_server.heads.pooling import trained_views
from topwork_server.heads.serving.head_cache import run_head
from topwork_server.heads.training import dataset, semi_supervised
from topwork_server.heads.training.dataset import TrainingDataset
from topwork_server.heads.training.labeled_items import named_test_items
from topwork_server.heads.training.previews import LARGE_SIDE, SpanPreviews, preview
from topwork_server.heads.training.scaling import Scaling, TargetScale
from topwork_server.heads.training.training_result import TrainingResult, held_out_predictions, item_count
from topwork_server.heads.typicality import typicality_graph
from topwork_server.models.head_graph import served_graph
from topwork_server.plugin_api.options import parse
from topwork_server.plugin_api.result_checks import fit_heads
from topwork_server.plugin_api.trainer import Examples, FittedHead, Target, Trainer, TrainerSpec
from topwork_server.process_resources import limit_blas
from topwork_server.runtime.session import Session
from topwork_server.types import Array

#: The largest difference of scores of about one between the served graph and the trainer's own head.
MOST_DISAGREEMENT = 1e-3
AGREED_ON = 512  # rows on which they are compared
#: Numbers of a view from which more than one thread pays, though other processes may be at work: see runtime/blas_threads.py.
WORTH_THREADS = 30_000_000
#: The plan for described classes, where no item has a label.
NOTHING = SplitPlan([], [], [], "no item had a label: nothing was evaluated")
RELATIVE = (
    "probabilities compare the classes with each other: they are high for an item of none of them, too. Labels (target) would"
    " calibrate and evaluate them"
)


def train_on_frozen_features(
    definition: HeadDefinition, spec: TrainerSpec, threads: int, report: Progress, encode: Encode | None = None
) -> TrainingResult:
    """Train and evaluate a head. InvalidInput for what cannot be trained; TopworkError where the graph is not the head."""
    data = dataset.load_dataset(definition, spec.min_per_class, part(report, 0.0, 0.15), spec.reads_directions, encode)
    threads = threads_for(data.examples, threads)
    return _Frozen(definition, spec, data, threads, part(report, 0.15, 0.85)).train(part(report, 0.85, 0.95))


def threads_for(examples: Examples, threads: int) -> int:
    """Choose the number of threads by the size of the features, and limit BLAS to it."""
    numbers = max((view.rows.size for view in examples.views), default=0)
    worth = threads if numbers >= WORTH_THREADS else 1
    limit_blas(worth)
    return worth


class _Frozen:
    def __init__(
        self, definition: HeadDefinition, spec: TrainerSpec, data: TrainingDataset, threads: int, report: Progress
    ) -> None:
        if not issubclass(spec.trainer, Trainer):
            raise InvalidInput(f"{spec.kind} trains the trunk, too: it reads raw inputs, not features")
        self.definition, self.data, self.examples = definition, data, data.examples
        self._scaling = Scaling.of(data.examples)
        self._trainer, self._threads, self._report = spec.trainer, threads, report
        self._options = parse(spec.trainer.options, definition.options, f"the trainer {spec.kind}")

    def train(self, report: Progress) -> TrainingResult:
        """Train all heads in one call: those of the folds are evaluated, the last one is served."""
        examples, everything = self.examples, np.arange(self.examples.count)
        plan = plan_splits(examples, self.definition.folds, self.definition.seed) if examples.count else NOTHING
        of_folds = plan.train if self.data.test is None else []
        curve = [size if of_folds else size[:1] for size in plan.curve]
        heads = iter(self._fit([*of_folds, *chain.from_iterable(curve), everything]))
        folds = list(islice(heads, len(of_folds)))
        grown = [list(islice(heads, len(size))) for size in curve]
        final = next(heads)
        if not folds and self.data.test is None:
            found = self._unevaluated(final)
            return replace(found, estimate=plan.estimate, warnings=(*found.warnings, *([] if examples.count else [RELATIVE])))
        data = self.data.test or examples
        held = plan.test if folds else [np.arange(data.count)]
        predictions = held_out_predictions(data, held, folds or [final])
        report(0.2, "evaluating")
        evaluation = self._evaluation(data, predictions)
        sizes = [item_count(examples, rows[0]) for rows in (*curve, plan.train if folds else [everything])]
        points = self._curve(data, held, sizes, [*grown, (folds or [final])[: len(grown[0]) if grown else 1]])
        report(0.6, "checking what is served")
        return replace(
            self._unevaluated(final, evaluation.temperature),
            estimate=plan.estimate if folds else named_test_items(len(self.data.test_ids), self.definition.test_where),
            items=item_count(data, predictions.rows),
            evaluation=evaluation,
            learning_curve=points,
            learning_curve_estimate=self._curve_estimate(data, held, len(folds), grown),
            semi_supervised=self._semi_supervised_gain(data, held, predictions, of_folds),
            previews=self._previews(evaluation),
            pictures=self._pictures(data, predictions, evaluation.min_score),
        )

    def _fit(self, subsets: Sequence[Array]) -> list[FittedHead]:
        seed, method = self.definition.seed, self.definition.unlabeled
        if method is UnlabeledUse.LEFT_OUT:
            examples = self._scaling.examples
            heads = fit_heads(self._trainer, examples, subsets, self._options, seed, self._threads, self._report)
            return [self._scaling.unscaled(head) for head in heads]
        heads, used = semi_supervised.fit_semi_supervised(
            self._trainer, self._scaling.examples, subsets, self._options, seed, self._threads, self._report, method
        )
        self._used = used[-1]
        return [self._scaling.unscaled(head) for head in heads]

    def _evaluation(self, data: Examples, predictions: HeldOutPredictions) -> Evaluation:
        training = None if data is self.examples else self.examples
        ids = self.data.ids if training is None else self.data.test_ids
        return evaluate.evaluate_predictions(
            data, self.definition.task, predictions, ids, training, self.definition.seed, SpanPreviews(self.data)
        )

    def _curve(
        self, data: Examples, held: Sequence[Array], sizes: Sequence[int], heads: Sequence[Sequence[FittedHead]]
    ) -> tuple[LearningCurvePoint, ...]:
        """Compute how the main metric grows with the training items, always on the same held-out ones."""
        figures = [self._main_metric(data, held_out_predictions(data, held[: len(size)], size)) for size in heads]
        return tuple(LearningCurvePoint(size, figure) for size, figure in zip(sizes, figures, strict=True))

    def _curve_estimate(self, data: Examples, held: Sequence[Array], folds: int, grown: Sequence[Sequence[FittedHead]]) -> str:
        """Say on which items the curve was evaluated, where that was the first fold alone."""
        if not grown or len(grown[0]) >= folds:
            return ""
        return f"the first of {folds} folds alone, {item_count(data, held[0]):,} items"

    def _main_metric(self, data: Examples, predictions: HeldOutPredictions) -> MetricValue:
        return evaluate.main_metric(data, self.definition.task, predictions, self.definition.seed)

    def _semi_supervised_gain(
        self, data: Examples, held: Sequence[Array], predictions: HeldOutPredictions, of_folds: Sequence[Array]
    ) -> SemiSupervisedGain | None:
        """Compare with the same folds without the unlabeled items."""
        if self.definition.unlabeled is UnlabeledUse.LEFT_OUT:
            return None
        seed, subsets = self.definition.seed, of_folds or [np.arange(self.examples.count)]
        examples = self._scaling.examples
        plain = fit_heads(self._trainer, examples, subsets, self._options, seed, self._threads, lambda fraction, message: None)
        without = held_out_predictions(data, held, [self._scaling.unscaled(head) for head in plain])
        gain = evaluate.metric_difference(data, self.definition.task, predictions, without, seed)
        return SemiSupervisedGain(
            self.definition.unlabeled,
            self._used,
            self._main_metric(data, without),
            self._main_metric(data, predictions),
            gain,
        )

    def _previews(self, evaluation: Evaluation) -> dict[str, str]:
        inputs = self.data.inputs([wrong.id for wrong in evaluation.misclassified])
        return {id: preview(item) for id, item in inputs.items()}

    def _pictures(self, data: Examples, predictions: HeldOutPredictions, min_score: float) -> tuple[DrawnPicture, ...]:
        if data.target is not Target.BOXES:
            return ()
        ids = self.data.ids if data is self.examples else self.data.test_ids
        drawn = drawn_pictures(data, predictions, ids, self.data.covers, min_score)
        inputs = self.data.inputs([one.id for one in drawn])
        return tuple(replace(one, shown=preview(inputs.get(one.id), LARGE_SIDE)) for one in drawn)

    def _unevaluated(self, fitted: FittedHead, temperature: float = 1.0) -> TrainingResult:
        tap, pooling = trained_views(self.definition)[fitted.view]
        view = self.examples.views[fitted.view]
        served = served_graph(fitted.graph(), self.examples.target, temperature)
        return TrainingResult(
            fitted=fitted,
            graph=served,
            encoder=self.definition.encoder,
            tap=tap,
            pooling=pooling,
            dim=view.rows.shape[1],
            names=self.examples.names,
            estimate="",
            items=0,
            labeled=len(self.data.ids),
            unlabeled=self.data.unlabeled,
            max_abs_error=check_served_graph(fitted, served, view.rows, self._scaling.target, self.examples.together),
            target=self._scaling.target,
            warnings=self.data.warnings,
            typicality=self._typicality(view.rows),
            parts=self.definition.all_views if self.definition.combine else (),
        )

    def _typicality(self, rows: Array) -> bytes:
        """Make the graph that tells how like the training items an item is, for tasks that predict one thing of it."""
        none = self.definition.task.every_row or self.definition.task is Task.ALIGNMENT
        return b"" if none else typicality_graph(rows, self.examples.groups, self.definition.seed)


def check_served_graph(fitted: FittedHead, served: bytes, rows: Array, target: TargetScale | None, together: int = 1) -> float:
    """Measure the largest difference of scores, in units of the target. TopworkError where the served graph is not the head."""
    if not len(rows):
        return 0.0
    parts = rows.reshape(-1, together, rows.shape[1])
    some = np.linspace(0, len(parts) - 1, min(len(parts), max(1, AGREED_ON // together))).astype(np.int64)
    chosen = parts[some].reshape(-1, rows.shape[1])
    difference = max_score_difference(fitted, served, chosen, target.unit if target else 1.0, together)
    scores = fitted.scores(chosen)
    if not difference <= MOST_DISAGREEMENT * max(1.0, float(np.abs(target.to_scores(scores) if target else scores).max())):
        raise TopworkError(
            f"the head's graph is not the head: their scores differ by {difference:.2g}",
            remedy="report it to the trainer's author",
        )
    return difference


def max_score_difference(fitted: FittedHead, graph: bytes, rows: Array, unit: float = 1.0, together: int = 1) -> float:
    """Compute the largest difference, in units, between a score of the fitted head and that of its graph; 0 for no rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.onnx"
        path.write_bytes(graph)
        scores, _ = run_head(Session(path, 1), rows, together)
    return float(np.abs((scores - fitted.scores(rows)) / unit).max(initial=0))
