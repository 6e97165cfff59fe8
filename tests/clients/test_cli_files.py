"""Files of items: what is read of them, and what is said of those that are not sound."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from topwork._codec import items
from topwork.cli import folders, parquet_reader, record_files, schema_inference, vector_files, write_sources
from topwork.cli.column_types import TypeInference, convert, identifiers
from topwork.cli.inputs import gather
from topwork.cli.schema_inference import SchemaRequest
from topwork.cli.write_sources import InputSelection, WriteItem, WriteSource
from topwork.errors import InvalidInput, NotReady, TopworkError
from topwork.features import Features, Numerics


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def entries(source: WriteSource) -> list[WriteItem]:
    return [entry._replace(place="") for entry in source.entries]


CSV = "id,text,stars,good,when,price,zip\na,one,5,true,2024-01-02,1,00123\nb,two,,FALSE,2024-01-02T03:04:05Z,2.5,99\n"


def test_a_csv_gives_ids_items_and_typed_metadata(tmp_path: Path) -> None:
    source = write_sources.from_path(written(tmp_path / "a.csv", CSV), InputSelection(id="id"))
    assert source.total == 2
    assert entries(source) == [
        WriteItem(
            "a",
            "one",
            {"stars": 5, "good": True, "when": datetime(2024, 1, 2, tzinfo=UTC), "price": 1.0, "zip": "00123"},
        ),
        WriteItem("b", "two", {"good": False, "when": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), "price": 2.5, "zip": "99"}),
    ]
    assert isinstance(entries(write_sources.from_path(tmp_path / "a.csv", InputSelection()))[0].metadata["price"], float)


def test_ids_are_the_files_name_and_the_rows_number_where_no_column_has_them(tmp_path: Path) -> None:
    path = written(tmp_path / "my reviews.csv", "text\n\none\n\ntwo\n")
    assert [entry.id for entry in entries(write_sources.from_path(path, InputSelection()))] == ["my reviews:1", "my reviews:2"]


def test_columns_that_are_no_names_get_some_and_this_is_said_once(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "text,My-Col,my col,2x,id,_key,,features_x,größe,日本,empty\nt,1,2,3,4,5,6,7,8,9,\n")
    source = write_sources.from_path(path, InputSelection())
    [entry] = source.entries
    known = {"My_Col": 1, "my_col_": 2, "meta_2x": 3, "meta_id": 4, "meta_key": 5, "column_6": 6, "meta_features_x": 7}
    assert entry.metadata == {**known, "größe": 8, "日本": 9}
    [renamed, left_out] = source.notes
    assert "'My-Col' is My_Col" in renamed
    assert "'' is column_6" in renamed
    assert left_out == "column 'empty' is left out: it is empty"


def test_names_do_not_clash() -> None:
    assert identifiers(["a b", "A-b", "a_b"]) == {"a b": "a_b", "A-b": "A_b_", "a_b": "a_b__"}
    assert len(identifiers(["a" * 200, "a" * 300])["a" * 300]) <= 100


def test_what_is_kept_may_be_chosen(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", CSV)
    assert entries(write_sources.from_path(path, InputSelection(metadata=[])))[0].metadata == {}
    kept = entries(write_sources.from_path(path, InputSelection(metadata=["text", "stars"])))[0].metadata
    assert kept == {"text": "one", "stars": 5}
    with pytest.raises(InvalidInput, match=r"no column 'x' \(--metadata is one of id, text"):
        write_sources.from_path(path, InputSelection(metadata=["x"]))
    with pytest.raises(InvalidInput, match=r"no column 'nr' \(--id is one of"):
        write_sources.from_path(path, InputSelection(id="nr"))


def test_types_may_be_declared_and_are_checked_before_anything_is_sent(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "text,n,m\na,1,1\nb,2,x\n")
    source = write_sources.from_path(path, InputSelection(kinds={"n": "float"}))
    assert entries(source)[0].metadata == {"n": 1.0, "m": "1"}
    with pytest.raises(InvalidInput, match=r"a\.csv line 3: 'm' is 'x', no int"):
        write_sources.from_path(path, InputSelection(kinds={"m": "int"}))
    path = written(tmp_path / "b.csv", 'text,tags\na,"[""x"", ""y""]"\nb,\n')
    assert [e.metadata for e in write_sources.from_path(path, InputSelection(kinds={"tags": "strings"})).entries] == [
        {"tags": ["x", "y"]},
        {},
    ]


def test_a_byte_order_mark_a_tab_and_a_semicolon(tmp_path: Path) -> None:
    marked = written(tmp_path / "a.csv", "\ufefftext,n\r\none,1\r\n".encode())
    assert entries(write_sources.from_path(marked, InputSelection())) == [WriteItem("a:1", "one", {"n": 1})]
    tabs = written(tmp_path / "a.tsv", "text\tn\none, two\t1\n")
    assert entries(write_sources.from_path(tabs, InputSelection())) == [WriteItem("a:1", "one, two", {"n": 1})]
    odd = written(tmp_path / "b.csv", "text;n\none;1\n")
    with pytest.raises(InvalidInput, match=r"separated by ';', not ',' \(say --separator ';'\)"):
        write_sources.from_path(odd, InputSelection())
    assert entries(write_sources.from_path(odd, InputSelection(separator=";"))) == [WriteItem("b:1", "one", {"n": 1})]
    with pytest.raises(InvalidInput, match="has no separator of columns"):
        write_sources.from_path(written(tmp_path / "c.txt", "a"), InputSelection(separator=";"))


@pytest.mark.parametrize(
    ("name", "content", "taken", "message"),
    [
        ("a.csv", "text,n\na,1\n\nb\n", {}, r"a\.csv line 4 has 1 value for 2 columns"),
        ("a.csv", 'text,n\n"a\nb",1\nc,d,e\n', {}, r"a\.csv line 4 has 3 values for 2 columns"),
        ("a.csv", 'text,n\na,1\nb,"open\n', {}, r"a\.csv line 3: unexpected end of data"),
        ("a.csv", "text,n,n\n", {}, "two columns 'n'"),
        ("a.csv", "text,n\n", {}, "holds no items"),
        ("a.csv", "", {"column": "text"}, r"no column 'text' \(--column is one of none\)"),
        ("a.csv", "body,n\na,1\n", {}, r"no column 'text' \(--column is one of body, n\)"),
        ("a.csv", b"text,n\n\xff,1\n", {}, r"is not UTF-8: invalid start byte at b'\\xff,1"),
        (
            "a.csv",
            "text,i\na,x\nb,y\nc,x\n",
            {"id": "i"},
            r"ids in 'i' come twice: 'x' in lines 2 and 4 \(an id names one item\)",
        ),
        ("a.csv", "text,i\na,x\nb,\n", {"id": "i"}, r"line 3 has no id under 'i'"),
        ("a.jsonl", '{"text": "a", "i": 1}\n{"text": "b", "i": 1.5}\n', {"id": "i"}, "line 2: the id under 'i' is 1.5"),
        ("a.jsonl", '{"text": "a", "n": 1}\n{"text": "b", "n": "x"}\n', {}, "'n' holds int in line 1, string in line 2"),
        ("a.jsonl", '{"text": "a"}\n{"text": 3}\n', {}, "line 2: 'text' is 3, no text"),
        ("a.jsonl", '{"text": "a"}\n{\n', {}, "line 2 is not JSON"),
        ("a.jsonl", '{"text": "a"}\n[1, 2]\n', {"id": "text"}, "line 2 is a list, and no object"),
        ("a.jsonl", '{"text": "a"}\n5\n', {}, "line 2 is 5, and no object"),
        ("a.jsonl", '{"text": "a"}\n', {"id": "i"}, "line 1 has no id under 'i'"),
        ("a.jsonl", '{"text": "a", "o": {"x": 1}}\n', {"metadata": ["o"]}, "'o' cannot be kept: it holds an object in line 1"),
        ("a.txt", "", {}, "holds no items"),
        ("a.txt", "a", {"id": "i"}, "has no columns"),
        ("a.xls", "", {}, "is not a list of items"),
        ("missing.csv", None, {}, "cannot be read: No such file"),
        ("a.parquet", "nothing of the kind", {}, "a.parquet is not Parquet|cannot be read"),
    ],
)
def test_a_file_that_is_not_sound_is_refused_before_anything_is_sent(
    tmp_path: Path, name: str, content: str | bytes | None, taken: dict[str, Any], message: str
) -> None:
    if content is not None:
        written(tmp_path / name, content)
    with pytest.raises(InvalidInput, match=message):
        write_sources.from_path(tmp_path / name, InputSelection(**taken))


def test_many_ids_that_come_twice_are_named_in_part(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "text,i\n" + "".join(f"t,{i % 5}\n" for i in range(40)))
    with pytest.raises(InvalidInput) as caught:
        write_sources.from_path(path, InputSelection(id="i"))
    assert "'0' in lines 2, 7, 12, 17, 22 and ..., " in str(caught.value)
    assert "and 2 more" in str(caught.value)


def test_ids_that_only_hash_alike_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_inference, "hash", lambda value: len(value), raising=False)
    path = written(tmp_path / "a.csv", "text,i\na,x\nb,y\n")
    assert [entry.id for entry in entries(write_sources.from_path(path, InputSelection(id="i")))] == ["x", "y"]


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        '{"text": "a\\u2028b", "n": 1, "tags": ["x"], "deep": {"x": 1}, "f": 1, "maybe": null}',
        "",
        '{"text": "b", "late-comer": true, "f": 0.5, "n": NaN, "empty": ""}',
    ]
    source = write_sources.from_path(written(tmp_path / "a.jsonl", "\n".join(lines)), InputSelection(kinds={"n": "float"}))
    assert entries(source) == [
        WriteItem("a:1", "a\u2028b", {"n": 1.0, "tags": ["x"], "f": 1.0}),
        WriteItem("a:2", "b", {"late_comer": True, "f": 0.5, "empty": ""}),
    ]
    assert any("'deep' is left out: it holds an object in line 1" in note for note in source.notes)
    plain = written(tmp_path / "b.jsonl", '"one"\n"two"\n')
    assert entries(write_sources.from_path(plain, InputSelection())) == [WriteItem("b:1", "one", {}), WriteItem("b:2", "two", {})]


def test_lines_of_text(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "one\u2028more\r\ntwo")
    source = write_sources.from_path(path, InputSelection())
    assert (source.total, entries(source)) == (2, [WriteItem("a:1", "one\u2028more", {}), WriteItem("a:2", "two", {})])


def test_a_file_is_read_as_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.csv", "text,n\n" + "x,1\n" * 1000)
    source = write_sources.from_path(path, InputSelection())
    read: list[int] = []
    rows = record_files.DelimitedFile._rows

    def counted(self: Any) -> Any:
        for row in rows(self):
            read.append(row[0])
            yield row

    monkeypatch.setattr(record_files.DelimitedFile, "_rows", counted)
    first = next(iter(source.entries))
    assert (first.id, len(read)) == ("a:1", 2)


def parquet(file: Path, **columns: Any) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table(columns), file, row_group_size=2)
    return file


def test_parquet_is_typed_by_its_schema(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    columns = {
        "text": ["one", "two", "three"],
        "n": pa.array([1, None, 3], pa.int16()),
        "f": pa.array([1.5, float("nan"), None], pa.float32()),
        "when": pa.array([1000, 2000, None], pa.timestamp("ns")),
        "day": pa.array([0, None, 1], pa.date32()),
        "word": pa.array(["x", "x", "y"]).dictionary_encode(),
        "tags": pa.array([["a"], [], None], pa.list_(pa.string())),
        "vector": pa.array([[1.0], [2.0], [3.0]], pa.list_(pa.float32())),
        "price": pa.array([1, 2, 3], pa.decimal128(5, 2)),
    }
    source = write_sources.from_path(parquet(tmp_path / "a.parquet", **columns), InputSelection())
    first, second, third = entries(source)
    day = datetime(1970, 1, 1, tzinfo=UTC)
    assert first == WriteItem(
        "a:1", "one", {"n": 1, "f": 1.5, "when": day.replace(microsecond=1), "day": day, "word": "x", "tags": ["a"], "price": 1.0}
    )
    assert second.metadata == {"when": day.replace(microsecond=2), "word": "x", "tags": [], "price": 2.0}
    assert third.metadata == {"n": 3, "day": datetime(1970, 1, 2, tzinfo=UTC), "word": "y", "price": 3.0}
    assert source.notes == ["column 'vector' is left out: its type is none of metadata's"]
    with pytest.raises(InvalidInput, match="'vector' cannot be kept"):
        write_sources.from_path(tmp_path / "a.parquet", InputSelection(metadata=["vector"]))


def test_parquet_may_hold_pictures_and_has_rows_for_lines(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", path=[b"png", b"jpg"], i=["x", "x"])
    assert [entry.item for entry in entries(write_sources.from_path(path, InputSelection("image")))] == [b"png", b"jpg"]
    with pytest.raises(InvalidInput, match="'x' in rows 1 and 2"):
        write_sources.from_path(path, InputSelection("image", id="i"))
    mixed = parquet(tmp_path / "b.parquet", text=["a", None, "b"])
    with pytest.raises(InvalidInput, match="row 2 has no text"):
        entries(write_sources.from_path(mixed, InputSelection()))
    refused: list[str] = []
    taken = InputSelection(refuse=lambda id, error: refused.append(id))
    assert [entry.id for entry in entries(write_sources.from_path(mixed, taken))] == ["b:1", "b:3"]
    assert refused == ["b:2"]


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> tuple[Any, Any]:
        raise NotReady("reading .parquet needs pyarrow", remedy="pip install 'topwork[parquet]', or give .jsonl")

    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(NotReady, match=r"reading \.parquet needs pyarrow"):
        parquet_reader._pyarrow()
    monkeypatch.setattr(parquet_reader, "_pyarrow", missing)
    with pytest.raises(NotReady, match=r"topwork\[parquet\]"):
        write_sources.from_path(tmp_path / "a.parquet", InputSelection())


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    path = written(tmp_path / "sub/list.csv", "path,label\na.jpg,owl\n/abs/b.jpg,wren\n")
    assert [entry.item for entry in entries(write_sources.from_path(path, InputSelection("image")))] == [
        tmp_path / "sub/a.jpg",
        Path("/abs/b.jpg"),
    ]


def test_a_folder(tmp_path: Path) -> None:
    for name in ("b.jpg", "owls/a.PNG", "owls/deep/c.gif", "notes.txt", ".thumbs/x.jpg", "owls/.hidden.jpg"):
        written(tmp_path / name, b"four")
    source = write_sources.from_path(tmp_path, InputSelection("image"))
    assert source.total == 3
    assert entries(source) == [
        WriteItem("b.jpg", tmp_path / "b.jpg", {"name": "b.jpg"}),
        WriteItem("owls/a.PNG", tmp_path / "owls/a.PNG", {"name": "a.PNG", "folder": "owls"}),
        WriteItem("owls/deep/c.gif", tmp_path / "owls/deep/c.gif", {"name": "c.gif", "folder": "owls/deep"}),
    ]
    assert [e.metadata for e in write_sources.from_path(tmp_path, InputSelection("image", metadata=["folder"])).entries][1:] == [
        {"folder": "owls"},
        {"folder": "owls/deep"},
    ]
    with pytest.raises(InvalidInput, match=r"files have no 'x' \(--metadata is one of folder, name\)"):
        entries(write_sources.from_path(tmp_path, InputSelection("image", metadata=["x"])))
    with pytest.raises(InvalidInput, match="leave --column, --id and --separator out"):
        write_sources.from_path(tmp_path, InputSelection("image", id="x"))
    with pytest.raises(InvalidInput, match="holds no files of"):
        write_sources.from_path(tmp_path, InputSelection("video"))


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with links out of it, into it and back, and with what is no file."""
    root = tmp_path / "root"
    for name in ("root/a.jpg", "root/owls/b.jpg", "elsewhere/c.jpg", "elsewhere/deep/d.jpg", "one.jpg"):
        written(tmp_path / name, b"four")
    for name, target in (
        ("away", "../elsewhere"),
        ("again", "../elsewhere"),
        ("back", "."),
        ("also owls", "owls"),
        ("one.jpg", "../one.jpg"),
    ):
        (root / name).symlink_to(target)
    (tmp_path / "elsewhere" / "home").symlink_to(root)
    (root / "lost.jpg").symlink_to("nowhere")
    os.mkfifo(root / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(root / "socket.jpg"))
    return root


def test_a_folder_s_links_are_followed_once_and_what_is_left_out_is_said(
    linked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_sources.from_path(linked, InputSelection("image"))
    taken = ["a.jpg", "one.jpg", "again/c.jpg", "again/deep/d.jpg", "owls/b.jpg"]
    assert [entry.id for entry in entries(source)] == taken
    assert source.total == len(taken)
    words = SimpleNamespace(items=[str(linked)], source=None)
    assert [os.path.relpath(name, linked) for name in gather(words, "image").names] == taken
    lost: dict[str, str] = {}
    list(folders.files(linked, "image", lambda path, reason: lost.update({os.path.relpath(path, linked): reason})))
    assert {
        name: next(word for word in ("already", "nowhere", "pipe", "socket") if word in why) for name, why in lost.items()
    } == {
        "lost.jpg": "nowhere",
        "pipe.jpg": "pipe",
        "socket.jpg": "socket",
        "also owls": "already",
        "away": "already",
        "back": "already",
        "again/home": "already",
    }
    said = capsys.readouterr().err
    assert f"left out {linked / 'pipe.jpg'}: a pipe" in said
    assert "left out 2 more" in said


def test_a_folder_that_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "closed/b.jpg"):
        written(tmp_path / name, b"four")
    scandir = os.scandir

    def refusing(path: Any) -> Any:  # tests may run as root, for whom every folder is open
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert [entry.id for entry in entries(write_sources.from_path(tmp_path, InputSelection("image")))] == ["a.jpg"]
    assert f"{tmp_path / 'closed'}: the folder cannot be read: Permission denied" in capsys.readouterr().err
    with pytest.raises(InvalidInput, match=r"holds no files of .*Permission denied"):
        write_sources.from_path(tmp_path / "closed", InputSelection("image"))


@pytest.mark.parametrize("modality", ["image", "video", "tensor"])
def test_a_pipe_or_a_device_is_no_item(tmp_path: Path, modality: str) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "zero.npy").symlink_to("/dev/zero")
    for name in ("pipe.npy", "zero.npy"):
        with pytest.raises(InvalidInput, match="and no file"):
            items.pack(tmp_path / name, modality, 0)


def test_a_folder_of_texts(tmp_path: Path) -> None:
    written(tmp_path / "a.txt", "\ufeffone\ntwo")
    written(tmp_path / "b.txt", b"\xff")
    with pytest.raises(InvalidInput, match=r"b\.txt is not UTF-8"):
        entries(write_sources.from_path(tmp_path, InputSelection()))
    refused: dict[str, TopworkError] = {}
    source = write_sources.from_path(tmp_path, InputSelection(refuse=lambda id, error: refused.update({id: error})))
    assert entries(source) == [WriteItem("a.txt", "one\ntwo", {"name": "a.txt"})]
    assert list(refused) == ["b.txt"]
    with pytest.raises(InvalidInput, match=r"nowhere\.txt cannot be read"):
        folders.contents(tmp_path / "nowhere.txt")


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    written(tmp_path / b"\xff.jpg".decode(errors="surrogateescape"), b"four")
    with pytest.raises(InvalidInput, match=r"the name of b'\\xff.jpg' is not UTF-8"):
        entries(write_sources.from_path(tmp_path, InputSelection("image")))


def test_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "word " * 100
    source = write_sources.from_words(["a red bird", long], InputSelection())
    first, second = source.entries
    assert (source.total, first) == (2, WriteItem("a red bird", "a red bird", {}))
    assert (second.item, len(second.id)) == (long, 70)
    with pytest.raises(InvalidInput, match="'a' comes twice"):
        entries(write_sources.from_words(["a", "b", "a"], InputSelection()))
    with pytest.raises(InvalidInput, match="is a folder, among texts"):
        write_sources.from_words([str(tmp_path), "a"], InputSelection())
    with pytest.raises(InvalidInput, match="are for files of items"):
        write_sources.from_words(["a"], InputSelection(id="x"))
    written(tmp_path / "one/a.jpg", b"four")
    written(tmp_path / "two/a.jpg", b"four")
    monkeypatch.chdir(tmp_path)
    source = write_sources.from_words(["one", "two/a.jpg"], InputSelection("image"))
    assert (source.total, [entry.id for entry in entries(source)]) == (2, ["a.jpg", "two/a.jpg"])
    with pytest.raises(InvalidInput, match=r"'a\.jpg' comes twice"):
        entries(write_sources.from_words(["one", "two"], InputSelection("image")))


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["true", "False"], "bool"),
        (["1", "-2", "+3"], "int"),
        (["1", "2.5", "1e3", ".5", "3."], "float"),
        (["0", "1"], "int"),
        (["007", "1"], "string"),
        (["9223372036854775807"], "int"),
        (["9223372036854775808"], "string"),
        (["2024-01-02", "2024-01-02 03:04", "2024-01-02T03:04:05.123456+02:00"], "time"),
        (["2024-13-02"], "string"),
        (["nan", "1"], "string"),
        (["1_000"], "string"),
        ([" 1 ", "2"], "int"),
        (["", "", "1"], "int"),
        (["true", "1"], "string"),
        (["1", "2024-01-02"], "string"),
        (["1.5", "2"], "float"),
        (["1.5", "9223372036854775808"], "string"),
        (["", ""], None),
    ],
)
def test_types_of_texts(texts: list[str], kind: str | None) -> None:
    guess = TypeInference()
    for text in texts:
        guess.take_text(text)
    assert (guess.kind, guess.conflict) == (kind, "")
    if kind:
        for text in texts:
            convert(kind, text)


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        ("int", 3.0, 3),
        ("int", " ", None),
        ("float", 2, 2.0),
        ("float", float("nan"), None),
        ("string", True, "true"),
        ("string", 1.5, "1.5"),
        ("string", " x ", " x "),
        ("time", "2024-01-02T03:00:00+02:00", datetime(2024, 1, 2, 1, tzinfo=UTC)),
        ("strings", '["a"]', ["a"]),
    ],
)
def test_conversions(kind: str, value: Any, wanted: Any) -> None:
    assert convert(kind, value) == wanted


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", 1 << 63),
        ("int", True),
        ("int", 1.5),
        ("float", float("inf")),
        ("float", "x"),
        ("bool", 1),
        ("time", 5),
        ("string", [1]),
        ("strings", "[1]"),
        ("strings", "x"),
    ],
)
def test_conversions_that_would_lose_something(kind: str, value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        convert(kind, value)


def test_a_survey_of_parquet_reads_no_more_than_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = record_files.opened(parquet(tmp_path / "a.parquet", text=["a", "b"], n=[1, 2], i=["x", "y"]))
    asked: list[Any] = []
    records = parquet_reader.ParquetFile.every
    monkeypatch.setattr(
        parquet_reader.ParquetFile, "every", lambda self, columns=None: asked.append(columns) or records(self, columns)
    )
    assert schema_inference.survey(table, SchemaRequest("text", None, None, {})).total == 2
    assert asked == []
    schema_inference.survey(table, SchemaRequest("text", "i", None, {"n": "float"}))
    assert asked == [["n", "i"]]


def made(**others: Any) -> Features:
    rows = np.arange(8, dtype=np.float16).reshape(2, 4)
    known = {"counts": np.array([1, 1]), "dim": 4, "dtype": "float16", "numerics": Numerics("fake", "fp32", 1.0, 0.0)}
    return Features("letters", "pooled", "ab" * 32, "item", rows, **{**known, **others})


def test_vectors(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 4)))
    found = vector_files.load(tmp_path / "a.npy")
    assert (found.rows.dtype, found.rows.shape, found.features) == (np.float32, (3, 4), None)
    assert found.labels(tmp_path / "a.npy") == ["a:1", "a:2", "a:3"]
    np.save(tmp_path / "b.npy", np.ones(4, np.float16))
    assert vector_files.single(tmp_path / "b.npy").rows.shape == (1, 4)


def test_features_that_embed_wrote_come_back_whole(tmp_path: Path) -> None:
    features = made(counts=np.array([2, 0]), failures={1: InvalidInput("bad")}, spans=np.ones((2, 2)), span_kind="seconds")
    features.save(tmp_path / "a.npz", ["x", "y"])
    found = vector_files.load(tmp_path / "a.npz")
    assert found.features is not None
    assert (found.names, len(found), found.features.fingerprint) == (["x", "y"], 2, "ab" * 32)
    assert found.features.numerics == features.numerics
    assert found.features.spans is not None
    assert str(found.features.failures[1]) == "bad"
    with pytest.raises(InvalidInput, match="several rows, or none"):
        vector_files.single(tmp_path / "a.npz")
    made().save(tmp_path / "b.npz")
    assert vector_files.single(tmp_path / "b.npz").labels(tmp_path / "b.npz") == ["b:1", "b:2"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 2, 2), np.float32), "holds 2x2x2 float32, no vectors"),
        (np.ones((2, 2), np.int64), "holds 2x2 int64"),
        (np.ones((0, 2), np.float32), "holds 0x2 float32"),
    ],
)
def test_arrays_that_are_no_vectors(tmp_path: Path, array: Any, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InvalidInput, match=message):
        vector_files.load(tmp_path / "a.npy")


def test_files_that_hold_no_vectors(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        vector_files.load(tmp_path / "a.npy")
    with pytest.raises(InvalidInput, match="holds no vectors"):
        vector_files.load(written(tmp_path / "a.npy", "nothing"))
    with pytest.raises(InvalidInput, match="holds no vectors"):
        vector_files.load(written(tmp_path / "b.npy", ""))
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    with pytest.raises(InvalidInput, match="was not written by `topwork embed -o`"):
        vector_files.load(tmp_path / "a.npz")
    made(dtype="binary").save(tmp_path / "c.npz")
    with pytest.raises(InvalidInput, match="holds features of binary"):
        vector_files.load(tmp_path / "c.npz")
