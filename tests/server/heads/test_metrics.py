"""Metrics against scikit-learn, also on weighted items; spans, which it does not score, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as skm
from topwork_server.heads.evaluation import metrics, task_metrics
from topwork_server.heads.evaluation.evaluation_data import EvaluationData
from topwork_server.heads.evaluation.span_metrics import right_answers
from topwork_server.heads.evaluation.task_metrics import auroc_and_precision, ranked
from topwork_server.heads.head_types import Task
from topwork_server.types import Array


def evaluated(task: Task, values: object, scores: object, names: str = "", items: object = None) -> EvaluationData:
    y_true, y_pred = np.asarray(values), np.asarray(scores, np.float32)
    of = np.arange(len(y_true)) if items is None else np.asarray(items)
    return EvaluationData(task, tuple(names.split()), y_true, y_pred, of, of, np.zeros(len(y_true), int), np.ones(len(y_true)))


def found(given: EvaluationData, weights: Array | None = None) -> dict[str, float]:
    ones = np.ones((1, given.units)) if weights is None else weights[None]
    of = metrics.metric_values(given, metrics.unit_sums(given).weighted(ones))
    return {name: float(value[0]) for name, value in of.items()}


def one_hot(classes: list[int], many: int) -> Array:
    return np.eye(many)[classes]


WEIGHTS = [np.ones(120), np.random.default_rng(9).integers(0, 4, 120).astype(float)]  # of resamples: how often an item is drawn


@pytest.mark.parametrize("weights", WEIGHTS, ids=["once", "drawn"])
@pytest.mark.parametrize("many", [2, 4, 90])
def test_classification(many: int, weights: Array) -> None:
    """Over 64 classes sums are sparse. Scores are rounded, so that rankings have ties."""
    random = np.random.default_rng(many)
    values, scores = random.integers(0, min(many, 5), 120), np.round(random.normal(size=(120, many)), 1)
    given, y_true, y_pred = evaluated(Task.CLASSIFICATION, values, scores, "x " * many), values, scores.argmax(axis=1)
    of, there, drawn = found(given, weights), np.union1d(y_true[weights > 0], y_pred[weights > 0]), {"sample_weight": weights}
    assert list(of)[:3] == ["accuracy", "balanced accuracy", "macro F1"]
    assert of["accuracy"] == pytest.approx(skm.accuracy_score(y_true, y_pred, **drawn))
    assert of["balanced accuracy"] == pytest.approx(
        skm.recall_score(y_true, y_pred, labels=np.unique(y_true), average="macro", zero_division=0, **drawn)
    )
    assert of["macro F1"] == pytest.approx(skm.f1_score(y_true, y_pred, labels=there, average="macro", zero_division=0, **drawn))
    probable = np.clip(given.probabilities.astype(float), 1e-15, 1)
    assert of["log loss"] == pytest.approx(
        skm.log_loss(y_true, probable / probable.sum(axis=1, keepdims=True), labels=range(many), **drawn), rel=1e-5
    )


@pytest.mark.parametrize("weights", WEIGHTS, ids=["once", "drawn"])
def test_multi_label(weights: Array) -> None:
    random = np.random.default_rng(0)
    y_true, scores = (random.random((120, 3)) < 0.4).astype(np.float32), random.normal(size=(120, 3))
    of, y_pred, drawn = (
        found(evaluated(Task.MULTI_LABEL, y_true, scores, "a b c"), weights),
        scores > 0,
        {"sample_weight": weights},
    )
    assert list(of)[:3] == ["macro F1", "micro F1", "subset accuracy"]
    assert of["macro F1"] == pytest.approx(skm.f1_score(y_true, y_pred, average="macro", **drawn))
    assert of["micro F1"] == pytest.approx(skm.f1_score(y_true, y_pred, average="micro", **drawn))
    assert of["subset accuracy"] == pytest.approx(skm.accuracy_score(y_true, y_pred, **drawn))
    losses = [skm.log_loss(y_true[:, at], 1 / (1 + np.exp(-scores[:, at])), **drawn) for at in range(3)]
    assert of["log loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_rankings_with_ties_and_weights() -> None:
    random = np.random.default_rng(0)
    scores, positive = np.round(random.random(120), 1), random.random(120) < 0.3
    areas, precisions = auroc_and_precision(ranked(scores, positive), np.stack(WEIGHTS).astype(np.float32))
    for weights, area, precision in zip(WEIGHTS, areas, precisions, strict=True):
        assert area == pytest.approx(skm.roc_auc_score(positive, scores, sample_weight=weights), rel=1e-6)
        assert precision == pytest.approx(skm.average_precision_score(positive, scores, sample_weight=weights), rel=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS, ids=["once", "drawn"])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_regression(offset: float, weights: Array) -> None:
    random = np.random.default_rng(0)
    y_true = offset + random.normal(size=(120, 1))
    y_pred, drawn = y_true + np.round(random.normal(size=(120, 1)), 1), {"sample_weight": weights}
    given = EvaluationData(Task.REGRESSION, (), y_true, y_pred, *[np.arange(120)] * 2, np.zeros(120, int), np.ones(120))
    of = found(given, weights)
    assert list(of) == ["R2", "MAE", "RMSE", "Spearman correlation", metrics.BAND_COVERAGE]
    assert of["R2"] == pytest.approx(skm.r2_score(y_true, y_pred, **drawn))
    assert of["MAE"] == pytest.approx(skm.mean_absolute_error(y_true, y_pred, **drawn))
    assert of["RMSE"] == pytest.approx(skm.root_mean_squared_error(y_true, y_pred, **drawn))
    assert found(given)["Spearman correlation"] == pytest.approx(scipy.stats.spearmanr(y_true, y_pred)[0])


def test_a_unit_of_several_rows_is_drawn_as_a_whole() -> None:
    random = np.random.default_rng(0)
    items = np.repeat(np.arange(10), 4)
    values, scores = random.integers(0, 3, 40), random.normal(size=(40, 3))
    times = random.integers(0, 3, 10)
    rows = np.concatenate([np.flatnonzero(items == item) for item in np.repeat(np.arange(10), times)])
    copied = np.repeat(np.arange(times.sum()), 4)
    for task in (Task.SEGMENTATION, Task.CLASSIFICATION):
        weighted = found(evaluated(task, values, scores, "a b c", items), times.astype(float))
        repeated = found(evaluated(task, values[rows], scores[rows], "a b c", copied))
        for name in (metrics.COVERAGE, metrics.SIZE):  # their thresholds are those of the items as they were
            weighted.pop(name, None), repeated.pop(name, None)
        assert weighted == pytest.approx(repeated, rel=1e-6)


def test_calibration_error() -> None:
    """Ten rows, each 90% sure (a logit of ln 9), eight of them right."""
    of = found(evaluated(Task.CLASSIFICATION, [0] * 8 + [1] * 2, np.tile([np.log(9), 0], (10, 1)), "a b"))
    assert of[metrics.CALIBRATION_BEFORE] == pytest.approx(0.1, abs=1e-6)


def test_rankings_of_one_class_alone_are_left_out() -> None:
    given = evaluated(Task.CLASSIFICATION, [1] * 6, one_hot([1, 1, 1, 1, 0, 1], 2), "a b")
    names = [figure.name for figure in task_metrics.task_metrics(given, 0)]
    assert "AUROC" not in names
    assert names[0] == "accuracy"


def test_constant_truth_has_no_r2() -> None:
    main = task_metrics.main_metric(evaluated(Task.REGRESSION, np.ones((5, 1)), np.arange(5)[:, None]), 0)
    assert (main.name, main.value) == ("R2", 0.0)


BIO = "O B-PER I-PER B-LOC I-LOC"


def test_tagging_counts_exact_spans_as_conll_does() -> None:
    """True: PER 0-2 and LOC 3-4; in the second item LOC 0-1, which a stray I-LOC begins. The first is found too short."""
    y_true, y_pred = [1, 2, 0, 3, 4, 0], [1, 0, 0, 3, 4, 0]
    of = found(evaluated(Task.TAGGING, y_true, one_hot(y_pred, 5), BIO, [0, 0, 0, 0, 1, 1]))
    assert next(iter(of)) == "entity F1"
    assert (of["entity precision"], of["entity recall"], of["entity F1"]) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert of["token accuracy"] == pytest.approx(5 / 6)


def test_no_entity_at_all_is_a_main_figure_of_nothing() -> None:
    main = task_metrics.main_metric(evaluated(Task.TAGGING, [0, 0], one_hot([0, 0], 5), BIO, [0, 1]), 0)
    assert (main.value, main.low, main.high) == (0.0, 0.0, 1.0)


def answer_marks(*spans: tuple[int, int]) -> Array:
    marks = np.zeros((5, 2), np.float32)
    for start, end in spans:
        marks[start, 0] = marks[end - 1, 1] = 1
    return marks


def test_question_answering() -> None:
    """Said 2-3 where 1-3 is right (F1 of 2/3), and 3-5 where that or 0-1 is."""
    y_true = np.concatenate([answer_marks((1, 3)), answer_marks((0, 1), (3, 5))])
    scores = 9 * np.concatenate([answer_marks((2, 3)), answer_marks((3, 5))])
    of = found(evaluated(Task.QUESTION_ANSWERING, y_true, scores, "", np.repeat([0, 1], 5)))
    assert of == pytest.approx({"F1": (2 / 3 + 1) / 2, "exact match": 0.5})


def test_right_answers() -> None:
    assert right_answers(answer_marks((0, 1), (3, 5))) == ((0, 1), (3, 5))
    assert right_answers(answer_marks((1, 3), (1, 4))) == ((1, 3), (1, 4))
    assert right_answers(np.zeros((5, 2))) == ()


def test_segmentation() -> None:
    random = np.random.default_rng(0)
    values, scores = random.integers(0, 3, 80), random.normal(size=(80, 3))
    of, y_pred = (
        found(evaluated(Task.SEGMENTATION, values, scores, "sky sea sand", np.repeat(np.arange(20), 4))),
        scores.argmax(axis=1),
    )
    assert list(of)[:3] == ["mean IoU", "cell accuracy", "IoU of sky"]
    assert of["mean IoU"] == pytest.approx(skm.jaccard_score(values, y_pred, average="macro"))
    assert of["IoU of sky"] == pytest.approx(skm.jaccard_score(values, y_pred, labels=[0], average="macro"))
    assert of["cell accuracy"] == pytest.approx(skm.accuracy_score(values, y_pred))
