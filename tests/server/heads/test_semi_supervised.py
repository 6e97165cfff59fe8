"""unlabeled.py: rows without a label teach, those that are held out never do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from topwork_server.errors import InvalidInput
from topwork_server.heads.head_types import UnlabeledUse
from topwork_server.heads.training import semi_supervised
from topwork_server.heads.training.semi_supervised import (
    NeighborPropagation,
    confident_rows,
    fit_semi_supervised,
    groups_of,
    joined,
    nearest,
)
from topwork_server.inference.output_format import normalize
from topwork_server.plugin_api.trainer import Examples, FeatureView, Target
from toys_trainers import NearestMean, Shrinking

METHODS = [UnlabeledUse.SELF_TRAINING, UnlabeledUse.LABEL_PROPAGATION]


def quiet(fraction, message):
    assert 0 <= fraction <= 1


def clusters(count, seed, dim=16, classes=3, spread=1.2):
    centers = 1.2 * np.random.default_rng(1).normal(size=(classes, dim))
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    return (centers[labels] + spread * random.normal(size=(count, dim))).astype(np.float32), labels


def problem(labeled=12, free=600, seed=0):
    rows, labels = clusters(labeled, seed)
    labels[:3] = [0, 1, 2]
    rows[:3] = clusters(600, seed + 50)[0][[np.flatnonzero(clusters(600, seed + 50)[1] == c)[0] for c in range(3)]]
    more, _ = clusters(free, seed + 100)
    items = np.arange(labeled)
    views = (
        FeatureView("noise", "row", np.random.default_rng(3).normal(size=(labeled, 4)).astype(np.float32)),
        FeatureView("t", "row", rows),
    )
    without = (FeatureView("noise", "row", np.zeros((free, 4), np.float32)), FeatureView("t", "row", more))
    return Examples(views[1:], Target.CLASSES, ("a", "b", "c"), labels, items, items, without[1:])


def fit(examples, subsets, method):
    return fit_semi_supervised(NearestMean, examples, subsets, Shrinking(), 0, 1, quiet, method)


def accuracy(head, seed=999):
    rows, labels = clusters(2000, seed)
    return float((head.scores(rows).argmax(axis=1) == labels).mean())


@pytest.mark.parametrize("method", METHODS)
def test_unlabeled_rows_help_where_they_lie_in_clusters(method):
    gains = []
    for seed in range(5):
        examples = problem(6, seed=seed)
        subset = np.arange(6)
        (plain,) = NearestMean.fit(examples, [subset], Shrinking(), 0, 1, quiet)
        (head,), (used,) = fit(examples, [subset], method)
        assert used > 100
        gains.append(accuracy(head) - accuracy(plain))
    assert np.mean(gains) > 0.03
    assert min(gains) > -0.02


@pytest.mark.parametrize("method", METHODS)
def test_rows_outside_of_a_subset_are_never_looked_at(method):
    examples = problem(30)
    subset = np.arange(0, 30, 2)
    (head,), used = fit(examples, [subset], method)
    spoilt = replace(
        examples, views=(replace_rows(examples.views[0], 1),), values=np.where(np.arange(30) % 2, 0, examples.values)
    )
    (again,), used_again = fit(spoilt, [subset], method)
    assert used == used_again
    np.testing.assert_array_equal(head.weight, again.weight)
    np.testing.assert_array_equal(head.bias, again.bias)


def replace_rows(view, start):
    rows = view.rows.copy()
    rows[start::2] = np.nan
    return FeatureView(view.tap, view.pooling, rows)


@pytest.mark.parametrize("method", METHODS)
def test_subsets_are_trained_as_if_alone_and_always_alike(method):
    examples = problem(30)
    subsets = [np.arange(20), np.arange(10, 30), np.arange(30)]
    heads, used = fit(examples, subsets, method)
    assert len(heads) == len(used) == 3
    again, used_again = fit(examples, subsets, method)
    assert used == used_again
    for subset, head, same in zip(subsets, heads, again, strict=True):
        np.testing.assert_array_equal(head.weight, same.weight)
        (alone,), _ = fit(examples, [subset], method)
        np.testing.assert_array_equal(head.weight, alone.weight)


@pytest.mark.parametrize("method", METHODS)
def test_only_classes_and_only_with_unlabeled_rows(method):
    examples = problem()
    with pytest.raises(InvalidInput, match=f"{method.value} is for classes, not for labels"):
        fit(replace(examples, target=Target.LABELS), [np.arange(12)], method)
    for without in ((), (FeatureView("t", "row", np.zeros((0, 16), np.float32)),)):
        with pytest.raises(InvalidInput, match=f"no unlabeled item for {method.value}"):
            fit(replace(examples, unlabeled=without), [np.arange(12)], method)


def test_the_sure_are_taken_an_equal_share_a_class():
    probabilities = np.array([[0.95, 0.05]] * 6 + [[0.99, 0.01]] * 2 + [[0.08, 0.92]] + [[0.6, 0.4]])
    positions, classes = confident_rows(probabilities, 0.9)
    assert positions.tolist() == [0, 1, 2, 6, 7, 8], "9 are sure, so 5 of each class at most, the surest first"
    assert classes.tolist() == [0, 0, 0, 0, 0, 1]
    positions, classes = confident_rows(np.full((4, 3), 1 / 3), 0.5)
    assert len(positions) == len(classes) == 0


def test_none_is_sure_and_nothing_changes(monkeypatch):
    monkeypatch.setattr(semi_supervised, "SURE", 1.1)
    monkeypatch.setattr(semi_supervised, "SURE_SHARE", 1.1)
    examples = problem()
    (plain,) = NearestMean.fit(examples, [np.arange(12)], Shrinking(), 0, 1, quiet)
    for method in METHODS:
        (head,), used = fit(examples, [np.arange(12)], method)
        assert used == [0]
        np.testing.assert_array_equal(head.weight, plain.weight)


def test_pseudo_labeled_rows_are_items_of_their_own():
    examples = replace(problem(5, 4), groups=np.array([0, 0, 7, 7, 9]))
    both = joined(examples, np.array([1, 3]), (np.array([0, 2]), np.array([2, 0])), *groups_of(examples))
    np.testing.assert_array_equal(both.views[0].rows, [*examples.views[0].rows[[1, 3]], *examples.unlabeled[0].rows[[0, 2]]])
    assert both.values.tolist() == [*examples.values[[1, 3]], 2, 0]
    assert both.items.tolist() == [1, 3, 4, 5]
    assert len(set(both.groups.tolist())) == 4
    assert both.unlabeled == ()


def test_a_pseudo_labeled_copy_stays_with_the_row_that_it_copies():
    examples = problem(5, 4)
    free = examples.unlabeled[0].rows.copy()
    free[2] = examples.views[0].rows[3]
    examples = replace(examples, unlabeled=(replace(examples.unlabeled[0], rows=free),))
    both = joined(examples, np.array([1, 3]), (np.array([0, 2]), np.array([2, 0])), *groups_of(examples))
    assert both.groups[1] == both.groups[3]
    assert len(set(both.groups.tolist())) == 3


@pytest.mark.parametrize("block", [50, 1 << 24])
def test_neighbors_are_the_nearest_and_never_oneself(monkeypatch, block):
    monkeypatch.setattr(semi_supervised, "BLOCK", block)
    rows = normalize(clusters(40, 0)[0])
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -2)
    found, positions = nearest(rows, rows, 5, itself=True)
    np.testing.assert_allclose(np.sort(found, axis=1), np.sort(cosines, axis=1)[:, -5:], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(cosines, positions, 1), found, atol=1e-6)
    assert nearest(rows[:1], rows[:1], 5, itself=True)[0].shape == (1, 0)
    assert nearest(rows[:1], rows[:3], 5)[0].shape == (1, 3)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_spread_is_what_the_closed_form_says(count):
    rows, _ = clusters(50, 4)
    mine, free = rows[:count], rows[count:]
    unit = normalize(rows)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    weights = np.zeros((50, 50))
    for i in range(50):
        for j in np.argsort(-cosines[i], kind="stable")[:6]:
            weights[i, j] = weights[j, i] = max(cosines[i, j], 0)
    degrees = np.sqrt(weights.sum(axis=1))
    s = weights / np.outer(degrees, degrees)
    labels = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    exact = 0.1 * np.linalg.solve(np.eye(50) - 0.9 * s, labels)
    np.testing.assert_allclose(NeighborPropagation(free, 6).spread(mine, labels), exact, atol=0.003)
