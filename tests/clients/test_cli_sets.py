"""`topwork sets`, `read`, `delete`, `drop` and `versions`, against a client that answers from memory."""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from cli_stub import StubCommand, features, set_info
from topwork.cli import output
from topwork.rows import Rows


@pytest.fixture
def topwork(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> StubCommand:
    monkeypatch.setenv("COLUMNS", "160")
    return StubCommand(capsys, monkeypatch)


def test_sets(topwork: StubCommand) -> None:
    assert topwork("sets") == 0
    assert "there are no sets yet" in topwork.stdout
    topwork.client.known = {"birds": set_info(), "mine": set_info(name="mine", encoder="", indexes=())}
    assert topwork("sets") == 0
    title, birds, mine = (line.split() for line in topwork.stdout.splitlines())
    assert title == ["set", "items", "encoder", "taps", "version", "on", "disk", "indexes"]
    assert birds == ["birds", "5,000", "letters", "pooled", "4", "12", "8.1", "MB", "pooled"]
    assert (mine[0], mine[2], mine[-1]) == ("mine", "-", "-")
    assert topwork("sets", "--json") == 0
    assert [record["name"] for record in topwork.json] == ["birds", "mine"]


def test_one_set_in_full(topwork: StubCommand) -> None:
    topwork.client.known = {"birds": set_info(columns={"year": "int", "tags": "strings"})}
    assert topwork("sets", "birds") == 0
    for text in ("letters (text)", "abababababababab", "truncate=True", "not kept", "/srv/sets/birds.lance", "features_pooled"):
        assert text in topwork.stdout
    assert ["year", "int"] in [line.split() for line in topwork.stdout.splitlines()]
    assert topwork("sets", "birds", "--json") == 0
    assert (topwork.json["created"], topwork.json["columns"]["tags"]) == ("2025-03-01T12:00:00+00:00", "strings")
    assert topwork("sets", "owls") == 1
    assert "there is no set 'owls' (see `topwork sets`)" in topwork.stderr


ROWS = Rows(
    ids=["a", "owls/[b].jpg"],
    features={"pooled": features([1, 1], dim=8), "tokens": features([2, 0])},
    metadata={"year": [2024, None], "when": [datetime(2024, 1, 2, tzinfo=UTC), None], "tags": [["x", "y"], None]},
    version=12,
    total=5000,
    column_types={"year": "int", "when": "time", "tags": "strings"},
)


def test_read_for_people(topwork: StubCommand) -> None:
    topwork.client.rows = ROWS
    assert topwork("read", "birds", "--where", "year > 1", "--tap", "pooled", "--tap", "tokens", "--column", "year") == 0
    asked = topwork.asked("read")
    assert (asked["taps"], asked["columns"], asked["where"], asked["limit"]) == (["pooled", "tokens"], ["year"], "year > 1", 20)
    title, first, second, last = (line.rstrip() for line in topwork.stdout.splitlines())
    assert title.split() == ["id", "year", "when", "tags", "pooled", "tokens"]
    assert first.split("  ")[-1] == "2 rows"
    assert "0.0000 1.0000 2.0000 3.0000 ..." in first
    assert "  2024-01-02  x, y" in first
    assert second.startswith("owls/[b].jpg")
    assert last == "2 items of 5,000: --limit N shows more, -o FILE writes all; version 12"


def test_read_asks_for_no_features_that_nobody_sees(topwork: StubCommand) -> None:
    assert topwork("read", "birds", "--json") == 0
    asked = topwork.asked("read")
    assert (asked["taps"], asked["columns"], asked["limit"], asked["version"]) == ([], None, 0, 0)


def test_read_for_programs(topwork: StubCommand) -> None:
    topwork.client.rows = ROWS
    assert topwork("read", "birds", "--tap", "pooled", "--json", "--limit", "2") == 0
    record = topwork.json
    assert (record["set"], record["version"], record["total"]) == ("birds", 12, 5000)
    first = record["items"][0]
    assert first["metadata"] == {"year": 2024, "when": "2024-01-02T00:00:00+00:00", "tags": ["x", "y"]}
    assert np.shape(first["features"]["pooled"]) == (1, 8)


def test_read_into_a_file(topwork: StubCommand, tmp_path: Path) -> None:
    topwork.client.rows = ROWS
    out = tmp_path / "out.npz"
    assert topwork("read", "birds", "-o", out) == 0
    assert topwork.asked("export_set")["taps"] is None
    assert f"2 items of birds, version 12 (pooled 2 x 8, tokens 2 x 4) -> {out}" in topwork.stdout
    assert np.load(out)["ids" if "ids" in np.load(out).files else "id"].tolist() == ["a", "owls/[b].jpg"]
    assert topwork("read", "birds", "-o", out, "--json") == 0
    assert topwork.json["file"] == str(out)
    assert topwork.json["bytes"] == out.stat().st_size


@pytest.mark.parametrize("name", ["out.txt", "nowhere/out.npz"])
def test_a_file_that_cannot_be_written_is_refused_first(topwork: StubCommand, tmp_path: Path, name: str) -> None:
    assert topwork("read", "birds", "-o", tmp_path / name) == 1
    assert topwork.client.calls == []


def test_read_an_older_version(topwork: StubCommand) -> None:
    assert topwork("read", "birds", "--version", "7") == 0
    assert topwork.asked("read")["version"] == 7
    assert topwork("read", "birds", "--version", "before") == 0
    assert topwork.asked("read")["version"] == "before"


def test_delete(topwork: StubCommand) -> None:
    assert topwork("delete", "birds", "a", "b") == 0
    assert (topwork.stdout, topwork.asked("delete")) == (
        "2 items deleted from birds\n",
        {"set": "birds", "ids": ["a", "b"], "where": ""},
    )
    topwork.client.rows = Rows(["a"], {})
    assert topwork("delete", "birds", "a", "zzz", "zzz") == 0
    assert topwork.stderr == "topwork: 1 id not in the set: zzz\n"
    assert topwork("delete", "birds", "a", "zzz", "--json") == 0
    assert topwork.json["missing"] == ["zzz"]
    assert topwork("delete", "birds", "--where", "year < 2020", "--yes", "--json") == 0
    assert topwork.json == {"set": "birds", "deleted": 7}
    assert topwork.asked("delete")["ids"] is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_drop_asks(topwork: StubCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    topwork.client.known = {"birds": set_info()}
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert topwork("drop", "birds") == 1
    question = "drop set birds with 5,000 items, all versions and 1 index? [y/N] "
    assert topwork.stderr == f"{question}topwork: nothing was changed\n"
    assert topwork.client.calls == []
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert topwork("drop", "birds") == 0
    assert (topwork.stdout, topwork.client.calls) == ("set birds is dropped\n", [("drop_set", {"name": "birds"})])


DESTRUCTIVE = [
    ("drop birds", "drop set birds with 5,000 items", "drop_set"),
    ("drop birds --index small", "drop index small of birds", "drop_index"),
    ("delete birds --where n>1", "delete the items of birds where n>1: 7 items", "delete"),
    ("versions birds --prune 7d", "prune versions of birds that are older than 7d and not pinned", "prune"),
    ("heads drop birds-label", "drop head birds-label with its report", "drop_head"),
]


@pytest.mark.parametrize(("words", "question", "call"), DESTRUCTIVE)
def test_what_cannot_be_taken_back_is_asked_for(
    topwork: StubCommand, monkeypatch: pytest.MonkeyPatch, words: str, question: str, call: str
) -> None:
    topwork.client.known = {"birds": set_info()}
    topwork.client.count = lambda set, where="", version=0: 7  # type: ignore[method-assign]
    done = lambda: [name for name, _ in topwork.client.calls]  # noqa: E731
    for stdin, told in ((io.StringIO("y\n"), "no terminal to ask (say --yes)"), (Terminal("\n"), f"{question}")):
        monkeypatch.setattr(sys, "stdin", stdin)
        assert topwork(*words.split()) == 1
        assert told in topwork.stderr
        assert done() == []
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert topwork(*words.split()) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert topwork(*words.split(), "--yes") == 0
    assert done() == [call] * 2


def test_drop_does_not_ask_nobody(topwork: StubCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert topwork("drop", "birds") == 1
    assert "there is no terminal to ask (say --yes)" in topwork.stderr
    assert topwork("drop", "birds", "--index", "small", "--yes", "--json") == 0
    assert topwork.client.calls == [("drop_index", {"set": "birds", "name": "small"})]
    assert topwork.json == {"set": "birds", "index": "small", "dropped": True}


def test_versions(topwork: StubCommand) -> None:
    assert topwork("versions", "birds") == 0
    rows = [line.split() for line in topwork.stdout.splitlines()]
    assert (rows[1][0], rows[1][-1], rows[2][0]) == ("11", "before", "12")
    assert topwork("versions", "birds", "--json") == 0
    assert topwork.json[0]["pins"] == ["before"]


def test_pin_unpin_and_prune(topwork: StubCommand) -> None:
    assert topwork("versions", "birds", "--pin", "now") == 0
    assert topwork.stdout == "version 12 of birds is pinned as now\n"
    assert topwork("versions", "birds", "--pin", "then", "--version", "3") == 0
    assert topwork.asked("pin") == {"set": "birds", "pin": "then", "version": 3}
    assert topwork("versions", "birds", "--unpin", "now") == 0
    assert topwork.asked("unpin") == {"set": "birds", "pin": "now"}
    assert topwork("versions", "birds", "--prune", "7d", "--yes") == 0
    assert topwork.stdout == "3 versions removed, 4.1 MB given back\n"
    assert topwork.asked("prune") == {"set": "birds", "older_than": 7 * 86400}


@pytest.mark.parametrize(
    "words",
    [
        ("read",),
        ("read", "birds", "--limit", "0"),
        ("delete", "birds"),
        ("delete", "birds", "a", "--where", "x > 1"),
        ("drop",),
        ("versions", "birds", "--prune", "7 days"),
        ("versions", "birds", "--pin", "a", "--unpin", "b"),
        ("versions", "birds", "--version", "3"),
    ],
)
def test_wrong_usage(topwork: StubCommand, words: tuple[str, ...]) -> None:
    assert topwork(*words) == 2
    assert "Usage: topwork" in topwork.stderr
    assert topwork.client.calls == []


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_960, "100 kB"),
        (999_999, "1.0 MB"),
        (4_100_000, "4.1 MB"),
        (5e15, "5000 TB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("span", "text"), [(0.0016, "1.6 ms"), (0.416, "0.42 s"), (31.2, "31 s"), (59.9, "1 min 0 s"), (7400, "2 h 3 min")]
)
def test_spans_of_time(span: float, text: str) -> None:
    assert output.seconds(span) == text


def test_the_help_of_all_fits_a_screen(topwork: StubCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert topwork("--help") == 0
    lines = topwork.stdout.splitlines()
    assert len(lines) <= 34
    of_sets = ("write", "sets", "read", "delete", "drop", "versions")
    of_heads = ("train", "predict", "heads", "report", "probe", "trainers")
    for verb in (*of_sets, "index", "indexes", "search", "jobs", *of_heads, "serve"):
        assert any(verb in line.split()[:2] for line in lines), verb


@pytest.mark.parametrize(
    "verb",
    ["write", "delete", "versions", "read", "index", "search", "jobs", "embed", "train", "predict", "heads", "report", "probe"],
)
def test_help_has_examples(topwork: StubCommand, verb: str) -> None:
    assert topwork(verb, "--help") == 0
    assert f"\n  topwork {verb} " in topwork.stdout
    assert "--json" in topwork.stdout
