"""Tables and warnings of a report: metrics of each class, confusion matrix, predictions of numbers, misclassified items."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from topwork.heads import MetricValue
from topwork.report import ClassMetrics, ConfusionMatrix, Misclassified

from topwork_server.heads.evaluation import calibration, metrics, span_metrics
from topwork_server.heads.evaluation.evaluation_data import EvaluationData, HeldOutPredictions
from topwork_server.heads.head_types import Task
from topwork_server.heads.span_decoding import entity_labels
from topwork_server.plugin_api import splits
from topwork_server.plugin_api.trainer import Examples, Target
from topwork_server.types import Array

MOST_CONFUSED = 25
MOST_POINTS = 1000
OTHERS = "others"
MOST = 20
MOST_KINDS = 3  # kinds of cells that are named
FEW = 10  # evaluated examples of a class
FEW_CALIBRATED, ROSE = 200, 0.01  # units of which a calibration error is mostly chance; a rise of it that is told
WIDE = 0.2  # width of an interval of a share
NAMED = 5  # classes that a warning names

#: Gives the text of a span of an item's rows (its id, from, to: half-open).
SpanText = Callable[[str, int, int], str]


def class_metrics(data: EvaluationData) -> tuple[ClassMetrics, ...]:
    """Compute precision, recall and F1 of each class (of boxes that overlap by one half or more, from the score on that is
    served); all are 0 for one that is neither true nor predicted."""
    if data.target not in (Target.CLASSES, Target.LABELS, Target.BOXES):
        return ()
    sums = _sums(data)
    plain = sums if (data.counted == 1).all() else _sums(replace(data, counted=np.ones(len(data.values))))
    hit, truth, predicted, support = sums["hit"][0], sums["truth"][0], sums["predicted"][0], plain["truth"][0]
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = [np.nan_to_num(part) for part in (hit / predicted, hit / truth, metrics.f1(sums)[0])]
    names = entity_labels(data.names) if data.task is Task.TAGGING else data.names
    return tuple(ClassMetrics(name, int(support[at]), *(float(part[at]) for part in parts)) for at, name in enumerate(names))


def _sums(data: EvaluationData) -> dict[str, Array]:
    """Add up what the main metric is computed from, over all units."""
    return metrics.unit_sums(data, whole=False).weighted(np.ones((1, data.units)))


def confusion_matrix(data: EvaluationData) -> ConfusionMatrix | None:
    """Count CLASSES by truth and prediction; of more than 25, the 24 with the most errors, and the rest as one."""
    if data.target is not Target.CLASSES:
        return None
    many = len(data.names)
    cells = np.bincount(data.y_true * many + data.y_pred, minlength=many * many).reshape(many, many)
    if many <= MOST_CONFUSED:
        return _confusion(data.names, cells)
    errors = cells.sum(axis=0) + cells.sum(axis=1) - 2 * np.diag(cells)
    shown = np.sort(np.argsort(-errors, kind="stable")[: MOST_CONFUSED - 1])
    place = np.full(many, len(shown))
    place[shown] = np.arange(len(shown))
    joined = np.zeros((len(shown) + 1, len(shown) + 1), np.int64)
    np.add.at(joined, (place[:, None], place[None, :]), cells)
    return _confusion((*(data.names[at] for at in shown), OTHERS), joined)


def _confusion(names: tuple[str, ...], cells: Array) -> ConfusionMatrix:
    return ConfusionMatrix(names, tuple(tuple(int(count) for count in row) for row in cells))


def scatter_points(data: EvaluationData, seed: int) -> tuple[tuple[float, float], ...]:
    """Sample (truth, prediction) of up to 1,000 items of a regression."""
    if data.target is not Target.NUMBERS:
        return ()
    rows = np.random.default_rng(seed).permutation(len(data.y_true))[:MOST_POINTS]
    return tuple((float(data.y_true[row]), float(data.y_pred[row])) for row in np.sort(rows))


def misclassified(data: EvaluationData, ids: Sequence[str], spell: SpanText) -> tuple[Misclassified, ...]:
    """List up to 20 misclassified items, the most confident first; `ids` are those of all items. Pictures of boxes are drawn
    instead (`drawn_pictures.py`)."""
    if data.task in SPAN_FINDERS:
        return SPAN_FINDERS[data.task](data, ids, spell)
    return FINDERS[data.task](data, ids) if data.task in FINDERS else ()


def span_by_number(id: str, start: int, end: int) -> str:
    """Name a span by its rows, as "3-5"."""
    return f"{start}-{end}"


def _classes(data: EvaluationData, ids: Sequence[str]) -> tuple[Misclassified, ...]:
    sure = data.probabilities.max(axis=1)
    rows = _surest(np.flatnonzero(data.y_pred != data.y_true), sure)
    names = data.names
    return tuple(
        Misclassified(ids[data.items[row]], names[data.y_true[row]], names[data.y_pred[row]], float(sure[row])) for row in rows
    )


def _labels(data: EvaluationData, ids: Sequence[str]) -> tuple[Misclassified, ...]:
    """List items with a wrong label; the confidence is that of the most confident wrong one."""
    decided = np.where(data.y_pred, data.probabilities, 1 - data.probabilities)
    sure = np.where(data.y_pred != data.y_true, decided, 0).max(axis=1)
    rows = _surest(np.flatnonzero((data.y_pred != data.y_true).any(axis=1)), sure)

    def text(labels: Array) -> str:
        return ", ".join(data.names[at] for at in np.flatnonzero(labels)) or "none"

    return tuple(
        Misclassified(ids[data.items[row]], text(data.y_true[row]), text(data.y_pred[row]), float(sure[row])) for row in rows
    )


def _numbers(data: EvaluationData, ids: Sequence[str]) -> tuple[Misclassified, ...]:
    error = np.abs(data.y_pred - data.y_true)
    rows = _surest(np.flatnonzero(error > 0), error)
    return tuple(
        Misclassified(ids[data.items[row]], *_apart(data.y_true[row], data.y_pred[row]), float(error[row])) for row in rows
    )


def _apart(truth: float, predicted: float) -> tuple[str, str]:
    """Format two numbers with enough digits to differ."""
    error, largest = abs(predicted - truth), max(abs(truth), abs(predicted))
    digits = min(max(6, math.ceil(math.log10(largest / error)) + 2), 17)
    return f"{truth:.{digits}g}", f"{predicted:.{digits}g}"


def _entities(data: EvaluationData, ids: Sequence[str], spell: SpanText) -> tuple[Misclassified, ...]:
    """List items with a missed, invented or misplaced entity; the confidence is that of the most confident wrong row."""
    sure = data.probabilities.max(axis=1)
    truth, predicted = (span_metrics.entity_spans(data, classes) for classes in (data.y_true, data.y_pred))
    unlike = np.setxor1d(truth.key(len(sure)), predicted.key(len(sure))) // (len(sure) + 1) % (len(sure) + 1)
    items = np.unique(_item_of(data, unlike))
    surest = np.maximum.reduceat(np.where(data.y_pred != data.y_true, sure, 0), data.starts[:-1])
    labels = entity_labels(data.names)

    def text(found: span_metrics.EntitySpans, item: int) -> str:
        start, end = data.starts[item : item + 2]
        here, id = np.flatnonzero((found.start >= start) & (found.start < end)), ids[data.items[start]]
        spelled = (spell(id, int(found.start[at] - start), int(found.end[at] - start)) for at in here)
        return ", ".join(f"{labels[found.label[at]]} {span}" for at, span in zip(here, spelled, strict=True)) or "none"

    return tuple(
        Misclassified(ids[data.items[data.starts[item]]], text(truth, item), text(predicted, item), float(surest[item]))
        for item in _surest(items, surest)
    )


def _answers(data: EvaluationData, ids: Sequence[str], spell: SpanText) -> tuple[Misclassified, ...]:
    answered = span_metrics.answer_spans(data)
    sure = np.array([answer.probability for answer in answered])
    found = []
    for item in _surest(np.flatnonzero([not answer.exact for answer in answered]), sure):
        id = ids[data.items[data.starts[item]]]
        right = " or ".join(spell(id, *span) for span in answered[item].right) or "none"
        found.append(Misclassified(id, right, spell(id, *answered[item].predicted), float(sure[item])))
    return tuple(found)


def _cells(data: EvaluationData, ids: Sequence[str]) -> tuple[Misclassified, ...]:
    """List items by the confidence-weighted share of wrong cells; the confidence is the mean of the wrong cells."""
    mistaken = data.y_pred != data.y_true
    sure = np.where(mistaken, data.probabilities.max(axis=1), 0)
    starts, lengths = data.starts[:-1], np.diff(data.starts)
    total, many = np.add.reduceat(sure, starts), np.add.reduceat(mistaken.astype(np.int64), starts)

    def text(classes: Array) -> str:
        kinds, counts = np.unique(classes, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:MOST_KINDS]
        return ", ".join(f"{data.names[kinds[at]]} {counts[at] / len(classes):.0%}" for at in order)

    found = []
    for item in _surest(np.flatnonzero(many), total / lengths):
        of = slice(*data.starts[item : item + 2])
        confidence = float(total[item] / many[item])
        found.append(Misclassified(ids[data.items[of.start]], text(data.y_true[of]), text(data.y_pred[of]), confidence))
    return tuple(found)


def _surest(places: Array, sure: Array) -> Array:
    """Select the 20 most confident places, the most confident first."""
    return np.asarray(places[np.argsort(-sure[places], kind="stable")[:MOST]])


def _item_of(data: EvaluationData, rows: Array) -> Array:
    return np.searchsorted(data.starts[1:], rows, side="right")


FINDERS: dict[Task, Callable[[EvaluationData, Sequence[str]], tuple[Misclassified, ...]]] = {
    Task.CLASSIFICATION: _classes,
    Task.MULTI_LABEL: _labels,
    Task.REGRESSION: _numbers,
    Task.SEGMENTATION: _cells,
}
SPAN_FINDERS: dict[Task, Callable[[EvaluationData, Sequence[str], SpanText], tuple[Misclassified, ...]]] = {
    Task.TAGGING: _entities,
    Task.QUESTION_ANSWERING: _answers,
}


def report_warnings(
    data: EvaluationData,
    examples: Examples,
    predictions: HeldOutPredictions,
    training: Examples | None,
    main: MetricValue,
    gain: MetricValue,
    classes: Sequence[ClassMetrics],
) -> tuple[str, ...]:
    """Collect all warnings; `gain` is that of the main metric over the baseline's."""
    found = [_interval_warning(data, main), _gain_warning(main, gain), _class_warning(data, examples, training, classes)]
    return tuple(text for text in (*found, _unseen_warning(data, examples, predictions, training)) if text)


def calibration_warning(raw: EvaluationData, scaled: EvaluationData, found: Sequence[MetricValue]) -> tuple[str, ...]:
    """Say that the calibration error of few items rose with the temperature, and what the log loss did, by which it is fitted."""
    of = {metric.name: metric.value for metric in found}
    before, after = (of.get(name, 0.0) for name in (metrics.CALIBRATION_BEFORE, metrics.CALIBRATION))
    if scaled.units >= FEW_CALIBRATED or after - before < ROSE:
        return ()
    losses = [calibration.log_losses(one.scores, one.values, one.target, one.temperature) for one in (raw, scaled)]
    without, with_it = (float(np.average(loss, weights=raw.counted)) for loss in losses)
    text = (
        f"the calibration error rose from {before:.3f} to {after:.3f} with a temperature, which is fitted by the log loss of"
        f" held-out items ({without:.3f}, then {with_it:.3f}): {_units(scaled)} say little of either; label more before you rely"
        " on probabilities"
    )
    return (text,)


def _interval_warning(data: EvaluationData, main: MetricValue) -> str:
    if data.units < 2:
        return "one item was evaluated: its metrics say nothing of others; label more"
    if data.task is Task.REGRESSION or main.high - main.low <= WIDE:
        return ""
    return f"{_units(data)} leave {main.name} between {main.low:.2f} and {main.high:.2f}: label more for a narrower interval"


def _units(data: EvaluationData) -> str:
    return f"{data.units} {'groups' if data.units < len(np.unique(data.items)) else 'items'}"


def _gain_warning(main: MetricValue, gain: MetricValue) -> str:
    if gain.low > 0:
        return ""
    return f"{main.name} is not clearly better than the baseline, which ignores the features ({gain.value:+.2f})"


def _class_warning(data: EvaluationData, examples: Examples, training: Examples | None, classes: Sequence[ClassMetrics]) -> str:
    """Name classes that were trained on and never evaluated, or on few examples."""
    never = [of.name for of in classes if not of.support and _known(training or examples, of.name)]
    few = [f"{of.name} ({of.support})" for of in classes if 0 < of.support < FEW]
    kind = {Task.TAGGING: "entities", Task.DETECTION: "boxes"}.get(data.task, "examples")
    texts = [f"trained on, but never evaluated: {_listed(never)}"] if never else []
    texts += [f"evaluated on fewer than {FEW} {kind}, so little is known of: {_listed(few)}"] if few else []
    return "; ".join(texts)


def _known(examples: Examples, name: str) -> bool:
    """Tell whether any row has that class, label or kind of entity."""
    at = [place for place, of in enumerate(examples.names) if of in (name, f"B-{name}", f"I-{name}")]
    if examples.target is Target.CLASSES:
        return bool(np.isin(examples.values, at).any())
    if examples.target is Target.BOXES:
        return bool(np.isin(examples.values[:, 0], at).any())
    return bool((examples.values[:, at] > 0).any())


def _unseen_warning(data: EvaluationData, examples: Examples, predictions: HeldOutPredictions, training: Examples | None) -> str:
    """Name classes that some head had to predict without having seen them."""
    if data.target is not Target.CLASSES:
        return ""
    lost: set[int] = set()
    for fold in np.unique(predictions.folds):
        held = predictions.rows[predictions.folds == fold]
        known = training.values if training else examples.values[splits.rest(examples.count, held)]
        lost |= {int(value) for value in np.setdiff1d(examples.values[held], known)}
    names = [examples.names[value] for value in sorted(lost)]
    return f"evaluated by a head that was trained on none, as all were in one fold: {_listed(names)}" if names else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
