"""What rows count for: a whole weight is as good as so many copies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from topwork_plugins.few_shot.prototype import PrototypeTrainer
from topwork_plugins.linear.plugin import LinearTrainer
from topwork_server import Examples, FeatureView, Target
from topwork_server.testing.problems import problem
from topwork_server.types import Array


def weighed(target: Target, rows: int) -> tuple[Examples, Examples]:
    """A problem whose rows have whole weights, and the same with each as often as it weighs. All are of one group, so that both
    learn with the settings that nothing has judged: folds of copies are others."""
    made = problem(target, rows, dim=12)
    made = replace(made, groups=np.zeros(made.count, np.int64), unlabeled=())
    often = np.random.default_rng(3).integers(1, 5, int(made.items.max()) + 1)
    parts = [np.flatnonzero(made.items == item) for item in np.repeat(np.arange(len(often)), often)]
    copies = np.concatenate(parts)
    items = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    view = FeatureView("pooled", "row", made.views[0].rows[copies])
    repeated = replace(made, views=(view,), values=made.values[copies], items=items, groups=made.groups[copies])
    return replace(made, weights=often[made.items].astype(np.float32)), repeated


def scores(trainer: type, examples: Examples, rows: Array, options: dict[str, Any]) -> Array:
    subset = np.arange(examples.count)
    [head] = trainer.fit(examples, [subset], trainer.options(**options), 0, 1, lambda done, words: None)
    return np.asarray(head.scores(rows))


@pytest.mark.parametrize("rows", [10, 80])
@pytest.mark.parametrize(
    ("trainer", "target", "options"),
    [
        *((LinearTrainer, Target.CLASSES, {"model": model}) for model in ("discriminant", "logistic", "ridge")),
        (LinearTrainer, Target.CLASSES, {"model": "logistic", "class_weight": "balanced", "standardize": "always"}),
        (LinearTrainer, Target.LABELS, {"model": "logistic"}),
        (LinearTrainer, Target.LABELS, {"model": "ridge"}),
        (LinearTrainer, Target.NUMBERS, {}),
        (LinearTrainer, Target.SPAN, {}),
        (PrototypeTrainer, Target.CLASSES, {}),
        (PrototypeTrainer, Target.LABELS, {"center": False}),
    ],
)
def test_a_whole_weight_is_as_good_as_copies(trainer: type, target: Target, options: dict[str, Any], rows: int) -> None:
    given, repeated = weighed(target, max(rows, 24) if target is Target.SPAN else rows)
    new = problem(target, 40, dim=12, seed=1).views[0].rows
    found, expected = (scores(trainer, examples, new, options) for examples in (given, repeated))
    np.testing.assert_allclose(found, expected, atol=3e-3 * np.abs(expected).max())
    plain = scores(trainer, replace(given, weights=None), new, options)
    assert np.abs(plain - expected).max() > 6e-3 * np.abs(expected).max()


def test_fewer_rows_take_their_weights_along() -> None:
    given, _ = weighed(Target.CLASSES, 20)
    assert given.weights is not None
    assert given.take(np.array([2, 5])).counted.tolist() == given.weights[[2, 5]].tolist()
