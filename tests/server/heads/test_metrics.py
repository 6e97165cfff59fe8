"""Figures against values worked out by hand (all were also compared with scikit-learn 1.9)."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_server.heads.evaluation import metrics, task_metrics, unit_sums
from topwork_server.heads.evaluation.evaluation_data import EvaluationData
from topwork_server.heads.evaluation.span_metrics import right_answers
from topwork_server.heads.evaluation.task_metrics import auroc_and_precision, ranked
from topwork_server.heads.head_types import Task
from topwork_server.types import Array


def judged(task: Task, values: object, scores: object, names: str = "", items: object = None) -> EvaluationData:
    truth, said = np.asarray(values), np.asarray(scores, np.float32)
    of = np.arange(len(truth)) if items is None else np.asarray(items)
    return EvaluationData(task, tuple(names.split()), truth, said, of, of, np.zeros(len(truth), int))


def found(given: EvaluationData, weights: Array | None = None) -> dict[str, float]:
    ones = np.ones((1, given.units)) if weights is None else weights[None]
    of = metrics.metric_values(given, unit_sums.unit_sums(given).weighted(ones))
    return {name: float(value[0]) for name, value in of.items()}


def one_hot(classes: list[int], many: int) -> Array:
    return np.eye(many)[classes]


def test_classification() -> None:
    given = judged(Task.CLASSIFICATION, [0, 0, 0, 1, 1, 2], one_hot([0, 0, 1, 1, 0, 2], 3), "a b c")
    of = found(given)
    assert next(iter(of)) == "accuracy"
    assert of["accuracy"] == pytest.approx(4 / 6)
    assert of["balanced accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert of["macro F1"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_a_class_that_is_nowhere_counts_nowhere() -> None:
    given = judged(Task.CLASSIFICATION, [0, 0, 1, 1], one_hot([0, 0, 1, 0], 3), "a b c")
    of = found(given)
    assert of["balanced accuracy"] == pytest.approx(0.75)
    assert of["macro F1"] == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_weights_are_copies() -> None:
    """Of items: what is drawn twice counts as two items, also where items have several rows."""
    random = np.random.default_rng(0)
    items = np.repeat(np.arange(10), 4)
    values, scores = random.integers(0, 3, 40), random.normal(size=(40, 3))
    times = random.integers(0, 3, 10)
    rows = np.concatenate([np.flatnonzero(items == item) for item in np.repeat(np.arange(10), times)])
    copied = np.repeat(np.arange(times.sum()), 4)
    for task in (Task.SEGMENTATION, Task.CLASSIFICATION):
        weighted = found(judged(task, values, scores, "a b c", items), times.astype(float))
        assert weighted == pytest.approx(found(judged(task, values[rows], scores[rows], "a b c", copied)), rel=1e-6)


def test_many_classes_are_summed_alike() -> None:
    """Over 64 classes sums are sparse: the figures are the same as those of the few that are there."""
    few = judged(Task.CLASSIFICATION, [0, 0, 0, 1, 1, 2], one_hot([0, 0, 1, 1, 0, 2], 3) * 9, "a b c")
    many = judged(Task.CLASSIFICATION, few.values, np.pad(few.scores, ((0, 0), (0, 97)), constant_values=-99), "x " * 100)
    weights = np.array([2.0, 0, 1, 1, 3, 0])
    assert found(many, weights) == pytest.approx(found(few, weights), rel=1e-5)


def test_log_loss_and_calibration_error() -> None:
    """Ten rows, each 90% sure (a logit of ln 9), eight of them right."""
    scores = np.tile([np.log(9), 0], (10, 1))
    of = found(judged(Task.CLASSIFICATION, [0] * 8 + [1] * 2, scores, "a b"))
    assert of[metrics.CALIBRATION_BEFORE] == pytest.approx(0.1, abs=1e-6)
    assert of["log loss"] == pytest.approx(-0.8 * np.log(0.9) - 0.2 * np.log(0.1), rel=1e-6)


def test_multi_label() -> None:
    truth = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], np.float32)
    scores = np.array([[2, -1], [1, -1], [1, 1], [-3, -1]])
    of = found(judged(Task.MULTI_LABEL, truth, scores, "a b"))
    assert next(iter(of)) == "macro F1"
    assert of["macro F1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert of["micro F1"] == pytest.approx(6 / 8)
    assert of["subset accuracy"] == pytest.approx(2 / 4)
    probable = 1 / (1 + np.exp(-scores))
    assert of["log loss"] == pytest.approx(-np.log(np.where(truth > 0, probable, 1 - probable)).mean(), rel=1e-5)


def test_ranking_with_ties() -> None:
    """Positives 0.8 and 0.4, negatives 0.6, 0.4 and 0.1: 4.5 of 6 pairs in order; precision 1, then 2 of 4."""
    ranking = ranked(np.array([0.8, 0.4, 0.6, 0.4, 0.1]), np.array([1, 1, 0, 0, 0], bool))
    area, precision = auroc_and_precision(ranking, np.ones((1, 5), np.float32))
    assert (area[0], precision[0]) == pytest.approx((0.75, 0.75))


def test_ranking_of_weights_is_that_of_copies() -> None:
    random = np.random.default_rng(0)
    scores, positive = np.round(random.random(60), 1), random.random(60) < 0.3
    weights = random.integers(0, 4, (5, 60))
    areas, precisions = auroc_and_precision(ranked(scores, positive), weights.astype(np.float32))
    for row, area, precision in zip(weights, areas, precisions, strict=True):
        copies = np.repeat(np.arange(60), row)
        again = auroc_and_precision(ranked(scores[copies], positive[copies]), np.ones((1, len(copies)), np.float32))
        assert (area, precision) == pytest.approx((again[0][0], again[1][0]))
        pairs = scores[copies][positive[copies]][:, None] - scores[copies][~positive[copies]][None]
        assert area == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())


def test_rankings_of_one_class_alone_are_left_out() -> None:
    given = judged(Task.CLASSIFICATION, [1] * 6, one_hot([1, 1, 1, 1, 0, 1], 2), "a b")
    names = [figure.name for figure in task_metrics.task_metrics(given, 0)]
    assert "AUROC" not in names
    assert names[0] == "accuracy"


def test_regression() -> None:
    of = found(judged(Task.REGRESSION, [[1.0], [2], [3], [4]], [[1.0], [2], [4], [4]]))
    assert next(iter(of)) == "R2"
    assert of == pytest.approx({"R2": 0.8, "MAE": 0.25, "RMSE": 0.5, "Spearman correlation": 4.5 / np.sqrt(5 * 4.5)})


def test_regression_far_from_zero_keeps_its_digits() -> None:
    truth = 1e5 + np.array([[1.0], [2], [3], [4]])
    assert found(judged(Task.REGRESSION, truth, truth + np.array([[0.0], [0], [1], [0]])))["R2"] == pytest.approx(0.8)


def test_constant_truth_has_no_r2() -> None:
    main = task_metrics.main_metric(judged(Task.REGRESSION, np.ones((5, 1)), np.arange(5)[:, None]), 0)
    assert (main.name, main.value) == ("R2", 0.0)


BIO = "O B-PER I-PER B-LOC I-LOC"


def test_tagging_counts_exact_spans_as_conll_does() -> None:
    """True: PER 0-2 and LOC 3-4; in the second item LOC 0-1, which a stray I-LOC begins. The first is found too short."""
    truth, said = [1, 2, 0, 3, 4, 0], [1, 0, 0, 3, 4, 0]
    of = found(judged(Task.TAGGING, truth, one_hot(said, 5), BIO, [0, 0, 0, 0, 1, 1]))
    assert next(iter(of)) == "entity F1"
    assert (of["entity precision"], of["entity recall"], of["entity F1"]) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert of["token accuracy"] == pytest.approx(5 / 6)


def test_no_entity_at_all_is_a_main_figure_of_nothing() -> None:
    main = task_metrics.main_metric(judged(Task.TAGGING, [0, 0], one_hot([0, 0], 5), BIO, [0, 1]), 0)
    assert (main.value, main.low, main.high) == (0.0, 0.0, 1.0)


def answer_marks(*spans: tuple[int, int]) -> Array:
    marks = np.zeros((5, 2), np.float32)
    for start, end in spans:
        marks[start, 0] = marks[end - 1, 1] = 1
    return marks


def test_question_answering() -> None:
    """Said 2-3 where 1-3 is right (F1 of 2/3), and 3-5 where that or 0-1 is."""
    truth = np.concatenate([answer_marks((1, 3)), answer_marks((0, 1), (3, 5))])
    scores = 9 * np.concatenate([answer_marks((2, 3)), answer_marks((3, 5))])
    of = found(judged(Task.QUESTION_ANSWERING, truth, scores, "", np.repeat([0, 1], 5)))
    assert of == pytest.approx({"F1": (2 / 3 + 1) / 2, "exact match": 0.5})


def test_right_answers() -> None:
    assert right_answers(answer_marks((0, 1), (3, 5))) == ((0, 1), (3, 5))
    assert right_answers(answer_marks((1, 3), (1, 4))) == ((1, 3), (1, 4))
    assert right_answers(np.zeros((5, 2))) == ()


def test_segmentation() -> None:
    of = found(judged(Task.SEGMENTATION, [0, 0, 1, 1], one_hot([0, 1, 1, 1], 2), "sky sea", [0, 0, 1, 1]))
    assert next(iter(of)) == "mean IoU"
    assert of["mean IoU"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert (of["IoU of sky"], of["cell accuracy"]) == pytest.approx((1 / 2, 3 / 4))
