"""Filters: what is right is answered, what is wrong is refused in our words, and nothing ends the process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_batches import POOLED, block, rows, wanted
from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Column, ColumnType, ItemBatch, Selection


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureSet]:
    sets = FeatureSets(tmp_path_factory.mktemp("sets"))
    birds = sets.create(wanted())
    sent = block(["a", "b", "c;d", "it's"], Year=[1, 2, 3, None], tags=[["x"], ["x", "y"], [], None], order=[1.5, 2, 3, 4])
    times = Column("when", ColumnType.TIME, [0, 1_000_000, None, 2_000_000])
    birds.write(ItemBatch(sent.ids, sent.taps, (*sent.metadata, times))).result()
    yield birds
    sets.close()


RIGHT = {
    "Year > 1": ["b", "c;d"],
    "year > 1": ["b", "c;d"],
    "`order` = 1.5 OR id = 'b'": ["a", "b"],
    "id = 'c;d'": ["c;d"],
    "id = 'it''s'": ["it's"],
    '"Year" > 1 AND "id" <> \'b\'': ["c;d"],
    '"order" = 1.5': ["a"],
    "order = 1.5": ["a"],
    "Year > 1.5": ["b", "c;d"],
    "`when` < '1970-01-01 00:00:01'": ["a"],
    "`when` IN ('1970-01-01', '1970-01-01T01:00:02+01:00')": ["a", "it's"],
    "Year IN (1, -1, 3)": ["a", "c;d"],
    "Year IS NULL": ["it's"],
    "Year BETWEEN 1 AND 2 AND id LIKE '%b'": ["b"],
    "NOT (Year = 1) AND Year - -1 > 0": ["b", "c;d"],
    "array_has(tags, 'y')": ["b"],
    "`when` >= timestamp '1970-01-01 00:00:01'": ["b", "it's"],
    "upper(id) = 'A' or starts_with(id, 'it')": ["a", "it's"],
    "true": ["a", "b", "c;d", "it's"],
    " OR ".join(f"Year = {number}" for number in range(3, 3000)): ["c;d"],
    f"Year IN ({', '.join(map(str, range(3, 6000)))})": ["c;d"],
}


@pytest.mark.parametrize("where", RIGHT, ids=lambda where: where[:40])
def test_answers(birds: FeatureSet, where: str) -> None:
    version, keys = birds.keys(where)
    assert version == birds.version
    assert sorted(id or "" for id in birds.ids_of(keys)) == RIGHT[where]
    reading = birds.read(Selection(where=where))
    assert reading.total == len(RIGHT[where])
    assert sorted(id for part in reading.batches for id in part.ids) == RIGHT[where]
    assert birds.keys(where, ids=["b", "nobody"])[1].tolist() == [k for k in keys if birds.ids_of(keys[keys == k]) == ["b"]]


WRONG = {
    "lable = 'x'": "column 'lable', which the set does not have (use Year, id, order, tags, when;",
    "\"lable\" != 'x'": "column 'lable', which the set does not have (use Year, id, order, tags, when;",
    'id = "a"': "column 'a', which the set does not have",
    "a.b = 3": "not understood at '. b = 3'",
    "key > 3": "'key' is not for filters",
    "`Key` > 3": "'Key' is not for filters",
    "content = ''": "'content' is not for filters",
    "features_pooled IS NULL": "'features_pooled' is not for filters",
    "_rowid < 5": "'_rowid' is not for filters",
    "id = 'a'; DROP TABLE x": "without ';'",
    "id = 'a' -- more": "a comment",
    "id = 'a' /* more */": "a comment",
    "id = 'a": "close the quotes",
    "id = `a": "close the quotes",
    "id = E'a\\'b'": "a word and a quoted one without a space",
    "$1 = 3": "understood at '$1 = 3'",
    "Year = ?": "understood at '?'",
    "true) OR (true": "did not open",
    "(true": "does not close",
    "Year > 1 id = 'a'": "expected AND, OR, or the end of the filter",
    "Year > 1 LIMIT 1": "not understood at 'LIMIT 1'",
    "Year > 1 ORDER BY id": "not understood at 'ORDER BY id'",
    "Year >": "expected an expression",
    "Year": "a filter is true or false",
    "NOT Year": "a filter is true or false",
    "Year = 'x'": "compares the column Year (int) with 'x'",
    "Year > 1e999": "the number 1.000000e+999 is out of range",
    "order > 1e999": "the number 1.000000e+999 is out of range",
    "`when` > 5": "compares the column when (time) with 5",
    "`when` > 'yesterday'": "'yesterday' is not a time",
    "`when` > '2024-02-30'": "'2024-02-30' is not a time",
    "`when` > now() - interval '1 month'": "an interval in 'month'",
    "id = 5": "compares the column id (string) with 5",
    "id LIKE 5": "LIKE takes string, and is given 5",
    "Year LIKE '1%'": "LIKE takes string, and is given the column Year (int)",
    "tags = 'x'": "array_has",
    "array_has(tags, 5)": "array_has takes string there, and is given 5",
    "Year / 0 = 1": "Divide by zero",
    "cast(id as int) = 1": "try_cast",
    "regexp_like(id, '(')": "regex",
    "id IN (SELECT id FROM t)": "not understood at 'id FROM t )'",
    "(Year, id) = (1, 'a')": "expected one value",
    "repeat('a', 2000000000) = 'b'": "no function 'repeat'",
    "lenght(id) = 3": "no function 'lenght'",
    "CASE WHEN true THEN true ELSE false END": "CASE is not for filters",
    "   ": "an empty filter",
    "Year" + "+1" * 2000 + " > 3": "too long or too deep",
    "Year = 3" + " = true" * 2000: "too long or too deep",
    "(true AND true)" + " = (true AND true)" * 2000: "too long or too deep",
    "abs(1)" + " + power(1, 1)" * 2000 + " > 2": "too long or too deep",
    "Year" + " BETWEEN 1 AND 2" * 2000: "too long or too deep",
    "Year" + " IS NULL" * 2000: "too long or too deep",
    "(" * 5000 + "true" + ")" * 5000: "too long or too deep",
    "abs(" * 1000 + "1" + ")" * 1000: "too long or too deep",
    " OR ".join(f"(Year > {n} AND order < {n})" for n in range(600)): "1200 different conditions",
    "NOT " * 5000 + "true": "too long or too deep",
    "id = '" + "x" * 600_000 + "'": "at most 524288",
}


@pytest.mark.parametrize("where", WRONG, ids=lambda where: where[:40])
def test_refuses_in_our_words(birds: FeatureSet, where: str) -> None:
    for ask in (birds.keys, lambda where: list(birds.read(Selection(where=where)).batches)):
        with pytest.raises(InvalidInput) as caught:
            ask(where)
        assert WRONG[where] in str(caught.value)
        assert ".rs:" not in str(caught.value)


def test_the_longest_expressions_that_pass_are_answered(birds: FeatureSet) -> None:
    """The bound on depth is far enough from the depth at which Lance ends the process."""
    assert len(birds.keys("Year" + "+1" * 98 + " > 3")[1]) == 3
    assert len(birds.keys("Year = 3" + " = true" * 98)[1]) == 1
    assert len(birds.keys("(" * 150 + "Year = 3" + ")" * 150)[1]) == 1
    assert len(birds.keys("NOT " * 150 + "Year = 3")[1]) == 1
    assert len(birds.keys("- " * 150 + "Year = 3")[1]) == 1
    assert len(birds.keys(" OR ".join(f"Year > {n}" for n in range(1000)))[1]) == 3
    assert len(birds.keys(" AND ".join(["Year BETWEEN 1 AND 3 OR id LIKE 'x'"] * 3000))[1]) == 3


def test_no_filter_reaches_out_of_what_is_joined_to_it(birds: FeatureSet) -> None:
    before = birds.version
    assert birds.read(Selection(where="true OR true", since=before)).total == 0


def test_unknown_names_are_told(birds: FeatureSet) -> None:
    with pytest.raises(InvalidInput, match=r"no tap 'x' .there are: pooled"):
        birds.read(Selection(taps=["x"]))
    with pytest.raises(InvalidInput, match=r"no metadata column 'x' .there are: Year"):
        birds.fetch(birds.keys()[1], columns=["x"])
    with pytest.raises(InvalidInput, match="not negative"):
        birds.read(Selection(offset=-1))


def test_columns_with_the_names_of_sql_words_are_filtered_in_backticks(tmp_path: Path) -> None:
    words = FeatureSets(tmp_path).create(wanted("words"))
    columns = tuple(Column(name, ColumnType.INT, [1]) for name in ("select", "and", "between", "case", "null"))
    words.write(ItemBatch(["a"], (rows(POOLED, [1]),), columns)).result()
    for column in columns:
        assert len(words.keys(f"`{column.name}` = 1")[1]) == 1
