"""Folds: disjoint, whole groups, classes and labels in proportion, the same for the same seed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from topwork_server.errors import InvalidInput
from topwork_server.plugin_api.splits import folds, rest
from topwork_server.plugin_api.trainer import Examples, Target
from topwork_server.types import Array


def examples(values: Array, target: Target = Target.CLASSES, groups: Array | None = None) -> Examples:
    rows = np.arange(len(values))
    return Examples((), target, (), values, rows, rows if groups is None else groups)


def spread(found: list[Array], values: Array) -> Array:
    """(folds, classes)"""
    return np.stack([np.bincount(values[held], minlength=values.max() + 1) for held in found])


def check(found: list[Array], given: Examples) -> None:
    together = np.concatenate(found)
    assert sorted(together) == list(range(len(given.values)))
    assert all(len(held) and np.all(np.diff(held) > 0) for held in found)
    for held in found:
        assert not np.isin(given.groups[held], given.groups[rest(len(given.values), held)]).any()


def test_classes_of_single_rows_differ_by_at_most_one() -> None:
    random = np.random.default_rng(0)
    values = random.permutation(np.repeat(np.arange(5), [1, 2, 7, 33, 160]))
    given = examples(values)
    found = folds(given, 5, 3)
    check(found, given)
    counts = spread(found, values)
    assert np.ptp(counts, axis=0).max() == 1
    assert np.ptp([len(held) for held in found]) <= 1


def test_the_seed_decides() -> None:
    values = np.arange(100) % 3
    numbers = np.random.default_rng(0).normal(size=(100, 1)).astype(np.float32)
    labels = (np.random.default_rng(1).random((100, 8)) < 0.4).astype(np.float32)
    for given in (examples(values), examples(numbers, Target.NUMBERS), examples(labels, Target.LABELS)):
        first, again, other = (folds(given, 4, seed) for seed in (1, 1, 2))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert {frozenset(held) for held in first} != {frozenset(held) for held in other}


def test_groups_stay_whole_and_classes_in_proportion() -> None:
    random = np.random.default_rng(0)
    values = np.sort(random.integers(0, 4, 900))
    given = examples(values, groups=random.integers(0, 300, 900))
    found = folds(given, 5, 0)
    check(found, given)
    assert np.ptp(spread(found, values), axis=0).max() <= 4


def test_a_few_duplicates_do_not_unbalance_the_rest() -> None:
    values = np.repeat([0, 1], 50)
    groups = np.arange(100)
    groups[1] = groups[2] = groups[0]
    given = examples(values, groups=groups)
    found = folds(given, 5, 0)
    check(found, given)
    assert np.ptp(spread(found, values), axis=0).max() <= 1


def test_tokens_split_by_sentence_with_rare_entities_spread() -> None:
    """10 of 200 sentences hold the rare class, once each: each of 5 folds gets two."""
    random = np.random.default_rng(0)
    items = np.repeat(np.arange(200), random.integers(5, 30, 200))
    values = (random.random(len(items)) < 0.2).astype(np.int64)
    first = np.searchsorted(items, np.arange(0, 200, 20))
    values[first] = 2
    given = Examples((), Target.CLASSES, (), values, items, items)
    found = folds(given, 5, 0)
    check(found, given)
    assert set(spread(found, values)[:, 2]) == {2}
    assert np.ptp([len(held) for held in found]) < 100


def test_rare_labels_are_spread() -> None:
    random = np.random.default_rng(0)
    values = (random.random((500, 10)) < np.linspace(0.01, 0.3, 10)).astype(np.float32)
    given = examples(values, Target.LABELS)
    found = folds(given, 5, 0)
    check(found, given)
    counts = np.stack([values[held].sum(axis=0) for held in found])
    assert np.ptp(counts, axis=0)[:3].max() <= 2
    assert np.ptp(counts, axis=0).max() <= 12


def test_numbers_are_spread_by_quantile() -> None:
    values = np.random.default_rng(0).exponential(size=(200, 1)).astype(np.float32)
    found = folds(examples(values, Target.NUMBERS), 5, 0)
    tenth = np.argsort(np.argsort(values[:, 0])) // 20
    assert (spread(found, tenth) == 4).all()


def test_spans_split_by_item() -> None:
    items = np.repeat(np.arange(23), 11)
    values = np.zeros((len(items), 2), np.float32)
    given = Examples((), Target.SPAN, (), values, items, items)
    found = folds(given, 5, 0)
    check(found, given)
    assert sorted(len(held) // 11 for held in found) == [4, 4, 5, 5, 5]


def test_fewer_groups_than_folds() -> None:
    given = examples(np.array([0, 0, 1, 1, 1, 0]), groups=np.array([0, 0, 1, 1, 2, 2]))
    found = folds(given, 5, 0)
    check(found, given)
    assert len(found) == 3


def test_as_many_folds_as_rows() -> None:
    given = examples(np.arange(30) % 7)
    found = folds(given, 30, 0)
    check(found, given)


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(InvalidInput, match="1 group"):
        folds(examples(np.array([0, 1]), groups=np.zeros(2, int)), 5, 0)
    with pytest.raises(InvalidInput, match="at least 2"):
        folds(examples(np.array([0, 1])), 1, 0)


def test_rest() -> None:
    assert list(rest(5, np.array([1, 3]))) == [0, 2, 4]
    assert all(low < high for low, high in pairwise(rest(9, np.array([4]))))
