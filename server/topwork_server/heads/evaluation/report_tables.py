"""Tables of a report: metrics of each class, the confusion matrix, predictions of numbers, and the misclassified items."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from topwork.report import ClassMetrics, ConfusionMatrix, Misclassified

from topwork_server.heads.evaluation import metrics, span_metrics, unit_sums
from topwork_server.heads.evaluation.evaluation_data import EvaluationData
from topwork_server.heads.head_types import Task
from topwork_server.heads.span_decoding import entity_labels
from topwork_server.plugin_api.trainer import Target
from topwork_server.types import Array

MOST_CONFUSED = 25
MOST_POINTS = 1000
OTHERS = "others"
MOST = 20
MOST_KINDS = 3  # kinds of cells that are named

#: Gives the text of a span of an item's rows (its id, from, to: half-open).
SpanText = Callable[[str, int, int], str]


def class_metrics(judged: EvaluationData) -> tuple[ClassMetrics, ...]:
    """Compute precision, recall and F1 of each class; all are 0 for one that is neither true nor predicted."""
    if judged.target not in (Target.CLASSES, Target.LABELS):
        return ()
    sums = unit_sums.unit_sums(judged, whole=False).weighted(np.ones((1, judged.units)))
    hit, truth, said = (sums[name][0] for name in ("hit", "truth", "said"))
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = [np.nan_to_num(part) for part in (hit / said, hit / truth, metrics.f1(sums)[0])]
    names = entity_labels(judged.names) if judged.task is Task.TAGGING else judged.names
    return tuple(ClassMetrics(name, int(truth[at]), *(float(part[at]) for part in parts)) for at, name in enumerate(names))


def confusion_matrix(judged: EvaluationData) -> ConfusionMatrix | None:
    """Count CLASSES by truth and prediction; of more than 25, the 24 with the most errors, and the rest as one."""
    if judged.target is not Target.CLASSES:
        return None
    many = len(judged.names)
    cells = np.bincount(judged.y_true * many + judged.y_pred, minlength=many * many).reshape(many, many)
    if many <= MOST_CONFUSED:
        return _confusion(judged.names, cells)
    errors = cells.sum(axis=0) + cells.sum(axis=1) - 2 * np.diag(cells)
    shown = np.sort(np.argsort(-errors, kind="stable")[: MOST_CONFUSED - 1])
    place = np.full(many, len(shown))
    place[shown] = np.arange(len(shown))
    joined = np.zeros((len(shown) + 1, len(shown) + 1), np.int64)
    np.add.at(joined, (place[:, None], place[None, :]), cells)
    return _confusion((*(judged.names[at] for at in shown), OTHERS), joined)


def _confusion(names: tuple[str, ...], cells: Array) -> ConfusionMatrix:
    return ConfusionMatrix(names, tuple(tuple(int(count) for count in row) for row in cells))


def scatter_points(judged: EvaluationData, seed: int) -> tuple[tuple[float, float], ...]:
    """Sample (truth, prediction) of up to 1,000 items of a regression."""
    if judged.target is not Target.NUMBERS:
        return ()
    rows = np.random.default_rng(seed).permutation(len(judged.y_true))[:MOST_POINTS]
    return tuple((float(judged.y_true[row]), float(judged.y_pred[row])) for row in np.sort(rows))


def misclassified(judged: EvaluationData, ids: Sequence[str], spell: SpanText) -> tuple[Misclassified, ...]:
    """List up to 20 misclassified items, the most confident first; `ids` are those of all items."""
    if judged.task in SPAN_FINDERS:
        return SPAN_FINDERS[judged.task](judged, ids, spell)
    return FINDERS[judged.task](judged, ids)


def span_by_number(id: str, start: int, end: int) -> str:
    """Name a span by its rows, as "3-5"."""
    return f"{start}-{end}"


def _classes(judged: EvaluationData, ids: Sequence[str]) -> tuple[Misclassified, ...]:
    sure = judged.probabilities.max(axis=1)
    rows = _surest(np.flatnonzero(judged.y_pred != judged.y_true), sure)
    names = judged.names
    return tuple(
        Misclassified(ids[judged.items[row]], names[judged.y_true[row]], names[judged.y_pred[row]], float(sure[row]))
        for row in rows
    )


def _labels(judged: EvaluationData, ids: Sequence[str]) -> tuple[Misclassified, ...]:
    """List items with a wrong label; the confidence is that of the most confident wrong one."""
    decided = np.where(judged.y_pred, judged.probabilities, 1 - judged.probabilities)
    sure = np.where(judged.y_pred != judged.y_true, decided, 0).max(axis=1)
    rows = _surest(np.flatnonzero((judged.y_pred != judged.y_true).any(axis=1)), sure)

    def text(labels: Array) -> str:
        return ", ".join(judged.names[at] for at in np.flatnonzero(labels)) or "none"

    return tuple(
        Misclassified(ids[judged.items[row]], text(judged.y_true[row]), text(judged.y_pred[row]), float(sure[row]))
        for row in rows
    )


def _numbers(judged: EvaluationData, ids: Sequence[str]) -> tuple[Misclassified, ...]:
    error = np.abs(judged.y_pred - judged.y_true)
    rows = _surest(np.flatnonzero(error > 0), error)
    return tuple(
        Misclassified(ids[judged.items[row]], *_apart(judged.y_true[row], judged.y_pred[row]), float(error[row])) for row in rows
    )


def _apart(truth: float, said: float) -> tuple[str, str]:
    """Format two numbers with enough digits to differ."""
    error, largest = abs(said - truth), max(abs(truth), abs(said))
    digits = min(max(6, math.ceil(math.log10(largest / error)) + 2), 17)
    return f"{truth:.{digits}g}", f"{said:.{digits}g}"


def _entities(judged: EvaluationData, ids: Sequence[str], spell: SpanText) -> tuple[Misclassified, ...]:
    """List items with a missed, invented or misplaced entity; the confidence is that of the most confident wrong row."""
    sure = judged.probabilities.max(axis=1)
    truth, said = (span_metrics.entity_spans(judged, classes) for classes in (judged.y_true, judged.y_pred))
    unlike = np.setxor1d(truth.key(len(sure)), said.key(len(sure))) // (len(sure) + 1) % (len(sure) + 1)
    items = np.unique(_item_of(judged, unlike))
    surest = np.maximum.reduceat(np.where(judged.y_pred != judged.y_true, sure, 0), judged.starts[:-1])
    labels = entity_labels(judged.names)

    def text(found: span_metrics.EntitySpans, item: int) -> str:
        start, end = judged.starts[item : item + 2]
        here, id = np.flatnonzero((found.start >= start) & (found.start < end)), ids[judged.items[start]]
        spelt = (spell(id, int(found.start[at] - start), int(found.end[at] - start)) for at in here)
        return ", ".join(f"{labels[found.label[at]]} {said}" for at, said in zip(here, spelt, strict=True)) or "none"

    return tuple(
        Misclassified(ids[judged.items[judged.starts[item]]], text(truth, item), text(said, item), float(surest[item]))
        for item in _surest(items, surest)
    )


def _answers(judged: EvaluationData, ids: Sequence[str], spell: SpanText) -> tuple[Misclassified, ...]:
    answered = span_metrics.answer_spans(judged)
    sure = np.array([answer.probability for answer in answered])
    found = []
    for item in _surest(np.flatnonzero([not answer.exact for answer in answered]), sure):
        id = ids[judged.items[judged.starts[item]]]
        right = " or ".join(spell(id, *span) for span in answered[item].right) or "none"
        found.append(Misclassified(id, right, spell(id, *answered[item].predicted), float(sure[item])))
    return tuple(found)


def _cells(judged: EvaluationData, ids: Sequence[str]) -> tuple[Misclassified, ...]:
    """List items by the confidence-weighted share of wrong cells; the confidence is the mean of the wrong cells."""
    mistaken = judged.y_pred != judged.y_true
    sure = np.where(mistaken, judged.probabilities.max(axis=1), 0)
    starts, lengths = judged.starts[:-1], np.diff(judged.starts)
    total, many = np.add.reduceat(sure, starts), np.add.reduceat(mistaken.astype(np.int64), starts)

    def text(classes: Array) -> str:
        kinds, counts = np.unique(classes, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:MOST_KINDS]
        return ", ".join(f"{judged.names[kinds[at]]} {counts[at] / len(classes):.0%}" for at in order)

    found = []
    for item in _surest(np.flatnonzero(many), total / lengths):
        of = slice(*judged.starts[item : item + 2])
        confidence = float(total[item] / many[item])
        found.append(Misclassified(ids[judged.items[of.start]], text(judged.y_true[of]), text(judged.y_pred[of]), confidence))
    return tuple(found)


def _surest(places: Array, sure: Array) -> Array:
    """Select the 20 most confident places, the most confident first."""
    return np.asarray(places[np.argsort(-sure[places], kind="stable")[:MOST]])


def _item_of(judged: EvaluationData, rows: Array) -> Array:
    return np.searchsorted(judged.starts[1:], rows, side="right")


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
