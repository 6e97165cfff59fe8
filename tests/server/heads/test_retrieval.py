"""Recall of held-out captions and items: by hand, of folds, of equal captions, ties, chance and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_server.errors import TopworkError
from topwork_server.heads.evaluation.evaluation_data import HeldOutPredictions
from topwork_server.heads.evaluation.retrieval import evaluate_retrieval, main_recall
from topwork_server.plugin_api.trainer import Examples, FeatureView, Target


def examples(values: np.ndarray, groups: np.ndarray | None = None) -> Examples:
    items = np.arange(len(values))
    view = FeatureView("pooled", "row", np.zeros((len(values), 1), np.float32))
    return Examples((view,), Target.VECTORS, (), values.astype(np.float32), items, items if groups is None else groups)


def held_out(scores: np.ndarray, folds: np.ndarray | None = None) -> HeldOutPredictions:
    rows = np.arange(len(scores))
    return HeldOutPredictions(rows, scores.astype(np.float32), np.zeros(len(scores), int) if folds is None else folds)


def recalls(*args, seed: int = 0) -> tuple[dict[str, float], dict[str, float]]:
    found = evaluate_retrieval(*args, seed)
    return tuple({one.name: one.value for one in metrics} for metrics in (found.metrics, found.baseline))


def test_ranks_are_counted_in_both_directions() -> None:
    """Item 0 lies at the caption of item 1, which takes the first place of both searches that should find it."""
    scores = np.eye(12)
    scores[0] = 0.9 * np.eye(12)[1] + 0.4 * np.eye(12)[0]
    found, chance = recalls(examples(np.eye(12)), held_out(scores))
    assert found["recall at 1 by item"] == pytest.approx(11 / 12)
    assert found["recall at 1 by text"] == 1
    assert found["recall at 1"] == pytest.approx(23 / 24)
    assert found["recall at 5"] == 1
    assert chance["recall at 5"] == pytest.approx(5 / 12)


def test_a_map_to_one_point_finds_nothing() -> None:
    """All cosines are equal: the wrong ones come first."""
    found, _ = recalls(examples(np.eye(12)), held_out(np.ones((12, 12))))
    assert set(found.values()) == {0}


def test_equal_captions_are_one_and_any_item_of_theirs_is_right() -> None:
    captions = np.eye(12)[np.arange(24) // 2]
    scores = captions.copy()
    scores[::2] = -scores[::2]  # the second item of each caption is found
    found, chance = recalls(examples(captions, np.arange(24) // 2), held_out(scores))
    assert found["recall at 1 by text"] == 1
    assert found["recall at 1 by item"] == 0.5
    assert chance["recall at 1 by item"] == pytest.approx(1 / 12)
    assert chance["recall at 1 by text"] == pytest.approx(2 / 24)


def test_each_fold_searches_what_was_held_out_with_it() -> None:
    """The first and the second half have the same vectors: they would be mistaken for each other."""
    captions = np.eye(24)
    scores = np.eye(24)[np.arange(24) % 12] + np.eye(24)[np.arange(24) % 12 + 12]
    apart, _ = recalls(examples(captions), held_out(scores, np.arange(24) // 12))
    together, _ = recalls(examples(captions), held_out(scores))
    assert apart["recall at 1"] == 1
    assert together["recall at 1"] == 0


def test_intervals_are_of_groups_and_hold_the_value() -> None:
    random = np.random.default_rng(0)
    captions = random.standard_normal((200, 8))
    captions /= np.linalg.norm(captions, axis=1, keepdims=True)
    scores = captions + 0.5 * random.standard_normal((200, 8))
    alone = main_recall(examples(captions), held_out(scores), 0)
    grouped = main_recall(examples(captions, np.arange(200) // 20), held_out(scores), 0)
    assert alone.name == "recall at 5"
    assert alone.value == grouped.value
    assert 0.05 < alone.high - alone.low < 0.25
    assert grouped.low < alone.value < grouped.high
    assert not evaluate_retrieval(examples(captions), held_out(scores), 0).warnings


def test_what_is_no_better_than_chance_is_warned_of() -> None:
    random = np.random.default_rng(0)
    [warning] = evaluate_retrieval(examples(np.eye(40)), held_out(random.standard_normal((40, 40))), 0).warnings
    assert "chance" in warning


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(TopworkError, match="finite"):
        main_recall(examples(np.eye(12)), held_out(np.full((12, 12), np.nan)), 0)
