"""Metadata comes back as it was sent, or is refused at the write with the item and what to send instead."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import topwork
from topwork.cli import main
from topwork.v1 import sets_pb2 as pb

BIG = 2**63
EAST = timezone(timedelta(hours=9))


class Color(Enum):
    RED = 1


class NAType:
    """Of pandas, which is not needed for this."""


class Timestamp(datetime):
    """Of pandas: a datetime with what is finer."""

    nanosecond = 0


class Fine(Timestamp):
    nanosecond = 1


@pytest.fixture
def client(real_client: topwork.Client) -> topwork.Client:
    return real_client


def write(client: topwork.Client, values: list[Any], name: str = "kept") -> None:
    ids = [str(position) for position in range(len(values))]
    client.write(name, vectors=np.eye(len(values), 3, dtype=np.float32), ids=ids, metadata=[{"x": value} for value in values])


KEPT: dict[str, tuple[list[Any], list[Any]]] = {
    "ints": ([BIG - 1, -BIG, 0], [BIG - 1, -BIG, 0]),
    "numpy ints": ([np.uint64(BIG - 1), np.int8(-3), np.uint8(3)], [BIG - 1, -3, 3]),
    "floats": ([0.1, -0.0, float("inf")], [0.1, -0.0, float("inf")]),
    "numpy floats": ([np.float32(0.1), np.float16(0.5), np.float64(1e300)], [float(np.float32(0.1)), 0.5, 1e300]),
    "whole numbers among floats": ([1, 2.5, 2**53], [1.0, 2.5, float(2**53)]),
    "texts": (["", "naïve \N{SNOWMAN} \0", np.str_("x")], ["", "naïve \N{SNOWMAN} \0", "x"]),
    "bools": ([True, np.False_, None], [True, False, None]),
    "lists": ([[], ["a", ""], ("b",)], [[], ["a", ""], ["b"]]),
    "arrays of texts": ([np.array(["a", "b"]), np.array([], object), None], [["a", "b"], [], None]),
    "missing": ([None, float("nan"), 1.5], [None, None, 1.5]),
    "missing in pandas": ([NAType(), None, "x"], [None, None, "x"]),
    "times": (
        [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC), datetime(2024, 1, 2, 3, tzinfo=EAST)],
        [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC), datetime(2024, 1, 1, 18, tzinfo=UTC)],
    ),
    "dates and times without a zone, as UTC": (
        [date(2024, 1, 2), datetime(2024, 1, 2, 3), np.datetime64("2024-01")],
        [datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 2, 3, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)],
    ),
    "times of pandas and NumPy": (
        [Timestamp(2024, 1, 2, 3, 4, 5, 6, EAST), np.datetime64("2024-01-02T00:00:00.000001000"), np.datetime64("NaT")],
        [datetime(2024, 1, 1, 18, 4, 5, 6, UTC), datetime(2024, 1, 2, 0, 0, 0, 1, UTC), None],
    ),
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_is_kept_comes_back_as_it_was(client: topwork.Client, kind: str) -> None:
    sent, expected = KEPT[kind]
    write(client, sent)
    came = client.read("kept").metadata["x"]
    assert came == expected
    assert [type(value) for value in came] == [type(value) for value in expected]


REFUSED: dict[str, list[Any]] = {
    "a decimal": [1.0, Decimal("0.1")],
    "a whole decimal": [1, Decimal(1)],
    "a fraction": [1.0, Fraction(1, 3)],
    "a complex number": [1.0, 1j],
    "an int beyond 64 bits": [1, BIG],
    "a uint64 beyond int64": [1, np.uint64(BIG)],
    "a negative one": [1, -BIG - 1],
    "an int that a float would round": [1.5, 2**53 + 1],
    "an int beyond all floats": [1.5, 10**400],
    "a long double": [1.5, np.longdouble("0.1")],
    "nanoseconds of pandas": [datetime(2024, 1, 1), Fine(2024, 1, 1)],
    "nanoseconds of NumPy": [datetime(2024, 1, 1), np.datetime64("2024-01-01T00:00:00.000000001")],
    "picoseconds": [datetime(2024, 1, 1), np.datetime64(1, "ps")],
    "the year 12024": [datetime(2024, 1, 1), np.datetime64("12024-01-01")],
    "a year beyond 64 bits": [datetime(2024, 1, 1), np.datetime64(10**9, "Y")],
    "the year 0": [datetime(2024, 1, 1), np.datetime64("-0001-01-01")],
    "a time beyond 9999 in UTC": [datetime(2024, 1, 1), datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2)))],
    "a span of time": [1, timedelta(days=1)],
    "a span of time of NumPy": [1, np.timedelta64(1, "D")],
    "a span of months of NumPy": [1, np.timedelta64(1, "M")],
    "months, days and nanoseconds of Arrow": [["x"], pa.MonthDayNano([1, 2, 3])],
    "a time of day": ["x", time(1, 2)],
    "bytes": ["x", b"x"],
    "a lone surrogate": ["x", "\ud800"],
    "an object": ["x", {"a": 1}],
    "a set": [["x"], {"x"}],
    "None in a list": [["x"], ["x", None]],
    "a number in a list": [["x"], [1]],
    "a list in a list": [["x"], [["x"]]],
    "bytes in a list": [["x"], [b"x"]],
    "an array of numbers": [["x"], np.ones(2)],
    "an array of two dimensions": [["x"], np.array([["x"]])],
    "an array of none": [["x"], np.array("xy")],
    "a UUID": ["x", UUID(int=1)],
    "an enumeration": ["x", Color.RED],
    "a bool among ints": [1, True],
    "an int among bools": [True, 1],
    "a number among texts": ["x", 1],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_not_come_back_is_refused_and_the_set_stays(client: topwork.Client, kind: str) -> None:
    good, bad = REFUSED[kind]
    write(client, [good], "kept")
    with pytest.raises(topwork.InvalidInput, match="column 'x'") as caught:
        write(client, [good, bad])
    assert caught.value.item == 1
    assert client.read("kept").metadata["x"] == [good.replace(tzinfo=UTC) if isinstance(good, datetime) else good]


def test_an_interval_is_named_as_what_it_is(client: topwork.Client) -> None:
    for bad, name in ((pa.MonthDayNano([1, 2, 3]), "MonthDayNano"), (np.timedelta64(2, "Y"), "timedelta64")):
        with pytest.raises(topwork.InvalidInput, match=f"column 'x' holds a {name}"):
            write(client, [bad])


@pytest.mark.parametrize("bad", [Decimal("0.1"), b"x", {"a": 1}, timedelta(1), np.timedelta64(1, "D"), 1j, [b"x"], BIG])
def test_what_no_column_holds_makes_no_set(client: topwork.Client, bad: Any) -> None:
    with pytest.raises(topwork.InvalidInput, match="column 'x'") as caught:
        write(client, [bad])
    assert caught.value.item == 0
    assert client.sets() == []


def test_the_server_refuses_times_that_no_calendar_has(client: topwork.Client) -> None:
    """Whatever the client: such a set could not be read any more."""
    write(client, [datetime(2024, 1, 1)])
    column = pb.Column(name="x", type=pb.COLUMN_TYPE_TIME, ints=[317_284_473_600_000_000])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("topwork._codec.metadata._packed", lambda name, kind, values, start: column)
        with pytest.raises(topwork.InvalidInput, match=r"'x'.*years 1 to 9999"):
            write(client, [datetime(2024, 1, 1)])
    assert client.read("kept").metadata["x"] == [datetime(2024, 1, 1, tzinfo=UTC)]


def table(path: Path, **columns: Any) -> Path:
    count = len(next(iter(columns.values())))
    pq.write_table(pa.table({"id": [f"r{i}" for i in range(count)], "text": ["an owl"] * count, **columns}), path)
    return path


PARQUET = {
    "decimals with the digits of a float": (pa.array([Decimal("12.34"), None]), "float", [12.34, None]),
    "times in nanoseconds that are whole microseconds": (pa.array([1000, None], pa.timestamp("ns")), "time", [1, None]),
    "a decimal of many digits": (pa.array([Decimal("1.5"), Decimal("12345678901234567.89")]), "", "row 2: 'x' is Decimal"),
    "nanoseconds": (pa.array([1000, 1001], pa.timestamp("ns")), "", "row 2: 'x' is '1970-01-01 00:00:00.000001001', no time"),
    "the year 12025": (pa.array([5, 317_315_000_000_000_000], pa.timestamp("us")), "", "row 2: 'x' is '12025-04-24"),
    "a day of the year 29349": (pa.array([1, 10**7], pa.date32()), "", "row 2: 'x' is '29349-01-26', no time"),
    "a uint64 beyond int64": (pa.array([1, BIG], pa.uint64()), "", "row 2: 'x' is 9223372036854775808, no int"),
    "a list with nothing in it": (pa.array([["a"], [None]], pa.list_(pa.string())), "", "row 2: 'x' is"),
}


@pytest.mark.parametrize("kind", PARQUET)
def test_parquet(client: topwork.Client, real_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    values, type, expected = PARQUET[kind]
    file = table(tmp_path / "rows.parquet", x=values)
    arguments = ["write", "kept", "--server", real_target, "--encoder", "letters", "--from", str(file), "--id", "id"]
    status = main(arguments)
    captured = capsys.readouterr()
    if type:
        assert status == 0, captured.err
        came = client.read("kept").metadata["x"]
        assert [
            (v - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) if type == "time" and v else v for v in came
        ] == expected
        assert client.set("kept").columns == {"x": type}
    else:
        assert status != 0
        assert expected in captured.err.replace("\n", " ")


def test_csv_numbers_that_a_float_would_round_stay_texts(client: topwork.Client, real_target: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"text,x\nan owl,1.5\na wren,{2**53 + 1}\n")
    assert main(["write", "kept", "--server", real_target, "--encoder", "letters", "--from", str(tmp_path / "rows.csv")]) == 0
    assert client.read("kept").metadata["x"] == ["1.5", str(2**53 + 1)]
