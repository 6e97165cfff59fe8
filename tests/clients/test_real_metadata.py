"""Metadata changed without vectors, counted, widened, and its columns, by both clients of a real server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import topwork
from both_clients import EitherClient
from topwork.cli import main

IDS = ["a", "b", "c", "d"]
ROWS = [{"n": 1, "label": "cat"}, {"n": 2, "label": "dog"}, {"n": 3, "label": "cat"}, {"label": "7"}]


@pytest.fixture
def pets(real_both: EitherClient) -> EitherClient:
    return filled(real_both)


@pytest.fixture
def single(real_client: topwork.Client) -> topwork.Client:
    """Fill a set over one client alone, to test the server: the other client would show the same."""
    return filled(real_client)


def filled(client: Any) -> Any:
    client.write("pets", vectors=np.eye(4, dtype=np.float32), ids=IDS, metadata=ROWS)
    return client


def column(pets: Any, name: str) -> list[object]:
    return list(pets.read("pets", taps=[]).metadata[name])


def test_count(pets: EitherClient) -> None:
    assert [pets.count("pets"), pets.count("pets", "label = 'cat'"), pets.count("pets", "n > 5")] == [4, 2, 0]
    pets.pin("pets", "before")
    pets.delete("pets", where="n = 1")
    assert [pets.count("pets", where="label = 'cat'"), pets.count("pets", "label = 'cat'", version="before")] == [1, 2]
    with pytest.raises(topwork.InvalidInput, match="lable"):
        pets.count("pets", '"lable" = 1')
    with pytest.raises(topwork.NotFound):
        pets.count("pets", version=999)


def test_a_column_of_whole_numbers_widens_when_it_is_given_others(single: topwork.Client) -> None:
    single.pin("pets", "before")
    single.write("pets", vectors=np.ones((1, 4), np.float32), ids=["e"], metadata=[{"n": 1.5}])
    assert single.set("pets").columns["n"] == "float"
    assert column(single, "n") == [1.0, 2.0, 3.0, None, 1.5]
    assert [type(value) for value in column(single, "n")[:2]] == [float, float]
    assert single.read("pets", where="n > 1 AND n < 2").ids == ["e"]
    assert single.read("pets", version="before").metadata["n"] == [1, 2, 3, None]
    assert single.read("pets", version="before").column_types["n"] == "int"
    single.write("pets", vectors=np.ones((1, 4), np.float32), ids=["f"], metadata=[{"n": 9}])
    assert column(single, "n")[-1] == 9.0


def test_a_number_that_would_change_keeps_a_column_from_widening(single: topwork.Client) -> None:
    single.write("pets", vectors=np.ones((1, 4), np.float32), ids=["e"], metadata=[{"n": 2**53 + 1}])
    with pytest.raises(topwork.InvalidInput, match=r"'n': 1 of 5 values are no float, such as 9007199254740993"):
        single.write("pets", vectors=np.ones((1, 4), np.float32), ids=["f"], metadata=[{"n": 1.5}])
    assert (single.set("pets").columns["n"], single.count("pets")) == ("int", 5)
    single.write("pets", vectors=np.ones((1, 4), np.float32), ids=["f"], metadata=[{"n": 6.0}])
    assert column(single, "n")[-1] == 6


def test_update_changes_metadata_and_nothing_else(pets: EitherClient) -> None:
    pets.create_index("pets", kind="flat")
    before = pets.read("pets")
    report = pets.update(
        "pets",
        ["c", "missing", "a"],
        [{"n": 30, "seen": datetime(2024, 1, 2)}, {"n": 0, "seen": None}, {"n": None, "seen": None}],
    )
    assert (report.updated, report.missing, report.version > before.version) == (2, ("missing",), True)
    after = pets.read("pets")
    assert (after.ids, after.metadata["label"]) == (before.ids, before.metadata["label"])
    assert after.metadata["n"] == [None, 2, 30, None]
    assert after.metadata["seen"] == [None, None, datetime(2024, 1, 2, tzinfo=UTC), None]
    np.testing.assert_array_equal(after.features["vectors"].rows, before.features["vectors"].rows)
    found = pets.search("pets", vectors=np.eye(4, dtype=np.float32)[2], where="n = 30", columns=["n"])
    assert (found.ids, found.metadata["n"]) == (["c"], [30])
    assert pets.index("pets").delta_rows == pets.index("pets").deleted_rows == 0
    assert pets.read("pets", version=before.version).metadata["n"] == [1, 2, 3, None]


def test_many_ids_and_long_filters_go_into_one_call(single: topwork.Client) -> None:
    ids = [f"nobody {number}" for number in range(6000)]
    report = single.update("pets", [*ids, "a"], {"n": 9})
    assert (report.updated, len(report.missing)) == (1, 6000)
    long = " OR ".join(f"label = '{id}'" for id in ids)
    assert single.count("pets", f"{long} OR label = 'dog'") == 1
    assert single.update("pets", where=f"{long} OR label = 'dog'", metadata={"n": 8}).updated == 1
    assert column(single, "n") == [9, 8, 3, None]


def test_update_by_a_filter_and_of_one_value(pets: EitherClient) -> None:
    assert pets.update("pets", where="label = 'cat'", metadata={"label": "kitten", "n": 2.5}).updated == 2
    assert (column(pets, "label"), column(pets, "n")) == (["kitten", "dog", "kitten", "7"], [2.5, 2.0, 2.5, None])
    assert pets.update("pets", where="n > 100", metadata={"label": "none"}).updated == 0
    assert pets.update("pets", "d", {"tags": ["x", "y"]}).updated == 1
    assert pets.update("pets", ["a", "b"], {"n": None}).updated == 2
    assert (column(pets, "tags"), column(pets, "n")) == ([None, None, None, ["x", "y"]], [None, None, 2.5, None])
    assert pets.update("pets", ["a", "b"], {"label": ["p", "q"]}).updated == 2
    assert column(pets, "label") == ["p", "q", "kitten", "7"]


REFUSED = {
    "neither ids nor a filter": ({"metadata": {"n": 1}}, "ids or of a filter"),
    "both": ({"ids": ["a"], "where": "n = 1", "metadata": {"n": 1}}, "ids or of a filter"),
    "no metadata": ({"ids": ["a"]}, "no column"),
    "rows of other columns": (
        {"ids": ["a", "b"], "metadata": [{"n": 1}, {"label": "x"}]},
        "item 1: the rows of an update differ",
    ),
    "too few": ({"ids": ["a", "b"], "metadata": [{"n": 1}]}, "1 values for 2 ids"),
    "an id twice": ({"ids": ["a", "a"], "metadata": {"n": 1}}, "comes twice"),
    "another type": ({"ids": ["b", "a"], "metadata": [{"n": 1}, {"n": "x"}]}, "column 'n' holds int"),
    "a column of the store": ({"ids": ["a"], "metadata": {"key": 1}}, "the store's own"),
    "a bad filter": ({"where": "nn = 1", "metadata": {"n": 1}}, "column 'nn'"),
    "a row that is none": ({"where": "n = 1", "metadata": [{"n": 1}]}, "dict of values"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_update_that_is_refused_changes_nothing(single: topwork.Client, kind: str) -> None:
    call, words = REFUSED[kind]
    version = single.set("pets").version
    with pytest.raises(topwork.InvalidInput) as caught:
        single.update("pets", **call)
    assert words in str(caught.value)
    assert single.set("pets").version == version


def test_columns_are_added_renamed_and_dropped(pets: EitherClient) -> None:
    version = pets.set("pets").version
    assert list(pets.add_column("pets", "month", "int").columns) == ["n", "label", "month"]
    assert column(pets, "month") == [None] * 4
    pets.update("pets", where="n = 2", metadata={"month": 5})
    assert list(pets.rename_column("pets", "month", "Week").columns) == ["n", "label", "Week"]
    assert pets.read("pets", where="week = 5").ids == ["b"]
    assert list(pets.rename_column("pets", "Week", "week").columns) == ["n", "label", "week"]
    assert list(pets.drop_column("pets", "label").columns) == ["n", "week"]
    with pytest.raises(topwork.InvalidInput, match="'label', which the set does not have"):
        pets.read("pets", where="label = 'cat'")
    pets.write("pets", vectors=np.ones((1, 4), np.float32), ids=["e"], metadata=[{"label": 5, "week": 6}])
    assert (column(pets, "label"), column(pets, "week")) == ([None, None, None, None, 5], [None, 5, None, None, 6])
    assert list(pets.read("pets", version=version).metadata) == ["n", "label"]


def test_changes_of_columns_that_cannot_be(single: topwork.Client) -> None:
    version = single.set("pets").version
    for call, error, words in (
        (lambda: single.add_column("pets", "n", "int"), topwork.AlreadyExists, "has a metadata column 'n'"),
        (lambda: single.add_column("pets", "N", "int"), topwork.InvalidInput, "the set has 'n'"),
        (lambda: single.add_column("pets", "key", "int"), topwork.InvalidInput, "the store's own"),
        (lambda: single.add_column("pets", "a b", "int"), topwork.InvalidInput, "not a name"),
        (lambda: single.add_column("pets", "m", "decimal"), topwork.InvalidInput, "pass one of bool, int"),
        (lambda: single.rename_column("pets", "m", "o"), topwork.NotFound, "no metadata column 'm' (there are: n, label)"),
        (lambda: single.rename_column("pets", "n", "label"), topwork.AlreadyExists, "'label'"),
        (lambda: single.rename_column("pets", "id", "name"), topwork.NotFound, "'id'"),
        (lambda: single.drop_column("pets", "features_vector"), topwork.NotFound, "'features_vector'"),
        (
            lambda: single.cast_column("pets", "label", "int"),
            topwork.InvalidInput,
            "3 of 4 values are no int, such as 'cat'",
        ),
        (lambda: single.cast_column("pets", "n", "time"), topwork.InvalidInput, "int does not become time"),
        (lambda: single.drop_column("nothing", "n"), topwork.NotFound, "nothing"),
    ):
        with pytest.raises(error) as caught:
            call()
        assert words in str(caught.value)
    assert single.set("pets").version == version


def command_output(capsys: pytest.CaptureFixture[str], real_target: str, *words: str) -> str:
    status = main(["sets", "pets", *words, "--server", real_target])
    captured = capsys.readouterr()
    return captured.out if status == 0 else captured.err


def test_the_command_line_counts_changes_and_updates(
    single: topwork.Client, real_target: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command_output(capsys, real_target, "count", "--where", "label = 'cat'") == "2\n"
    assert json.loads(command_output(capsys, real_target, "count", "--json")) == {"set": "pets", "where": "", "count": 4}
    assert "month time" in command_output(capsys, real_target, "add-column", "month", "time")
    assert json.loads(command_output(capsys, real_target, "rename-column", "month", "day", "--json"))["columns"]["day"] == "time"
    assert "n float" in command_output(capsys, real_target, "cast-column", "n", "float")
    assert "1 item updated" in command_output(
        capsys, real_target, "update", "a", "--set", "day=2024-01-02", "--set", "n=0.5", "--set", "good=true"
    )
    assert "2 items updated" in command_output(capsys, real_target, "update", "--where", "n >= 2", "--set", "n=")
    assert (column(single, "n"), column(single, "good")) == ([0.5, None, None, None], [True, None, None, None])
    (tmp_path / "labels.csv").write_text("name,label,n\na,owl,7\nb,,8.5\nz,x,1\n")
    report = json.loads(
        command_output(capsys, real_target, "update", "--from", str(tmp_path / "labels.csv"), "--id", "name", "--json")
    )
    assert (report["updated"], report["missing"]) == (2, ["z"])
    assert (column(single, "label"), column(single, "n")) == (["owl", None, "cat", "7"], [7.0, 8.5, None, None])
    assert "n float" in command_output(capsys, real_target, "drop-column", "label")
    assert "column 'label'" in command_output(capsys, real_target, "drop-column", "label")
    assert "one of the three" in command_output(capsys, real_target, "update", "a", "--where", "n = 1", "--set", "n=1")
    assert "n is float, and 'x' is not" in command_output(capsys, real_target, "update", "a", "--set", "n=x")


CASTS = {
    "int to float": ([1, -5, None], "float", [1.0, -5.0, None]),
    "int to string": ([1, -5, None], "string", ["1", "-5", None]),
    "int to bool": ([1, 0, None], "bool", [True, False, None]),
    "float to int": ([1.0, -5.0, None], "int", [1, -5, None]),
    "float to string": ([0.1, 1e300, None], "string", ["0.1", "1e+300", None]),
    "bool to int": ([True, False, None], "int", [1, 0, None]),
    "time to string": ([datetime(2024, 1, 2, tzinfo=UTC), None], "string", ["2024-01-02T00:00:00+00:00", None]),
    "string to time": (["2024-01-02", "2024-01-02T01:00:00+01:00", ""], "time", [datetime(2024, 1, 2, tzinfo=UTC)] * 2 + [None]),
    "string to int": (["1", " -5 ", ""], "int", [1, -5, None]),
    "string to float": (["1.5", "1e3", None], "float", [1.5, 1000.0, None]),
    "string to bool": (["true", "False", ""], "bool", [True, False, None]),
    "string to strings": (["a", '["b", "c"]', None], "strings", [["a"], ["b", "c"], None]),
    "strings to string": ([["b", "c"], [], None], "string", ['["b", "c"]', "[]", None]),
}


@pytest.mark.parametrize("kind", CASTS)
def test_casts_keep_every_value(real_client: topwork.Client, kind: str) -> None:
    sent, type, expected = CASTS[kind]
    rows = np.eye(len(sent), 3, dtype=np.float32)
    real_client.write("cast", vectors=rows, ids=list("abc"[: len(sent)]), metadata={"x": sent})
    version = real_client.set("cast").version
    assert real_client.cast_column("cast", "x", type).columns == {"x": type}
    assert real_client.read("cast").metadata["x"] == expected
    assert real_client.read("cast", version=version).metadata["x"] == list(sent)


BAD_CASTS = {
    "float to int": ([1.0, 1.5], "int"),
    "int to float": ([1, 2**53 + 1], "float"),
    "string to time": (["x", "2024"], "time"),
}


@pytest.mark.parametrize("kind", BAD_CASTS)
def test_a_cast_that_would_lose_a_value_changes_nothing(real_client: topwork.Client, kind: str) -> None:
    sent, type = BAD_CASTS[kind]
    real_client.write("cast", vectors=np.eye(2, dtype=np.float32), ids=["a", "b"], metadata={"x": sent})
    before = real_client.set("cast")
    with pytest.raises(topwork.InvalidInput, match="2 values"):
        real_client.cast_column("cast", "x", type)
    assert (real_client.set("cast").version, real_client.set("cast").columns) == (before.version, before.columns)
