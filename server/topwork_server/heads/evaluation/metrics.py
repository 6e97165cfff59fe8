"""Metrics of each task, computed from sums over weighted units, so that a point estimate and 1,000 resamples are one computation.

`unit_sums` adds up what each bootstrap unit (an item, or a group of items) contributes: counts of classes, hits, squared errors.
`metric_values` computes the metrics from weighted sums. scikit-learn, with which the tests compare them, takes one set of weights
at a time, and 1.3 s of CPU to import, which every training of 1.7 s would pay.

Macro means are over the classes that are defined: a class that is neither true nor predicted among the rows is left out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from topwork_server.heads.evaluation import calibration, span_metrics
from topwork_server.heads.evaluation.coverage import cross_coverage
from topwork_server.heads.evaluation.evaluation_data import EvaluationData
from topwork_server.heads.head_types import Task
from topwork_server.heads.span_decoding import entity_labels
from topwork_server.plugin_api.average_precision import THRESHOLDS, ClassMatches, average_precisions, best_score
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
    Task.DETECTION: "mAP",
}
CALIBRATION_BEFORE, CALIBRATION = "calibration error before scaling", "calibration error"
COVERAGE, BAND_COVERAGE, SIZE = "coverage of 90% sets", "coverage of the 90% band", "size of 90% sets"
SPEARMAN = "Spearman correlation"
ENDLESS, SHARE = np.inf, (0.0, 1.0)
BOUNDS = {
    "R2": (-ENDLESS, 1.0),
    "MAE": (0.0, ENDLESS),
    "RMSE": (0.0, ENDLESS),
    SPEARMAN: (-1.0, 1.0),
    "log loss": (0.0, ENDLESS),
    SIZE: (0.0, ENDLESS),
}
FEW_CLASSES = 25  # up to so many classes have their own IoU or average precision among the metrics
NARROW = 64  # columns up to which sums are dense: a matrix product
DENSE_SPEED = 16  # so many numbers of a matrix product take the time of one sparse entry


def bounds(name: str) -> tuple[float, float]:
    return BOUNDS.get(name, SHARE)


def stable_deviation(numbers: Array) -> float:
    """Compute the standard deviation in float64, without overflow or underflow for numbers from 1e-150 to 1e150."""
    off = np.asarray(numbers, np.float64) - np.mean(numbers, dtype=np.float64)
    largest = float(np.abs(off).max(initial=0.0))
    return largest * float(np.sqrt(np.mean((off / largest) ** 2))) if largest else 0.0


class UnitSums:
    """Named rows of sums, to whose columns each unit (an item, or a group of items) adds amounts, and average precisions, which
    are computed from the same weights."""

    def __init__(self, units: int) -> None:
        self.units = units
        self._dense: dict[str, Array] = {}
        self._sparse: dict[str, tuple[int, Array, Array, Array]] = {}
        self._matches: dict[str, list[ClassMatches]] = {}

    def add(self, name: str, width: int, unit: Array, column: Array | int = 0, amount: Array | float = 1.0) -> None:
        """Add `amount` of `unit` to `column` (0 .. width - 1) of `name`; arrays of one length, or one value for all."""
        cell = unit * width + column
        amounts = np.broadcast_to(np.asarray(amount, np.float64), cell.shape)
        if width <= NARROW:
            sums = np.bincount(cell, amounts, minlength=self.units * width)
            self._dense[name] = sums.reshape(self.units, width)
            return
        cells, place = np.unique(cell, return_inverse=True)
        self._sparse[name] = (width, cells // width, cells % width, np.bincount(place, amounts, minlength=len(cells)))

    def add_matches(self, name: str, matches: list[ClassMatches]) -> None:
        """Add the average precisions of classes, (b, classes * thresholds)."""
        self._matches[name] = matches

    @property
    def cost(self) -> int:
        """The cost of one resample, in sparse entries; drawing it costs one per unit."""
        dense = sum(sums.size for sums in self._dense.values())
        ranked = sum(one.hits.size for matches in self._matches.values() for one in matches)
        return self.units + dense // DENSE_SPEED + ranked + sum(len(unit) for _, unit, _, _ in self._sparse.values())

    def weighted(self, weights: Array) -> dict[str, Array]:
        """Turn (b, units) weights into (b, width) sums of each name."""
        totals = {name: np.asarray(weights @ sums) for name, sums in self._dense.items()}
        for name, (width, unit, column, amount) in self._sparse.items():
            totals[name] = np.stack([np.bincount(column, amount * row[unit], minlength=width) for row in weights])
        for name, matches in self._matches.items():
            totals[name] = np.concatenate([average_precisions(one, weights) for one in matches], axis=1)
        return totals


def unit_sums(data: EvaluationData, whole: bool = True) -> UnitSums:
    """Compute the sums that `metric_values` reads; with `whole` false, only those of the main metric."""
    found = UnitSums(data.units)
    FILL[data.task](data, found)
    if whole and data.target in (Target.CLASSES, Target.LABELS):
        _add_calibration(data, found)
    if whole and data.target is Target.NUMBERS:
        _add_ranks(data, found)
    if whole:
        _add_coverage(data, found)
    return found


def _add_classes(data: EvaluationData, sums: UnitSums) -> None:
    many, right = len(data.names), data.y_pred == data.y_true
    sums.add("rows", 1, data.unit, 0, data.counted)
    sums.add("truth", many, data.unit, data.y_true, data.counted)
    sums.add("predicted", many, data.unit, data.y_pred, data.counted)
    sums.add("hit", many, data.unit[right], data.y_true[right], data.counted[right])


def _add_labels(data: EvaluationData, sums: UnitSums) -> None:
    sums.add("rows", 1, data.unit, 0, data.counted)
    for name, cells in (("truth", data.y_true), ("predicted", data.y_pred), ("hit", data.y_true & data.y_pred)):
        row, label = np.nonzero(cells)
        sums.add(name, len(data.names), data.unit[row], label, data.counted[row])
    exact = (data.y_true == data.y_pred).all(axis=1)
    sums.add("exact", 1, data.unit[exact], 0, data.counted[exact])


def _add_numbers(data: EvaluationData, sums: UnitSums) -> None:
    """Add moments of centered numbers of unit spread: plain sums of squares would lose their digits."""
    middle, spread = data.y_true.mean(), stable_deviation(data.y_true) or 1.0
    truth, predicted = (data.y_true - middle) / spread, (data.y_pred - middle) / spread
    sums.add("rows", 1, data.unit, 0, data.counted)
    moments = {"y": truth, "yy": truth**2, "absolute": np.abs(predicted - truth), "squared": (predicted - truth) ** 2}
    for name, amount in moments.items():
        sums.add(name, 1, data.unit, 0, amount * data.counted)


def _add_ranks(data: EvaluationData, sums: UnitSums) -> None:
    a, b = _ranks(data.y_true, data.counted), _ranks(data.y_pred, data.counted)
    for name, amount in {"a": a, "b": b, "aa": a**2, "bb": b**2, "ab": a * b}.items():
        sums.add(name, 1, data.unit, 0, amount * data.counted)


def _add_entities(data: EvaluationData, sums: UnitSums) -> None:
    truth, predicted = (span_metrics.entity_spans(data, classes) for classes in (data.y_true, data.y_pred))
    right = np.isin(truth.key(len(data.y_true)), predicted.key(len(data.y_true)))
    many, of, correct = max(1, len(entity_labels(data.names))), data.counted, data.y_true == data.y_pred
    sums.add("rows", 1, data.unit, 0, of)
    sums.add("right", 1, data.unit[correct], 0, of[correct])
    sums.add("truth", many, data.unit[truth.start], truth.label, of[truth.start])
    sums.add("predicted", many, data.unit[predicted.start], predicted.label, of[predicted.start])
    sums.add("hit", many, data.unit[truth.start[right]], truth.label[right], of[truth.start[right]])


def _add_answers(data: EvaluationData, sums: UnitSums) -> None:
    answered, first = span_metrics.answer_spans(data), data.starts[:-1]
    unit, counted = data.unit[first], data.counted[first]
    sums.add("items", 1, unit, 0, counted)
    sums.add("f1", 1, unit, 0, counted * np.array([answer.f1 for answer in answered]))
    sums.add("exact", 1, unit, 0, counted * np.array([float(answer.exact) for answer in answered]))


def _add_boxes(data: EvaluationData, sums: UnitSums) -> None:
    """Add average precisions, and of the overlap of one half the boxes that are served."""
    sums.add_matches("precisions", data.matches)
    many, least = len(data.names), best_score(data.matches)
    served = [one.scores >= least for one in data.matches]
    for name, units in (
        ("truth", [np.repeat(np.arange(data.units), one.truths.astype(np.int64)) for one in data.matches]),
        ("predicted", [one.unit[taken] for one, taken in zip(data.matches, served, strict=True)]),
        ("hit", [one.unit[taken & one.hits[0]] for one, taken in zip(data.matches, served, strict=True)]),
    ):
        labels = np.repeat(np.arange(many), [len(of_class) for of_class in units])
        sums.add(name, many, np.concatenate(units), labels)


def _add_calibration(data: EvaluationData, sums: UnitSums) -> None:
    """Add the log loss, and for each bin by how much confidence exceeds accuracy."""
    losses = calibration.log_losses(data.scores, data.values, data.target, data.temperature)
    sums.add("loss", 1, data.unit, 0, losses * data.counted)
    for name, probable in (
        ("gap before", calibration.probabilities(data.scores, data.target)),
        ("gap", data.probabilities),
    ):
        sure, so = calibration.confidences(probable, data.values, data.target)
        unit, counted = (np.repeat(of_rows, len(sure) // len(data.unit)) for of_rows in (data.unit, data.counted))
        sums.add(name, calibration.BINS, unit, calibration.bin_of(sure), counted * (sure - so))


def _add_coverage(data: EvaluationData, sums: UnitSums) -> None:
    """Add how often the truth is in the set or band that the other folds promise, and how many classes a set has."""
    found = cross_coverage(data)
    if found is not None:
        sums.add("covered", 1, data.unit[found.covered], 0, data.counted[found.covered])
        sums.add("sizes", 1, data.unit, 0, found.sizes * data.counted)


def _ranks(numbers: Array, counted: Array) -> Array:
    """Rank numbers from -1 to 1, each counted so often; equal numbers get their mean rank."""
    _, place = np.unique(numbers, return_inverse=True)
    count = np.bincount(place, counted)
    middle = np.cumsum(count) - (count + 1) / 2
    return np.asarray(2 * middle[place] / max(1, counted.sum() - 1) - 1)


FILL: dict[Task, Callable[[EvaluationData, UnitSums], None]] = {
    Task.CLASSIFICATION: _add_classes,
    Task.MULTI_LABEL: _add_labels,
    Task.REGRESSION: _add_numbers,
    Task.TAGGING: _add_entities,
    Task.QUESTION_ANSWERING: _add_answers,
    Task.SEGMENTATION: _add_classes,
    Task.DETECTION: _add_boxes,
}


def metric_values(data: EvaluationData, sums: Sums) -> Values:
    """Compute all metrics of the task, the main one first."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {**OF_SUMS[data.task](data, sums), **_of_calibration(data, sums), **_of_coverage(data, sums)}


def f1(sums: Sums) -> Array:
    """Compute the F1 score of each class, (b, classes)."""
    return np.asarray(2 * sums["hit"] / (sums["truth"] + sums["predicted"]))


def iou(sums: Sums) -> Array:
    """Compute intersection over union, (b, classes): Everingham et al. 2010, section 4.1.2."""
    return np.asarray(sums["hit"] / (sums["truth"] + sums["predicted"] - sums["hit"]))


def mean_of_defined(of_classes: Array) -> Array:
    """Average (b, classes) to (b,) over the classes that are defined."""
    defined = np.isfinite(of_classes)
    return np.asarray(np.where(defined, of_classes, 0).sum(axis=1) / defined.sum(axis=1))


def _of_classes(data: EvaluationData, sums: Sums) -> Values:
    return {
        "accuracy": sums["hit"].sum(axis=1) / sums["rows"][:, 0],
        "balanced accuracy": mean_of_defined(sums["hit"] / sums["truth"]),
        "macro F1": mean_of_defined(f1(sums)),
    }


def _of_labels(data: EvaluationData, sums: Sums) -> Values:
    return {
        "macro F1": mean_of_defined(f1(sums)),
        "micro F1": _micro(sums),
        "subset accuracy": sums["exact"][:, 0] / sums["rows"][:, 0],
    }


def _of_numbers(data: EvaluationData, sums: Sums) -> Values:
    rows, scale = sums["rows"][:, 0], stable_deviation(data.y_true) or 1.0
    of = {name: total[:, 0] / rows for name, total in sums.items()}
    spread = of["yy"] - of["y"] ** 2
    found = {
        "R2": 1 - of["squared"] / np.where(spread > 1e-12, spread, np.nan),
        "MAE": of["absolute"] * scale,
        "RMSE": np.sqrt(of["squared"]) * scale,
    }
    return {**found, SPEARMAN: _spearman(of)} if "ab" in of else found


def _spearman(of: Values) -> Array:
    """Compute Spearman's correlation; every resample uses the ranks among all rows."""
    together = of["ab"] - of["a"] * of["b"]
    apart = np.sqrt((of["aa"] - of["a"] ** 2).clip(0) * (of["bb"] - of["b"] ** 2).clip(0))
    return np.where(apart > 1e-12, together / apart, np.nan).clip(-1, 1)


def _of_entities(data: EvaluationData, sums: Sums) -> Values:
    hit, truth, predicted = (sums[name].sum(axis=1) for name in ("hit", "truth", "predicted"))
    return {
        "entity F1": _micro(sums),
        "entity precision": hit / predicted,
        "entity recall": hit / truth,
        "token accuracy": sums["right"][:, 0] / sums["rows"][:, 0],
    }


def _of_answers(data: EvaluationData, sums: Sums) -> Values:
    return {"F1": (sums["f1"] / sums["items"])[:, 0], "exact match": (sums["exact"] / sums["items"])[:, 0]}


def _of_cells(data: EvaluationData, sums: Sums) -> Values:
    of_classes = iou(sums)
    found = {"mean IoU": mean_of_defined(of_classes), "cell accuracy": sums["hit"].sum(axis=1) / sums["rows"][:, 0]}
    if len(data.names) <= FEW_CLASSES:
        found |= {f"IoU of {name}": of_classes[:, at] for at, name in enumerate(data.names)}
    return found


def _of_boxes(data: EvaluationData, sums: Sums) -> Values:
    """COCO's means over the classes that have true boxes; a class's own is over the overlaps of .5 to .95."""
    precisions = sums["precisions"].reshape(len(sums["precisions"]), len(data.names), len(THRESHOLDS))
    of_classes = precisions.mean(axis=2)
    found = {"mAP": mean_of_defined(of_classes), "mAP at .5": mean_of_defined(precisions[:, :, 0]), "box F1": _micro(sums)}
    if len(data.names) <= FEW_CLASSES:
        found |= {f"AP of {name}": of_classes[:, at] for at, name in enumerate(data.names)}
    return found


def _of_calibration(data: EvaluationData, sums: Sums) -> Values:
    """Compute log loss and the expected calibration error (Guo et al. 2017, equation 5), for LABELS over all decisions.

    For few items the error is too high, as chance alone separates confidence from accuracy (Roelofs et al. 2022), and its
    interval may then miss the true value.
    """
    if "gap" not in sums:
        return {}
    rows = sums["rows"][:, 0]
    decisions = rows * (len(data.names) if data.target is Target.LABELS else 1)
    before, after = (np.abs(sums[name]).sum(axis=1) / decisions for name in ("gap before", "gap"))
    return {"log loss": sums["loss"][:, 0] / rows, CALIBRATION_BEFORE: before, CALIBRATION: after}


def _of_coverage(data: EvaluationData, sums: Sums) -> Values:
    if "covered" not in sums:
        return {}
    covered, size = (sums[name][:, 0] / sums["rows"][:, 0] for name in ("covered", "sizes"))
    return {BAND_COVERAGE: covered} if data.target is Target.NUMBERS else {COVERAGE: covered, SIZE: size}


def _micro(sums: Sums) -> Array:
    hit, truth, predicted = (sums[name].sum(axis=1) for name in ("hit", "truth", "predicted"))
    return np.asarray(2 * hit / (truth + predicted))


OF_SUMS: dict[Task, Callable[[EvaluationData, Sums], Values]] = {
    Task.CLASSIFICATION: _of_classes,
    Task.MULTI_LABEL: _of_labels,
    Task.REGRESSION: _of_numbers,
    Task.TAGGING: _of_entities,
    Task.QUESTION_ANSWERING: _of_answers,
    Task.SEGMENTATION: _of_cells,
    Task.DETECTION: _of_boxes,
}
