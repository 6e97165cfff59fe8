"""Metrics of each task, computed from sums over weighted units, so that a point estimate and 1,000 resamples are one computation.

scikit-learn, with which the tests compare them, takes one set of weights at a time, and 1.3 s of CPU to import, which every
training of 1.7 s would pay.

Macro means are over the classes that are defined: a class that is neither true nor predicted among the rows is left out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from topwork_server.heads.evaluation.evaluation_data import EvaluationData
from topwork_server.heads.head_types import Task
from topwork_server.plugin_api.trainer import Target
from topwork_server.types import Array

Sums = dict[str, Array]  # name to (b, width)
Values = dict[str, Array]  # metric to (b,)

MAIN_METRIC = {
    Task.CLASSIFICATION: "accuracy",
    Task.MULTI_LABEL: "macro F1",
    Task.REGRESSION: "R2",
    Task.TAGGING: "entity F1",
    Task.QUESTION_ANSWERING: "F1",
    Task.SEGMENTATION: "mean IoU",
}
CALIBRATION_BEFORE, CALIBRATION = "calibration error before scaling", "calibration error"
ENDLESS, SHARE = np.inf, (0.0, 1.0)
BOUNDS = {
    "R2": (-ENDLESS, 1.0),
    "MAE": (0.0, ENDLESS),
    "RMSE": (0.0, ENDLESS),
    "Spearman correlation": (-1.0, 1.0),
    "log loss": (0.0, ENDLESS),
}
FEW_CLASSES = 25  # up to so many classes have their own IoU among the metrics


def bounds(name: str) -> tuple[float, float]:
    return BOUNDS.get(name, SHARE)


def stable_deviation(numbers: Array) -> float:
    """Compute the standard deviation in float64, without overflow or underflow for numbers from 1e-150 to 1e150."""
    off = np.asarray(numbers, np.float64) - np.mean(numbers, dtype=np.float64)
    largest = float(np.abs(off).max(initial=0.0))
    return largest * float(np.sqrt(np.mean((off / largest) ** 2))) if largest else 0.0


def metric_values(judged: EvaluationData, sums: Sums) -> Values:
    """Compute all metrics of the task, the main one first."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {**OF_SUMS[judged.task](judged, sums), **_of_calibration(judged, sums)}


def f1(sums: Sums) -> Array:
    """Compute the F1 score of each class, (b, classes)."""
    return np.asarray(2 * sums["hit"] / (sums["truth"] + sums["said"]))


def iou(sums: Sums) -> Array:
    """Compute intersection over union, (b, classes): Everingham et al. 2010, section 4.1.2."""
    return np.asarray(sums["hit"] / (sums["truth"] + sums["said"] - sums["hit"]))


def mean_of_defined(of_classes: Array) -> Array:
    """Average (b, classes) to (b,) over the classes that are defined."""
    defined = np.isfinite(of_classes)
    return np.asarray(np.where(defined, of_classes, 0).sum(axis=1) / defined.sum(axis=1))


def _of_classes(judged: EvaluationData, sums: Sums) -> Values:
    return {
        "accuracy": sums["hit"].sum(axis=1) / sums["rows"][:, 0],
        "balanced accuracy": mean_of_defined(sums["hit"] / sums["truth"]),
        "macro F1": mean_of_defined(f1(sums)),
    }


def _of_labels(judged: EvaluationData, sums: Sums) -> Values:
    return {
        "macro F1": mean_of_defined(f1(sums)),
        "micro F1": _micro(sums),
        "subset accuracy": sums["exact"][:, 0] / sums["rows"][:, 0],
    }


def _of_numbers(judged: EvaluationData, sums: Sums) -> Values:
    rows, scale = sums["rows"][:, 0], stable_deviation(judged.y_true) or 1.0
    of = {name: total[:, 0] / rows for name, total in sums.items()}
    spread = of["yy"] - of["y"] ** 2
    found = {
        "R2": 1 - of["squared"] / np.where(spread > 1e-12, spread, np.nan),
        "MAE": of["absolute"] * scale,
        "RMSE": np.sqrt(of["squared"]) * scale,
    }
    return {**found, "Spearman correlation": _spearman(of)} if "ab" in of else found


def _spearman(of: Values) -> Array:
    """Compute Spearman's correlation; every resample uses the ranks among all rows."""
    together = of["ab"] - of["a"] * of["b"]
    apart = np.sqrt((of["aa"] - of["a"] ** 2).clip(0) * (of["bb"] - of["b"] ** 2).clip(0))
    return np.where(apart > 1e-12, together / apart, np.nan).clip(-1, 1)


def _of_entities(judged: EvaluationData, sums: Sums) -> Values:
    hit, truth, said = (sums[name].sum(axis=1) for name in ("hit", "truth", "said"))
    return {
        "entity F1": _micro(sums),
        "entity precision": hit / said,
        "entity recall": hit / truth,
        "token accuracy": sums["right"][:, 0] / sums["rows"][:, 0],
    }


def _of_answers(judged: EvaluationData, sums: Sums) -> Values:
    return {"F1": (sums["f1"] / sums["items"])[:, 0], "exact match": (sums["exact"] / sums["items"])[:, 0]}


def _of_cells(judged: EvaluationData, sums: Sums) -> Values:
    of_classes = iou(sums)
    found = {"mean IoU": mean_of_defined(of_classes), "cell accuracy": sums["hit"].sum(axis=1) / sums["rows"][:, 0]}
    if len(judged.names) <= FEW_CLASSES:
        found |= {f"IoU of {name}": of_classes[:, at] for at, name in enumerate(judged.names)}
    return found


def _of_calibration(judged: EvaluationData, sums: Sums) -> Values:
    """Compute log loss and the expected calibration error (Guo et al. 2017, equation 5), for LABELS over all decisions.

    For few items the error is too high, as chance alone separates confidence from accuracy (Roelofs et al. 2022), and its
    interval may then miss the true value.
    """
    if "gap" not in sums:
        return {}
    rows = sums["rows"][:, 0]
    decisions = rows * (len(judged.names) if judged.target is Target.LABELS else 1)
    before, after = (np.abs(sums[name]).sum(axis=1) / decisions for name in ("gap before", "gap"))
    return {"log loss": sums["loss"][:, 0] / rows, CALIBRATION_BEFORE: before, CALIBRATION: after}


def _micro(sums: Sums) -> Array:
    hit, truth, said = (sums[name].sum(axis=1) for name in ("hit", "truth", "said"))
    return np.asarray(2 * hit / (truth + said))


OF_SUMS: dict[Task, Callable[[EvaluationData, Sums], Values]] = {
    Task.CLASSIFICATION: _of_classes,
    Task.MULTI_LABEL: _of_labels,
    Task.REGRESSION: _of_numbers,
    Task.TAGGING: _of_entities,
    Task.QUESTION_ANSWERING: _of_answers,
    Task.SEGMENTATION: _of_cells,
}
