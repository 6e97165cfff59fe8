"""Filters answer as SQL does: each is asked of the set and of SQLite, which has the same rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sample_batches import POOLED, rows, wanted
from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Column, ColumnType, ItemBatch

IDS = ["a", "b", "c", "d", "e", "f"]
BIG = (1 << 63) - 1
NUMBERS: dict[str, Sequence[Any]] = {
    "n": [1, 2, -2, BIG, None, 100],
    "m": [1, 3, -2, 0, 5, None],
    "f": [1.0, 2.5, None, -0.5, 100.0, 1e-3],
    "g": [1.0, None, 2.5, -1.0, 99.5, 0.1],
}
LABELS = ["cat", "dog", "Cat", "c%t", "", None]
FLAGS = [True, False, None, True, False, True]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIMES = [
    datetime(2024, 1, 1, tzinfo=UTC),
    datetime(2024, 1, 2, tzinfo=UTC),
    datetime(2024, 1, 2, 0, 0, 0, 1, tzinfo=UTC),
    datetime(1, 1, 1, tzinfo=UTC),
    None,
    datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
]


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureSet]:
    sets = FeatureSets(tmp_path_factory.mktemp("sets"))
    animals = sets.create(wanted())
    micros = [None if at is None else (at - EPOCH) // timedelta(microseconds=1) for at in TIMES]
    columns = [Column(name, ColumnType.INT if name in "nm" else ColumnType.FLOAT, values) for name, values in NUMBERS.items()]
    columns.append(Column("label", ColumnType.STRING, LABELS))
    columns.append(Column("flag", ColumnType.BOOL, FLAGS))
    columns.append(Column("t", ColumnType.TIME, micros))
    columns.append(Column("tags", ColumnType.STRINGS, [["x"], ["x", "y"], [], None, ["z"], ["y", "x"]]))
    animals.write(ItemBatch(IDS, (rows(POOLED, [1] * 6),), tuple(columns))).result()
    yield animals
    sets.close()


@pytest.fixture(scope="module")
def sqlite() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE animals (id TEXT, n INT, m INT, f REAL, g REAL, label TEXT, flag INT)")
    rows = zip(IDS, *NUMBERS.values(), LABELS, FLAGS, strict=True)
    connection.executemany("INSERT INTO animals VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    connection.execute("PRAGMA case_sensitive_like = ON")
    yield connection
    connection.close()


def answer(animals: FeatureSet, where: str) -> list[str]:
    return sorted(id or "" for id in animals.ids_of(animals.keys(where)[1]))


OPERATORS = ("=", "<>", "<", "<=", ">", ">=")
OF_INTS = (
    *("1", "2", "-2", "1.0", "1.5", "-1.5", "-2.5", "1e2", "'2'", "'1.5'", "0.1", "NULL", "1e30", "-1e30"),
    *(f"{BIG}", f"{BIG - 1}", f"{BIG + 1}", f"{-BIG - 1}", f"{-BIG - 2}"),
)
OF_FLOATS = ("1", "2.5", "-0.5", "1e2", "100", "'2.5'", "0.001", "NULL", "1e300", "-1e300")
OF_BOTH = ("m", "g", "m + 1", "g * 2", "-m", "m % 2", "m / 2")
COMPARED = [
    where
    for column, others in (("n", OF_INTS), ("f", OF_FLOATS), ("f", OF_BOTH), ("m", OF_BOTH))
    for operator in OPERATORS
    for other in others
    for where in (f"{column} {operator} {other}", f"NOT {other} {operator} {column}")
]
LISTED = [
    *("n IN (1, 2)", "n IN (1.5, 2.0)", "n IN (1.5)", "n NOT IN (1.5)", "n IN (1, NULL)", "n NOT IN (1, NULL)", "n IN (NULL)"),
    *("n NOT IN (1, 1e2)", f"n IN ({BIG}, {BIG + 1})", "f IN (1, 2.5)", "f NOT IN (1, NULL)", "f IN (n, m)", "n IN (1.5, NULL)"),
    *("n IN (m, 2)", "1 IN (n, m, NULL)", "label IN ('cat', 'dog')", "label NOT IN ('cat', 'it''s')", "flag IN (true)"),
    *("n BETWEEN 1.5 AND 2.5", "n NOT BETWEEN 1.5 AND 2.5", "n BETWEEN 2 AND 1", "n BETWEEN NULL AND 2", "2 BETWEEN n AND m"),
    *("f BETWEEN -1 AND 1", "label BETWEEN 'a' AND 'd'", "n BETWEEN m AND g"),
]
JOINED = [
    *(
        "\"label\" <> 'cat'",
        '"label" = "id"',
        '"n" > 1 AND "f" IS NOT NULL',
        "`label` = 'cat'",
        "LABEL = 'cat'",
        "label == 'cat'",
    ),
    *("n = 1 OR n = 2 OR f = 1", "n <> 1 AND n <> 2", "n = 1 OR n = NULL", "NOT (n = 1 OR n = 2)", "NOT (n <> 1 AND n <> 2)"),
    *(
        "n = 1 AND n = 2",
        "n <> 1 OR n <> 2",
        "n IN (1, 2) OR n = 100",
        "n NOT IN (1, 2) AND n <> 100",
        "n IN (1, 2) AND n IN (2)",
    ),
    *("n IN (1, NULL) OR n = 2", "n NOT IN (1, NULL) AND n <> 2", "NOT n IN (1, 2)", "NOT NOT n = 1", "NOT (NOT (n = 1))"),
    *("n = 1 AND NULL", "n = 1 OR NULL", "NOT (n = 1 AND NULL)", "NULL", "true", "false", "NOT true", "1 = 1", "1 > 2 OR n = 1"),
    *("n IS NULL", "n IS NOT NULL", "NOT n IS NULL", "n = 1 IS NULL", "(n = 1) IS TRUE", "(n = 1) IS NOT TRUE", "flag IS FALSE"),
    *(
        "flag",
        "NOT flag",
        "flag = true",
        "flag = false",
        "flag <> true",
        "flag = 1",
        "flag <> 0",
        "flag IS NULL",
        "flag AND n = 1",
    ),
    *("n IS NOT DISTINCT FROM NULL", "n IS DISTINCT FROM 1", "n IS NOT DISTINCT FROM 1.5", "f IS DISTINCT FROM g"),
    *("label LIKE 'c%'", "label NOT LIKE 'c%'", "label LIKE 'c!%t' ESCAPE '!'", "label LIKE '%'", "label LIKE '_at'"),
    *("label || 'x' = 'catx'", "length(label) = 3", "length(label) > 2.5", "upper(label) = 'CAT'", "lower(label) LIKE 'c%'"),
    *("substr(label, 1, 1) = 'c'", "trim(label) = ''", "coalesce(n, 0) = 0", "coalesce(n, f) > 1.5", "nullif(n, 1) IS NULL"),
    *("abs(n) > 1.5", "abs(f) = 0.5", "round(f) = 100", "round(f, 1) = -0.5", "cast(f as int) = 2", "cast(m as text) = '3'"),
    *("m + 1 > 2.5", "f * 2 > 4", "n - m - 1 = 0", "n - (m - 1) = 1", "m * 2 + 1 = 7", "m * (2 + 1) = 9", "- - m = 3", "+m = 3"),
    *("m + -1 = 2", "-m < -2", "f / 2 = 1.25", "m % 2 = 1", "n = 1 = (m = 1)", "label = 'cat' AND (n = 1 OR n = 2) OR f > 99"),
]


@pytest.mark.parametrize("filters", [COMPARED, LISTED, JOINED], ids=["compared", "listed", "joined"])
def test_a_filter_selects_what_sqlite_selects(animals: FeatureSet, sqlite: sqlite3.Connection, filters: list[str]) -> None:
    wrong = {}
    for where in filters + ([] if filters is COMPARED else [f"NOT ({where})" for where in filters]):
        expected = sorted(id for (id,) in sqlite.execute(f"SELECT id FROM animals WHERE {where}"))
        if (found := answer(animals, where)) != expected:
            wrong[where] = found, expected
    assert not wrong


OF_TIMES = {
    "t < '2024-01-02'": "ad",
    "'2024-01-02' > t": "ad",
    "t <= '2024-01-02'": "abd",
    "t = '2024-01-02'": "b",
    "t = '2024-1-2 00:00'": "b",
    "t <> '2024-01-02'": "acdf",
    "t = '2024-01-02T00:00:00.000001Z'": "c",
    "t = '2024-01-02T01:00:00.000001+01:00'": "c",
    "t = '2024-01-01 19:00:00.000001-0500'": "c",
    "t = '2024-01-02T00:00:00.0000005'": "",
    "t > '2024-01-02T00:00:00.0000005'": "cf",
    "t < '2024-01-02T00:00:00.0000005'": "abd",
    "t = timestamp '2024-01-02 00:00:00'": "b",
    "t >= date '2024-01-02'": "bcf",
    "t BETWEEN '2024-01-01' AND '2024-01-02'": "ab",
    "t NOT BETWEEN '2024-01-01' AND '2024-01-02'": "cdf",
    "t IN ('2024-01-01', '2024-01-02 00:00:00')": "ab",
    "t NOT IN ('2024-01-01')": "bcdf",
    "t NOT IN ('2024-01-01', NULL)": "",
    "NOT t > '2024-01-01'": "ad",
    "t IS NULL": "e",
    "t IS NOT NULL AND t < '0500-01-01'": "d",
    "t > '9999-01-01'": "f",
    "t < now()": "abcd",
    "t > now() - interval '7 days'": "f",
    "t + interval '1 day' = '2024-01-02'": "a",
    "t - interval '24 hours' = '2024-01-01'": "b",
    "t - '2024-01-01'::timestamp < interval 1 day": "ad",
    "t < timestamp '2024-01-01' + interval '1 day'": "ad",
    "date_part('year', t) = 2024": "abc",
    "extract(year from t) > 2023.5": "abcf",
    "date_trunc('day', t) = '2024-01-02'": "bc",
    "cast(t as date) = '2024-01-02'": "bc",
    "t::date IN ('2024-01-01')": "a",
    "to_date('2024-01-02 13:00:00') = t": "b",
    "to_timestamp_seconds(m) < '1970-01-01 00:00:02'": "acd",
    "coalesce(t, '2024-01-01') = '2024-01-01'": "ae",
    "t = t": "abcdf",
    "t = NULL": "",
}
OF_LISTS = {
    "array_has(tags, 'y')": "bf",
    'array_contains(tags, "label")': "",
    "array_has_any(tags, ['y', 'z'])": "bef",
    "array_has_all(tags, ['x', 'y'])": "bf",
    "array_length(tags) > 1.5": "bf",
    "cardinality(tags) = 0": "c",
    "tags IS NULL": "d",
    "tags = ['x', 'y']": "b",
    "tags[1] = 'x'": "ab",
    "label ILIKE 'CAT'": "ac",
    "position('a' in label) = 2": "ac",
    "substring(label from 2 for 2) = 'at'": "ac",
    "starts_with(label, 'c') AND ends_with(label, 't') AND contains(label, 'a')": "a",
    "regexp_like(label, '^[Cc]a')": "ac",
    "regexp_match(label, '(o)')[1] = 'o'": "b",
    "ceil(f) = 3 OR floor(f) = -1 OR trunc(f) = 100": "bde",
    "power(m, 2) = 9 AND sqrt(m) > 1.7": "b",
    "strpos(label, 'a') = 2 AND octet_length(label) = 3": "ac",
    "try_cast(label as int) IS NULL": "abcdef",
}


@pytest.mark.parametrize("where", {**OF_TIMES, **OF_LISTS})
def test_times_lists_and_functions(animals: FeatureSet, where: str) -> None:
    assert answer(animals, where) == list({**OF_TIMES, **OF_LISTS}[where])


@pytest.mark.parametrize(
    "where", ["\"lable\" <> 'cat'", '"cat" = label', "label = dog", 'label = "cat"', "label <> 'cat' AND \"x\" = 1"]
)
def test_an_unknown_column_is_named_with_those_that_there_are(animals: FeatureSet, where: str) -> None:
    with pytest.raises(
        InvalidInput, match=r"a column '(lable|cat|dog|x)', which the set does not have .use f, flag, g, id, label, m, n, t, tags"
    ):
        animals.keys(where)
