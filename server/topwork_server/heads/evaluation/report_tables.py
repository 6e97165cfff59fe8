"""Tables of a report: each class, what is confused with what, truth against prediction."""

from __future__ import annotations

import numpy as np

from topwork_server.heads.evaluation import metrics, unit_counts
from topwork_server.heads.evaluation.evaluation_data import EvaluationData
from topwork_server.heads.evaluation.report import ClassMetrics, ConfusionMatrix
from topwork_server.heads.head_types import Task
from topwork_server.heads.serving.span_decoding import entity_labels
from topwork_server.plugin_api.trainer import Target
from topwork_server.types import Array

MOST_CONFUSED = 25
MOST_POINTS = 1000
OTHERS = "others"


def classes(judged: EvaluationData) -> tuple[ClassMetrics, ...]:
    """Of what is neither true nor predicted, all is 0."""
    if judged.target not in (Target.CLASSES, Target.LABELS):
        return ()
    sums = unit_counts.tally(judged, whole=False).totals(np.ones((1, judged.units)))
    hit, truth, said = (sums[name][0] for name in ("hit", "truth", "said"))
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = [np.nan_to_num(part) for part in (hit / said, hit / truth, metrics.f1(sums)[0])]
    names = entity_labels(judged.names) if judged.task is Task.TAGGING else judged.names
    return tuple(ClassMetrics(name, int(truth[at]), *(float(part[at]) for part in parts)) for at, name in enumerate(names))


def confusion(judged: EvaluationData) -> ConfusionMatrix | None:
    """Of CLASSES. Of more than 25 the 24 that are most in error, and the rest as one."""
    if judged.target is not Target.CLASSES:
        return None
    many = len(judged.names)
    cells = np.bincount(judged.truth * many + judged.said, minlength=many * many).reshape(many, many)
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


def scatter(judged: EvaluationData, seed: int) -> tuple[tuple[float, float], ...]:
    """(truth, prediction) of up to 1,000 items of regression, chosen at random."""
    if judged.target is not Target.NUMBERS:
        return ()
    rows = np.random.default_rng(seed).permutation(len(judged.truth))[:MOST_POINTS]
    return tuple((float(judged.truth[row]), float(judged.said[row])) for row in np.sort(rows))
