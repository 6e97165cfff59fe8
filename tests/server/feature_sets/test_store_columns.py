"""Metadata: every type comes back, columns grow, and values of another type change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sample_batches import POOLED, block, everything, hold, rows, wanted
from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Column, ColumnType, ItemBatch, Selection

VALUES: dict[ColumnType, list[Any]] = {
    ColumnType.BOOL: [True, None, False],
    ColumnType.INT: [-(2**63), None, 2**63 - 1],
    ColumnType.FLOAT: [0.1, None, 1e300],
    ColumnType.STRING: ["", None, "naïve \0 text"],
    ColumnType.TIME: [-1, None, 1_700_000_000_000_001],
    ColumnType.STRINGS: [[], None, ["a", "b"]],
}


@pytest.fixture
def birds(tmp_path: Path) -> Iterator[FeatureSet]:
    sets = FeatureSets(tmp_path / "sets")
    yield sets.create(wanted())
    sets.close()


def with_column(ids: list[str], type: ColumnType, values: list[Any], name: str = "column") -> ItemBatch:
    return ItemBatch(ids, (rows(POOLED, [1] * len(ids)),), (Column(name, type, values),))


@pytest.mark.parametrize("type", list(ColumnType))
def test_every_type_comes_back(birds: FeatureSet, type: ColumnType) -> None:
    birds.write(with_column(["a", "b", "c"], type, VALUES[type])).result()
    assert birds.describe().columns == {"column": type}
    (got,) = birds.read(Selection()).batches
    assert got.metadata == (Column("column", type, VALUES[type]),)
    assert birds.stored_items(["c"])["c"].metadata == {"column": VALUES[type][2]}


@pytest.mark.parametrize("given", list(ColumnType))
@pytest.mark.parametrize("stored", list(ColumnType))
def test_another_type_changes_nothing(birds: FeatureSet, stored: ColumnType, given: ColumnType) -> None:
    birds.write(with_column(["a"], stored, VALUES[stored][:1])).result()
    before = birds.version
    sent = with_column(["b"], given, VALUES[given][:1])
    if (given, stored) == (ColumnType.INT, ColumnType.FLOAT):
        birds.write(sent).result()
        assert everything(birds)["b"]["column"] == float(VALUES[given][0])
    elif (given, stored) == (ColumnType.FLOAT, ColumnType.INT):
        birds.write(sent).result()
        assert [item["column"] for item in everything(birds).values()] == [float(VALUES[stored][0]), VALUES[given][0]]
        stored = ColumnType.FLOAT
    elif given is not stored:
        with pytest.raises(InvalidInput, match=f"'column' holds {stored.value}, and values of {given.value}"):
            birds.write(sent)
        assert (birds.version, list(everything(birds))) == (before, ["a"])
    # Where nothing has a value, nothing has another type.
    birds.write(with_column(["c"], given, [None])).result()
    assert everything(birds)["c"]["column"] is None
    assert birds.describe().columns == {"column": stored}


def test_columns_grow_and_older_rows_have_none(birds: FeatureSet) -> None:
    birds.write(block(["a"], year=[1])).result()
    birds.write(block(["b"], label=["x"], tags=[["y"]])).result()
    birds.write(block(["c"])).result()
    told = {id: {k: v for k, v in item.items() if k != "rows"} for id, item in everything(birds).items()}
    assert told == {
        "a": {"year": 1, "label": None, "tags": None},
        "b": {"year": None, "label": "x", "tags": ["y"]},
        "c": {"year": None, "label": None, "tags": None},
    }


def test_an_upsert_replaces_all_of_an_item(birds: FeatureSet) -> None:
    birds.write(block(["a"], year=[1], label=["x"])).result()
    birds.write(block(["a"], year=[2])).result()
    item = everything(birds)["a"]
    assert (item["year"], item["label"]) == (2, None)


def test_a_column_has_one_spelling(birds: FeatureSet) -> None:
    birds.write(block(["a"], Year=[1])).result()
    with pytest.raises(InvalidInput, match=r"'year'.*has 'Year'"):
        birds.write(block(["b"], year=[1]))


def test_of_two_that_grow_one_column_the_second_is_told(birds: FeatureSet) -> None:
    """Neither knew of the other when it was queued; a third, between them, is none the worse."""
    release = hold(birds)
    first = birds.write(block(["a"], year=[1]))
    second = birds.write(block(["b"], year=["x"]))
    third = birds.write(block(["c"], year=[3]))
    release()
    assert (first.result().inserted, third.result().inserted) == (1, 1)
    assert first.result().version == third.result().version
    with pytest.raises(InvalidInput, match="'year' holds int, and values of string"):
        second.result()
    assert sorted(everything(birds)) == ["a", "c", "held"]
