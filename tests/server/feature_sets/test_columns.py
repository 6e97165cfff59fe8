"""Changes of columns that end halfway: what was there is there, and what was prepared is not seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from passes import of_set
from sample_batches import POOLED, rows, wanted
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.feature_sets.column_changes import TEMPORARY_PREFIX
from topwork_server.feature_sets.commit import CommitWriter
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.latest_version import VersionView
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Column, ColumnType, ItemBatch, Selection

STEPS = ["adding", "filling", "swapping", "dropping"]


def made(folder: Path) -> FeatureSet:
    made = FeatureSets(folder).create(wanted())
    for start in (0, 3):
        ids = [str(start + i) for i in range(3)]
        made.write(ItemBatch(ids, (rows(POOLED, [1] * 3),), (Column("n", ColumnType.INT, [1, 2, None]),))).result()
    return made


def values(feature_set: FeatureSet, name: str = "n") -> list[object]:
    return [value for block in feature_set.read(Selection(taps=(), columns=[name])).batches for value in block.metadata[0].values]


@pytest.mark.parametrize("step", STEPS)
def test_a_cast_that_ends_halfway_leaves_one_of_the_two_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    birds = made(tmp_path)
    left = STEPS.index(step)
    renew = CommitWriter.replace_dataset

    def failing(writer: CommitWriter, make: Callable[[VersionView], Any], doing: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise TopworkError("the disk went")
        renew(writer, make, doing)

    monkeypatch.setattr(CommitWriter, "replace_dataset", failing)
    with pytest.raises(TopworkError, match="the disk went"):
        birds.cast_column("n", ColumnType.FLOAT)
    monkeypatch.undo()
    birds.close()
    again = FeatureSets(tmp_path).get(of_set("birds"))
    expected = ColumnType.FLOAT if step == "dropping" else ColumnType.INT
    assert again.describe().columns == {"n": expected}
    assert values(again) == [1, 2, None] * 2
    again.add_column("m", ColumnType.INT)
    assert not [name for name in again._current.view.dataset.schema.names if name.startswith(TEMPORARY_PREFIX)]
    assert values(again) == [1, 2, None] * 2


def test_writes_that_share_a_commit_widen_a_column_for_each_other(tmp_path: Path) -> None:
    """Whole numbers, then others, of a column that none of them finds there."""
    birds = FeatureSets(tmp_path).create(wanted())
    gate = Event()
    birds.add_listener(lambda change: gate.wait(20) and None)
    first = birds.write(ItemBatch(["0"], (rows(POOLED, [1]),)))
    rest = [
        birds.write(ItemBatch([str(i)], (rows(POOLED, [1]),), (Column("n", type, [value]),)))
        for i, (type, value) in enumerate(
            [(ColumnType.INT, 1), (ColumnType.FLOAT, 2.5), (ColumnType.INT, 3), (ColumnType.STRING, "x")], 1
        )
    ]
    gate.set()
    assert first.result().inserted == 1
    assert [future.result().inserted for future in rest[:3]] == [1, 1, 1]
    with pytest.raises(InvalidInput, match="holds float"):
        rest[3].result()
    assert values(birds) == [None, 1.0, 2.5, 3.0]
    assert birds.describe().columns == {"n": ColumnType.FLOAT}
