"""Evaluation: its splits, the report of good, bad and blind heads, and its warnings."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import asdict, replace

import numpy as np
import pytest
from topwork_server.errors import TopworkError
from topwork_server.heads.evaluation import evaluate, metrics, report_tables
from topwork_server.heads.evaluation.evaluation_data import HeldOutPredictions
from topwork_server.heads.evaluation.split_plan import plan_splits
from topwork_server.heads.head_types import LEARNED, Task
from topwork_server.plugin_api.splits import rest
from topwork_server.plugin_api.trainer import Examples, Target
from topwork_server.types import Array

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def examples(
    task: Task, values: Array, names: tuple[str, ...], items: Array | None = None, groups: Array | None = None
) -> Examples:
    of = np.arange(len(values)) if items is None else items
    return Examples((), task.target, names, values, of, of if groups is None else groups)


def ids(given: Examples) -> list[str]:
    return [f"item-{at}" for at in range(int(given.items.max()) + 1)]


def answered(given: Examples, scores: Array, folds: int = 5) -> HeldOutPredictions:
    """Return predictions as of one head a fold."""
    held = plan_splits(given, folds, 0).test
    rows = np.concatenate(held)
    order = np.argsort(rows)
    of = np.repeat(np.arange(len(held)), [len(part) for part in held])
    return HeldOutPredictions(rows[order], scores[rows[order]].astype(np.float32), of[order])


def classes(count: int, many: int = 3, sure: float = 3.0, seed: int = 0) -> tuple[Examples, Array]:
    random = np.random.default_rng(seed)
    values = random.integers(0, many, count)
    scores = random.normal(size=(count, many)) + sure * np.eye(many)[values]
    return examples(Task.CLASSIFICATION, values, tuple(f"c{at}" for at in range(many))), scores


def test_the_cost_of_abstaining_is_that_of_wrong_and_of_missing_answers() -> None:
    given, scores = classes(400, sure=2.0)
    found = evaluate.evaluate_predictions(given, Task.CLASSIFICATION, answered(given, scores), ids(given), None, 0)
    wrong = 1 - found.metrics[0].value
    for one in found.abstaining:
        assert one.accuracy is not None
        expected = one.answered.value * (1 - one.accuracy.value) + one.cost * (1 - one.answered.value)
        assert one.expected.value == pytest.approx(expected)
        assert one.expected.low <= one.expected.value <= min(one.expected.high, wrong)
    shares = [one.answered.value for one in found.abstaining]
    assert shares == sorted(shares)
    numbers = examples(Task.REGRESSION, np.arange(40.0)[:, None], ())
    residuals = answered(numbers, np.arange(40.0)[:, None])
    assert evaluate.evaluate_predictions(numbers, Task.REGRESSION, residuals, ids(numbers), None, 0).abstaining == ()


@pytest.mark.parametrize("count", [8, 10, 45])
def test_where_nothing_is_answered_every_cost_has_an_interval_of_one_kind(count: int) -> None:
    """Answered, and the cost of an item beside it: what no item showed may be so of the same share of others."""
    given, _ = classes(count, many=4)
    found = evaluate.evaluate_predictions(
        given, Task.CLASSIFICATION, answered(given, np.zeros((count, 4))), ids(given), None, 0
    ).abstaining
    for one in found:
        assert (one.answered.value, one.answered.low, one.accuracy) == (0.0, 0.0, None)
        unseen = one.answered.high
        assert one.expected.value == pytest.approx(one.cost)
        wanted = (one.cost * (1 - unseen), one.cost + (1 - one.cost) * unseen)
        assert (one.expected.low, one.expected.high) == pytest.approx(wanted)


def test_a_plan_evaluates_every_item_once_by_a_head_that_has_not_seen_it() -> None:
    given, _ = classes(103)
    plan = plan_splits(given, 0, 0)
    assert sorted(np.concatenate(plan.test)) == list(range(103))
    assert len(plan.test) == 5
    for held, train in zip(plan.test, plan.train, strict=True):
        assert np.array_equal(train, rest(103, held))
    assert plan.estimate == "5-fold cross-validation over 103 items"


def test_the_curve_of_each_fold_grows_within_what_it_learns_from() -> None:
    given, _ = classes(200)
    plan = plan_splits(given, 0, 0)
    assert [[len(rows) for rows in size] for size in plan.curve] == [[10] * 5, [20] * 5, [40] * 5, [80] * 5]
    for size, next_size in zip(plan.curve, [*plan.curve[1:], plan.train], strict=True):
        for smaller, larger in zip(size, next_size, strict=True):
            assert np.isin(smaller, larger).all()
            assert len(np.unique(given.values[smaller])) == 3


def test_of_many_items_one_fold_alone_has_a_curve() -> None:
    given, _ = classes(2400)
    plan = plan_splits(given, 0, 0)
    assert len(plan.train) == 5
    assert [len(size) for size in plan.curve] == [1] * 4


def test_many_items_are_evaluated_by_a_fifth() -> None:
    given, _ = classes(20_005)
    plan = plan_splits(given, 0, 0)
    assert [len(held) for held in plan.test] == [4001]
    assert plan.estimate == "one split: 4,001 of 20,005 items held out"
    assert len(plan_splits(given, 3, 0).test) == 3


def test_a_class_of_one_example_is_always_trained_on_and_never_evaluated() -> None:
    given = examples(Task.CLASSIFICATION, np.array([0] * 10 + [1] * 10 + [2]), ("a", "b", "rare"))
    plan = plan_splits(given, 0, 0)
    assert 20 not in np.concatenate(plan.test)
    assert all(20 in train for train in plan.train)
    scores = np.eye(3)[given.values]
    found = evaluate.evaluate_predictions(given, Task.CLASSIFICATION, answered(given, scores), ids(given), None, 0)
    assert any("never evaluated: rare" in warning for warning in found.warnings)


def test_a_class_of_one_group_is_never_evaluated_either() -> None:
    groups = np.array([*range(20), 20, 20])
    given = examples(Task.CLASSIFICATION, np.array([0] * 10 + [1] * 10 + [2, 2]), ("a", "b", "twice"), groups=groups)
    held = np.concatenate(plan_splits(given, 0, 0).test)
    assert sorted(held) == list(range(20))


def test_one_split_keeps_groups_whole_where_its_fifth_could_not_test() -> None:
    """The largest groups, which are dealt first, hold a class each that no other group has."""
    classes, groups = np.repeat([0, 1, 2, 2], [10, 10, 3, 3]), np.repeat([0, 1, 2, 3], [10, 10, 3, 3])
    plan = plan_splits(examples(Task.CLASSIFICATION, classes, ("a", "b", "c"), groups=groups), 1, 0)
    [held], [train] = plan.test, plan.train
    assert set(classes[held]) == {2}
    assert not set(groups[held]) & set(groups[train])


def test_nothing_can_test_one_example_a_class() -> None:
    plan = plan_splits(examples(Task.CLASSIFICATION, np.arange(4), tuple("abcd")), 0, 0)
    assert (plan.test, plan.train, plan.curve) == ([], [], [])
    assert "no class has two examples" in plan.estimate


def test_items_of_several_rows_stay_whole() -> None:
    items = np.repeat(np.arange(60), 7)
    values = np.random.default_rng(0).integers(0, 5, 420)
    plan = plan_splits(examples(Task.TAGGING, values, BIO, items), 0, 0)
    for held, train in zip(plan.test, plan.train, strict=True):
        assert not np.isin(items[held], items[train]).any()
    assert plan.estimate == "5-fold cross-validation over 60 items"
    assert len(np.unique(items[plan.curve[-1][0]])) == 24


def test_groups_are_named_in_the_estimate() -> None:
    given, _ = classes(60)
    grouped = examples(Task.CLASSIFICATION, given.values, given.names, groups=np.arange(60) // 3)
    assert plan_splits(grouped, 4, 0).estimate == "4-fold cross-validation over 60 items in 20 groups"


def test_a_good_head() -> None:
    given, scores = classes(300)
    found = evaluate.evaluate_predictions(given, Task.CLASSIFICATION, answered(given, scores), ids(given), None, 0)
    figures = {figure.name: figure for figure in found.metrics}
    assert list(figures) == [
        *("accuracy", "balanced accuracy", "macro F1", "AUROC", "average precision", "log loss"),
        *(metrics.CALIBRATION_BEFORE, metrics.CALIBRATION, metrics.COVERAGE, metrics.SIZE),
    ]
    assert figures["accuracy"].value == (scores.argmax(axis=1) == given.values).mean()
    assert all(figure.low <= figure.value <= figure.high for figure in found.metrics)
    assert 0.02 < figures["accuracy"].high - figures["accuracy"].low < 0.12
    assert found.baseline[0].name == "accuracy"
    assert found.baseline[0].value < 0.45
    assert sum(map(sum, found.confusion.counts)) == 300
    assert [of.support for of in found.classes] == np.bincount(given.values).tolist()
    assert sum(one.count for one in found.calibration_after) == 300
    assert found.warnings == ()
    json.dumps(asdict(found), allow_nan=False)


def test_scaling_repairs_confidence() -> None:
    given, scores = classes(2000, sure=1.0)
    found = evaluate.evaluate_predictions(given, Task.CLASSIFICATION, answered(given, scores * 5), ids(given), None, 0)
    figures = {figure.name: figure.value for figure in found.metrics}
    assert figures[metrics.CALIBRATION_BEFORE] > 0.2
    assert figures[metrics.CALIBRATION] < 0.05
    assert found.temperature == pytest.approx(5, rel=0.15)


def test_a_calibration_error_that_rose_among_few_items_is_told_with_the_log_loss() -> None:
    """It rises in some of twenty draws of twelve items; those reports say so, and no others."""
    told = 0
    for seed in range(20):
        given, scores = classes(12, sure=1.0, seed=seed)
        found = evaluate.evaluate_predictions(given, Task.CLASSIFICATION, answered(given, scores), ids(given), None, 0)
        figures = {figure.name: figure.value for figure in found.metrics}
        rise = figures[metrics.CALIBRATION] - figures[metrics.CALIBRATION_BEFORE]
        warned = [text for text in found.warnings if "calibration error rose" in text]
        assert len(warned) == (rise >= 0.01), (rise, found.warnings)
        if warned:
            assert f", then {figures['log loss']:.3f})" in warned[0]
            assert "items say little" in warned[0]
        told += len(warned)
    assert 2 <= told < 20


def test_the_same_seed_gives_the_same_evaluation() -> None:
    given, scores = classes(120)
    first, again, other = (
        evaluate.evaluate_predictions(given, Task.CLASSIFICATION, answered(given, scores), ids(given), None, seed)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first.metrics != other.metrics


def test_the_most_confident_errors_come_first() -> None:
    given = examples(Task.CLASSIFICATION, np.arange(60) % 2, ("a", "b"))
    scores = np.eye(2)[given.values] * 4
    scores[7] = [9, 0]
    scores[10] = [0, 2]
    found = evaluate.evaluate_predictions(given, Task.CLASSIFICATION, answered(given, scores), ids(given), None, 0)
    assert [(one.id, one.truth, one.predicted) for one in found.misclassified] == [("item-7", "b", "a"), ("item-10", "a", "b")]
    assert found.misclassified[0].confidence > found.misclassified[1].confidence > 0.5


def test_a_blind_head_is_called_so() -> None:
    given, _ = classes(200)
    scores = np.random.default_rng(5).normal(size=(200, 3))
    found = evaluate.evaluate_predictions(given, Task.CLASSIFICATION, answered(given, scores), ids(given), None, 0)
    assert any("not clearly better than the baseline" in warning for warning in found.warnings)


def test_few_items_are_warned_of() -> None:
    given, scores = classes(20, many=2, sure=1.0)
    found = evaluate.evaluate_predictions(given, Task.CLASSIFICATION, answered(given, scores), ids(given), None, 0)
    assert any("label more" in warning for warning in found.warnings)
    few = examples(Task.CLASSIFICATION, np.array([0] * 30 + [1] * 4), ("many", "few"))
    found = evaluate.evaluate_predictions(few, Task.CLASSIFICATION, answered(few, np.eye(2)[few.values]), ids(few), None, 0)
    assert any("few (4)" in warning and "many" not in warning for warning in found.warnings)


def test_a_fold_that_lost_a_class_is_told() -> None:
    given = examples(Task.CLASSIFICATION, np.array([0, 0, 0, 0, 1, 1]), ("a", "b"))
    predictions = HeldOutPredictions(np.arange(6), np.eye(2)[given.values].astype(np.float32), np.array([0, 0, 1, 1, 1, 1]))
    found = evaluate.evaluate_predictions(given, Task.CLASSIFICATION, predictions, ids(given), None, 0)
    assert any("in one fold" in warning and ": b" in warning for warning in found.warnings)


def test_a_test_set_of_its_own() -> None:
    """The baseline is computed from the training items, not from the test."""
    training = examples(Task.CLASSIFICATION, np.array([0] * 9 + [1]), ("a", "b"))
    test = examples(Task.CLASSIFICATION, np.array([1] * 30 + [0] * 10), ("a", "b"))
    predictions = HeldOutPredictions(np.arange(40), np.eye(2)[test.values].astype(np.float32), np.zeros(40, int))
    found = evaluate.evaluate_predictions(test, Task.CLASSIFICATION, predictions, ids(test), training, 0)
    assert (found.metrics[0].value, found.baseline[0].value) == (1.0, 0.25)


def test_a_training_score_is_refused() -> None:
    given, scores = classes(50)
    predictions = HeldOutPredictions(np.arange(50), scores.astype(np.float32), np.zeros(50, int))
    with pytest.raises(TopworkError, match="evaluated on"):
        evaluate.evaluate_predictions(given, Task.CLASSIFICATION, predictions, ids(given), None, 0)


def test_multi_label() -> None:
    random = np.random.default_rng(0)
    values = (random.random((200, 3)) < [0.5, 0.3, 0.1]).astype(np.float32)
    scores = random.normal(size=(200, 3)) + 4 * values - 2
    given = examples(Task.MULTI_LABEL, values, ("a", "b", "c"))
    found = evaluate.evaluate_predictions(given, Task.MULTI_LABEL, answered(given, scores), ids(given), None, 0)
    assert [figure.name for figure in found.metrics][:5] == [
        "macro F1",
        "micro F1",
        "subset accuracy",
        "AUROC",
        "average precision",
    ]
    assert found.confusion is None
    assert sum(one.count for one in found.calibration_before) == 600
    assert {"none"} <= {one.truth for one in found.misclassified} | {one.predicted for one in found.misclassified}
    json.dumps(asdict(found), allow_nan=False)


def test_regression_with_its_band() -> None:
    random = np.random.default_rng(0)
    values = random.normal(50, 10, (2000, 1)).astype(np.float32)
    noise = random.normal(0, 2, (2000, 1))
    given = examples(Task.REGRESSION, values, ())
    found = evaluate.evaluate_predictions(given, Task.REGRESSION, answered(given, values + noise), ids(given), None, 0)
    assert found.interval == pytest.approx(2 * 1.645, rel=0.06)
    assert len(found.scatter) == 1000
    assert found.misclassified[0].confidence == pytest.approx(np.abs(noise).max(), rel=1e-3)
    assert {figure.name: figure.value for figure in found.baseline}["R2"] == pytest.approx(0, abs=0.01)
    assert (found.temperature, found.calibration_before) == (1.0, ())


def test_the_band_is_the_residual_of_its_rank() -> None:
    """Of 19 residuals 1 .. 19 the 18th: ceil(0.9 * 20)."""
    given = examples(Task.REGRESSION, np.zeros((19, 1), np.float32), ())
    predictions = HeldOutPredictions(np.arange(19), np.arange(1, 20, dtype=np.float32)[:, None], np.arange(19) % 5)
    assert evaluate.evaluate_predictions(given, Task.REGRESSION, predictions, ids(given), None, 0).interval == 18


def test_tagging() -> None:
    truth = np.tile([0, 1, 2, 0, 3, 0], 40)
    items = np.repeat(np.arange(40), 6)
    predicted = truth.copy()
    predicted[8] = 0  # the first entity of the second item ends too soon
    given = examples(Task.TAGGING, truth, BIO, items)
    found = evaluate.evaluate_predictions(given, Task.TAGGING, answered(given, 5 * np.eye(5)[predicted]), ids(given), None, 0)
    assert found.metrics[0].value == pytest.approx(2 * 79 / 160)
    assert [(of.name, of.support) for of in found.classes] == [("PER", 40), ("LOC", 40)]
    assert [(one.id, one.truth, one.predicted) for one in found.misclassified] == [
        ("item-1", "PER 1-3, LOC 4-5", "PER 1-2, LOC 4-5")
    ]
    assert found.baseline[0].value == 0
    json.dumps(asdict(found), allow_nan=False)


def test_question_answering() -> None:
    items = np.repeat(np.arange(30), 8)
    values = np.zeros((240, 2), np.float32)
    first = 8 * np.arange(30) + np.arange(30) % 5
    values[first, 0] = values[first + 1, 1] = 1
    scores = 9.0 * values
    scores[first[0], 0] = -9
    given = examples(Task.QUESTION_ANSWERING, values, (), items)
    found = evaluate.evaluate_predictions(given, Task.QUESTION_ANSWERING, answered(given, scores), ids(given), None, 0)
    assert [(figure.name, figure.value > 0.95) for figure in found.metrics] == [("F1", True), ("exact match", True)]
    assert [(one.id, one.truth) for one in found.misclassified] == [("item-0", "0-2")]
    assert found.baseline[1].value == pytest.approx(6 / 30)
    assert found.temperature == 1.0


def test_segmentation() -> None:
    random = np.random.default_rng(0)
    items, values = np.repeat(np.arange(40), 16), random.integers(0, 3, 640)
    scores = random.normal(size=(640, 3)) + 3 * np.eye(3)[values]
    scores[:16] = 9 * np.eye(3)[(values[:16] + 1) % 3]
    given = examples(Task.SEGMENTATION, values, ("sky", "sea", "sand"), items)
    found = evaluate.evaluate_predictions(given, Task.SEGMENTATION, answered(given, scores), ids(given), None, 0)
    assert found.metrics[0].name == "mean IoU"
    assert found.misclassified[0].id == "item-0"
    assert found.misclassified[0].confidence > 0.9
    assert "sky" in found.misclassified[0].truth


def test_many_classes_are_confused_as_others() -> None:
    given, scores = classes(600, many=40, sure=2.0)
    found = evaluate.evaluate_predictions(given, Task.CLASSIFICATION, answered(given, scores), ids(given), None, 0)
    assert found.confusion is not None
    assert len(found.confusion.names) == report_tables.MOST_CONFUSED
    assert found.confusion.names[-1] == report_tables.OTHERS
    assert sum(map(sum, found.confusion.counts)) == 600
    assert len(found.classes) == 40


@pytest.mark.parametrize("task", [task for task in LEARNED if task.target not in (Target.SPAN, Target.BOXES, Target.VECTORS)])
def test_the_main_figure_is_that_of_the_evaluation(task: Task) -> None:
    random = np.random.default_rng(0)
    values: Array = random.integers(0, 5, 200)
    if task.target is Target.LABELS:
        values = (random.random((200, 5)) < 0.4).astype(np.float32)
    if task.target is Target.NUMBERS:
        values = random.normal(size=(200, 1)).astype(np.float32)
    outputs = 1 if task.target is Target.NUMBERS else 5
    given = examples(task, values, BIO, np.arange(200) // 4 if task.every_row else None)
    predictions = answered(given, random.normal(size=(200, outputs)))
    main = evaluate.main_metric(given, task, predictions, 0)
    assert main.name == metrics.MAIN_METRIC[task]
    assert main == evaluate.evaluate_predictions(given, task, predictions, ids(given), None, 0).metrics[0]


def test_detection() -> None:
    """Every box of class a is found exactly, of b one of two, beside one of a that is none: known by hand."""
    boxes = [[(0, 0, 0, 1, 1)], [(1, 1, 0, 2, 1)], [(0, 0, 0, 2, 1), (1, 1, 0, 2, 1)], []]
    found = [[(0, 0, 0, 1, 1)], [], [(0, 0, 0, 2, 1), (1, 1, 0, 2, 1)], [(0, 0, 0, 1, 1)]]
    values, scores = np.full((8, 5), -1, np.float32), np.full((8, 2 + 4), -9, np.float32)
    for at, (truth, mine) in enumerate(zip(boxes, found, strict=True)):
        values[2 * at : 2 * at + len(truth)] = np.array(truth, np.float32).reshape(-1, 5)
        for label, x0, y0, x1, y1 in mine:
            cell = label
            scores[2 * at + cell, label] = 2.0 if at < 3 else 1.0
            scores[2 * at + cell, 2:] = (cell + 0.5 - x0, 0.5 - y0, x1 - cell - 0.5, y1 - 0.5)
    items = np.repeat(np.arange(4), 2)
    given = replace(examples(Task.DETECTION, values, ("a", "b"), items), grid=(1, 2))
    predictions = answered(given, scores, 2)
    judged = evaluate.evaluate_predictions(given, Task.DETECTION, predictions, ids(given), None, 0)
    values_of = {metric.name: metric.value for metric in judged.metrics}
    assert list(values_of) == ["mAP", "mAP at .5", "box F1", "AP of a", "AP of b"]
    assert values_of["AP of a"] == pytest.approx(1)
    assert values_of["AP of b"] == pytest.approx(51 / 101)
    assert values_of["mAP"] == values_of["mAP at .5"] == pytest.approx((1 + 51 / 101) / 2)
    assert values_of["box F1"] == pytest.approx(2 * 3 / (4 + 3)), "from the score on that leaves the box that is none out"
    assert judged.min_score == pytest.approx(1 / (1 + np.exp(-2)))
    assert [(of.name, of.support, of.precision, of.recall) for of in judged.classes] == [("a", 2, 1, 1), ("b", 2, 1, 0.5)]
    assert judged.baseline[1].value < values_of["mAP at .5"]
    assert judged.misclassified == ()
    assert evaluate.main_metric(given, Task.DETECTION, predictions, 0) == judged.metrics[0]


def test_a_difference_is_paired() -> None:
    """Two heads that differ on 10 of 200 items: the interval of their difference is far shorter than either's own."""
    given, scores = classes(200, sure=1.5)
    better = scores.copy()
    mistaken = np.flatnonzero(scores.argmax(axis=1) != given.values)[:10]
    better[mistaken] = 9 * np.eye(3)[given.values[mistaken]]
    a, b = answered(given, better), answered(given, scores)
    gain = evaluate.metric_difference(given, Task.CLASSIFICATION, a, b, 0)
    assert (gain.name, gain.value) == ("accuracy", pytest.approx(10 / 200))
    assert 0 < gain.low < gain.value < gain.high
    own = evaluate.main_metric(given, Task.CLASSIFICATION, b, 0)
    assert gain.high - gain.low < (own.high - own.low) * 0.6
    nothing = evaluate.metric_difference(given, Task.CLASSIFICATION, a, a, 0)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_a_difference_is_of_the_rows_that_both_were_asked() -> None:
    given, scores = classes(100)
    whole = answered(given, scores)
    part = HeldOutPredictions(whole.rows[:50], whole.scores[:50], whole.folds[:50])
    assert evaluate.metric_difference(given, Task.CLASSIFICATION, whole, part, 0).value == 0


def test_scores_that_are_no_numbers_are_refused() -> None:
    given, scores = classes(50)
    scores[3, 1] = np.nan
    with pytest.raises(TopworkError, match="not finite"):
        evaluate.evaluate_predictions(given, Task.CLASSIFICATION, answered(given, scores), ids(given), None, 0)


def test_rankings_of_few_groups_take_no_more_memory_than_others() -> None:
    """Each of 1,000 resamples of three groups is a weight for each of 8,000 rows: held at once they took 350 MB, and more with
    more rows."""
    given, scores = classes(8000, 2)
    given = examples(Task.CLASSIFICATION, given.values, given.names, groups=np.arange(8000) % 3)
    tracemalloc.start()
    found = evaluate.evaluate_predictions(given, Task.CLASSIFICATION, answered(given, scores, 3), ids(given), None, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "AUROC" in {figure.name for figure in found.metrics}
    assert peak < 220e6


def test_nothing_held_out_is_told() -> None:
    given, _ = classes(50)
    with pytest.raises(TopworkError, match="nothing to evaluate"):
        evaluate.main_metric(
            given, Task.CLASSIFICATION, HeldOutPredictions(np.zeros(0, int), np.zeros((0, 3)), np.zeros(0, int)), 0
        )
