"""Records of files that are no items, files in other encodings than UTF-8, and columns with letters of any script."""

from __future__ import annotations

import codecs
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from cli_command import Command
from fake_server import FakeServer

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def topwork(server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("COLUMNS", "160")
    return Command(server.target, capsys)


def json_lines(path: Path) -> Path:
    rows: list[Any] = [{"text": "one", "id": "a"}, {"text": None, "id": "b"}, {"text": 5, "id": "c"}, {"text": ["x"], "id": "d"}]
    rows += [{"id": "e"}, "no object", {"text": "two"}, {"text": "three", "id": "g", "n": 1}]
    lines = [*map(json.dumps, rows[:2]), "{not JSON", *map(json.dumps, rows[2:])]
    path.write_text("\n".join(lines) + "\n")
    return path


def csv(path: Path) -> Path:
    path.write_text('id,text,n\na,one,1\nb,"x" y,2\nc,two,3,4\nd\n,three,5\ng,four,6\n')
    return path


def parquet_file(path: Path) -> Path:
    texts, ids = pa.array(["one", None, "three", "four"]), pa.array(["a", "b", None, "g"])
    parquet.write_table(pa.table({"text": texts, "id": ids}), path)
    return path


@pytest.mark.parametrize(
    ("make", "name", "good", "lines"),
    [
        (json_lines, "rows.jsonl", ["a", "g"], ["line 2", "line 3", "line 4", "line 5", "line 6", "2 more"]),
        (csv, "rows.csv", ["a", "g"], ["line 3", "line 4", "line 5", "line 6"]),
        (parquet_file, "rows.parquet", ["a", "g"], ["row 2", "row 3"]),
    ],
)
def test_bad_rows_are_skipped_and_named_by_their_line(
    topwork: Command, tmp_path: Path, make: Any, name: str, good: list[str], lines: list[str]
) -> None:
    words = ["write", "s", "--from", make(tmp_path / name), "--id", "id", "--encoder", "letters"]
    assert topwork(*words) == 1
    assert any(f"{name} {line}" in topwork.stderr for line in lines)
    assert "Traceback" not in topwork.stderr
    assert topwork(*words, "--skip-bad-items") == 0, topwork.stderr
    skipped = [line for line in topwork.stderr.splitlines() if "skipped" in line]
    assert len(skipped) == len(lines)
    assert all(text in line for text, line in zip(lines, skipped, strict=True)), skipped
    assert [item["id"] for item in topwork.json("read", "s")["items"]] == good


def test_metadata_that_does_not_fit_makes_a_bad_row(topwork: Command, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,n\none,1\ntwo,x\nthree,3\n")
    words = ["write", "s", "--from", tmp_path / "a.csv", "--encoder", "letters", "--type", "n=int"]
    assert topwork(*words) == 1
    assert topwork(*words, "--skip-bad-items") == 0
    assert "skipped 'a:2': " in topwork.stderr
    assert "a.csv line 3: 'n' is 'x', no int" in topwork.stderr
    assert [item["id"] for item in topwork.json("read", "s")["items"]] == ["a:1", "a:3"]


@pytest.mark.parametrize("verb", ["embed", "predict"])
def test_bad_rows_of_what_is_embedded_or_predicted(topwork: Command, tmp_path: Path, verb: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": null}\n{"text": "three"}\n')
    if verb == "predict":
        (tmp_path / "b.csv").write_text("text,label\na,x\nb,y\n")
        assert topwork("write", "s", "--from", tmp_path / "b.csv", "--encoder", "letters") == 0
        assert topwork("train", "s", "--target", "label", "--name", "h") == 0, topwork.stderr
    words = [verb, "letters" if verb == "embed" else "h", "--from", tmp_path / "a.jsonl"]
    assert topwork(*words) == 1
    assert "a.jsonl line 2 has no text under 'text'" in topwork.stderr
    assert topwork(*words, "--skip-bad-items") == 0, topwork.stderr
    assert "skipped 'a.jsonl line 2': " in topwork.stderr
    assert "has no text under 'text'" in topwork.stderr


TEXT = "text,größe\nnaïve café,3\nœuvre,4\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (TEXT.encode("utf-8-sig"), []),
        (codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), []),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), []),
        (codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"), []),
        (TEXT.encode("utf-16-le"), ["--encoding", "utf-16-le"]),
        (codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), ["--encoding", "UTF-16LE"]),
        (TEXT.encode("cp1252"), ["--encoding", "cp1252"]),
        (TEXT.replace("œ", "o").encode("latin-1"), ["--encoding", "latin-1"]),
    ],
)
def test_encodings(topwork: Command, tmp_path: Path, data: bytes, words: list[str]) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    assert topwork("write", "s", tmp_path / "a.csv", "--encoder", "letters", "--keep-inputs", *words) == 0, topwork.stderr
    assert topwork.json("sets", "s")["columns"] == {"größe": "int"}
    first = topwork.json("search", "s", "naïve café", "-k", "1")[0]["hits"][0]
    assert (first["id"], first["text"], first["metadata"]) == ("a:1", "naïve café", {"größe": 3})


@pytest.mark.parametrize(
    ("data", "words", "message"),
    [
        (TEXT.encode("cp1252"), [], "a.csv is not UTF-8: invalid start byte at b'\\xf6"),
        (TEXT.encode("cp1252"), [], "say which it is: --encoding cp1252"),
        (TEXT.encode("utf-16-le"), [], "try --encoding utf-16-le"),
        (TEXT.encode("utf-16-be"), [], "try --encoding utf-16-be"),
        (bytes(range(256)) * 8, [], "binary"),
        (TEXT.encode("cp1252"), ["--encoding", "utf-8"], "is not utf-8"),
        (b"\xff\xfea", [], "is not utf-16"),
    ],
)
def test_what_cannot_be_decoded_names_the_remedy(
    topwork: Command, tmp_path: Path, data: bytes, words: list[str], message: str
) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    assert topwork("write", "s", tmp_path / "a.csv", "--encoder", "letters", *words) == 1
    assert message in topwork.stderr
    assert "Traceback" not in topwork.stderr


def test_an_encoding_that_there_is_not(topwork: Command, tmp_path: Path) -> None:
    for name in ("latin-99", "hex", "\0"):
        assert topwork("write", "s", tmp_path / "a.csv", "--encoding", name) == 2


COLUMNS = ["größe", "日本語", "हिन्दी", "имя", "naïve_2"]


def test_columns_of_any_script_from_a_file_to_a_filter_and_into_a_file(
    real_target: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Also those that the file writes with combining accents."""
    command = Command(real_target, capsys)
    header = ",".join(["text", *(unicodedata.normalize("NFD", column) for column in COLUMNS)])
    (tmp_path / "a.csv").write_text(f"{header}\none{',1' * 5}\ntwo{',2' * 5}\n")
    assert command("write", "s", tmp_path / "a.csv", "--encoder", "letters") == 0, command.stderr
    assert command.json("sets", "s")["columns"] == dict.fromkeys(COLUMNS, "int")
    for column in COLUMNS:
        for where in (f"{column} > 1", f'"{column}" = 2'):
            assert [item["id"] for item in command.json("read", "s", "--where", where)["items"]] == ["a:2"], where
    assert command("read", "s", "--column", "größe", "-o", tmp_path / "out.parquet") == 0, command.stderr
    assert parquet.read_table(tmp_path / "out.parquet").column("größe").to_pylist() == [1, 2]
