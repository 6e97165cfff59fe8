"""The examples that a fine-tuned head is evaluated on."""

from __future__ import annotations

import numpy as np
from topwork_server import Examples, FineTuneDataset, Granularity, Tap, Target
from topwork_server.heads.head_types import Task
from topwork_server.heads.training.dataset import TrainingDataset
from topwork_server.heads.training.fine_tuning import _examples, _groups
from topwork_server.heads.training.labels import LabelColumn

IDS = tuple("abcdef")


def test_what_evaluates_is_resampled_by_groups() -> None:
    """Items d and f are of one group, which has been left out of training whole: they are not two opinions."""
    counts, groups = np.array([2, 1, 1, 2, 1, 3]), np.array([0, 0, 1, 2, 1, 2])
    items = np.repeat(np.arange(6), counts)
    values = np.arange(10) % 2
    examples = Examples((), Target.CLASSES, ("x", "y"), values, items, groups[items])
    kept = np.array([0, 2, 3, 4, 5])  # the input of b is gone
    rows = np.isin(items, kept)
    given = FineTuneDataset(
        items=[None] * 5,  # type: ignore[list-item]
        options=None,
        tap=Tap("tokens", 4, Granularity.TOKEN),
        pooling="rows",
        target=Target.CLASSES,
        names=("x", "y"),
        values=values[rows],
        counts=counts[kept],
        train=np.array([0]),
        validation=np.array([1, 3]),
        test=np.array([2, 4]),
    )
    data = TrainingDataset(LabelColumn(Task.TAGGING, ("x", "y"), [None] * 6, np.ones(6, bool)), examples, IDS)
    ids = [IDS[i] for i in kept]
    test = _examples(given, given.test, _groups(data, ids))
    assert test.groups.tolist() == [2] * 5
    assert test.items.tolist() == [0, 0, 1, 1, 1]
    assert _groups(data, ids).tolist() == [0, 1, 2, 1, 2]


def test_groups_of_a_test_set_are_its_own() -> None:
    training, test = (Examples((), Target.CLASSES, ("x",), np.zeros(2), np.arange(2), np.array(g)) for g in ([0, 1], [0, 0]))
    data = TrainingDataset(
        LabelColumn(Task.CLASSIFICATION, ("x",), [0, 0], np.ones(2, bool)), training, ("a", "b"), test, ("c", "d")
    )
    assert _groups(data, ["a", "b", "c", "d"]).tolist() == [0, 1, 0, 0]
