"""Files of items: what the commands read of them, and what they say of those that are not sound."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_stub import StubCommand, set_info
from cli_stub_heads import head_info
from topwork._codec import items
from topwork._files import record_files
from topwork._files.column_types import TypeInference, convert
from topwork.cli import schema_inference, write_sources
from topwork.cli.schema_inference import SchemaRequest
from topwork.cli.write_sources import InputSelection
from topwork.errors import InvalidInput
from topwork.features import Features, Numerics

Stored = dict[str, tuple[Any, Mapping[str, Any]]]


class Writes:
    """`topwork write s ...` with a client that remembers what it is given."""

    def __init__(self, topwork: StubCommand) -> None:
        self.topwork = topwork

    def __call__(self, *words: object, encoder: str = "letters") -> Stored:
        """Write, and return the stored item and metadata by id."""
        self.topwork.client.written.clear()
        assert self.topwork("write", "s", *words, "--encoder", encoder) == 0, self.topwork.stderr
        return dict(self.topwork.client.written)

    def refused(self, *words: object, encoder: str = "letters") -> str:
        """The error for items of which none may be stored."""
        self.topwork.client.written.clear()
        assert self.topwork("write", "s", *words, "--encoder", encoder) == 1
        assert self.topwork.client.written == {}
        return self.topwork.stderr


@pytest.fixture
def write(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Writes:
    return Writes(StubCommand(capsys, monkeypatch))


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


CSV = "id,text,stars,good,when,price,zip\na,one,5,true,2024-01-02,1,00123\nb,two,,FALSE,2024-01-02T03:04:05Z,2.5,99\n"


def test_a_csv_gives_ids_items_and_typed_metadata(write: Writes, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", CSV)
    day = datetime(2024, 1, 2, tzinfo=UTC)
    assert write(path, "--id", "id") == {
        "a": ("one", {"stars": 5, "good": True, "when": day, "price": 1.0, "zip": "00123"}),
        "b": ("two", {"good": False, "when": day.replace(hour=3, minute=4, second=5), "price": 2.5, "zip": "99"}),
    }
    assert isinstance(write(path)["a:1"][1]["price"], float)


def test_ids_are_the_files_name_and_the_rows_number_where_no_column_has_them(write: Writes, tmp_path: Path) -> None:
    assert list(write(written(tmp_path / "my reviews.csv", "text\n\none\n\ntwo\n"))) == ["my reviews:1", "my reviews:2"]


def test_columns_that_are_no_names_get_some_and_this_is_said_once(write: Writes, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "text,My-Col,my col,2x,id,_key,,features_x,größe,日本,empty\nt,1,2,3,4,5,6,7,8,9,\n")
    known = {"My_Col": 1, "my_col_": 2, "meta_2x": 3, "meta_id": 4, "meta_key": 5, "column_6": 6, "meta_features_x": 7}
    assert write(path) == {"a:1": ("t", {**known, "größe": 8, "日本": 9})}
    [renamed, left_out] = write.topwork.stderr.splitlines()
    assert "'My-Col' is My_Col" in renamed
    assert "'' is column_6" in renamed
    assert "'empty' is left out" in left_out
    write(path, "--json")
    assert write.topwork.stderr == ""


def test_names_do_not_clash(write: Writes, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", f"text,a b,A-b,a_b,{'c' * 200},{'c' * 300}\nt,1,2,3,4,5\n")
    metadata = write(path)["a:1"][1]
    assert list(metadata.values()) == [1, 2, 3, 4, 5]
    assert list(metadata)[:3] == ["a_b", "A_b_", "a_b__"]
    assert max(map(len, metadata)) <= 101


def test_what_is_kept_may_be_chosen(write: Writes, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", CSV)
    assert write(path, "--no-metadata")["a:1"] == ("one", {})
    assert write(path, "--metadata", "text,stars")["a:1"] == ("one", {"text": "one", "stars": 5})
    assert "no column 'x' (--metadata is one of id, text" in write.refused(path, "--metadata", "x")
    assert "no column 'nr' (--id is one of" in write.refused(path, "--id", "nr")


def test_types_may_be_declared_and_are_checked_before_anything_is_sent(write: Writes, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "text,n,m\na,1,1\nb,2,x\n")
    assert write(path, "--type", "n=float")["a:1"] == ("a", {"n": 1.0, "m": "1"})
    assert "a.csv line 3: 'm' is 'x', no int" in write.refused(path, "--type", "m=int")
    path = written(tmp_path / "b.csv", 'text,tags\na,"[""x"", ""y""]"\nb,\n')
    assert write(path, "--type", "tags=strings") == {"b:1": ("a", {"tags": ["x", "y"]}), "b:2": ("b", {})}


def test_a_byte_order_mark_a_tab_and_a_semicolon(write: Writes, tmp_path: Path) -> None:
    assert write(written(tmp_path / "a.csv", "\ufefftext,n\r\none,1\r\n")) == {"a:1": ("one", {"n": 1})}
    assert write(written(tmp_path / "a.tsv", "text\tn\none, two\t1\n")) == {"a:1": ("one, two", {"n": 1})}
    odd = written(tmp_path / "b.csv", "text;n\none;1\n")
    assert "say --separator ';'" in write.refused(odd)
    assert write(odd, "--separator", ";") == {"b:1": ("one", {"n": 1})}
    tabbed = written(tmp_path / "b.csv", "text\tn\none\t1\n")
    assert r"--separator '\t'" in write.refused(tabbed)
    assert write(tabbed, "--separator", r"\t") == write(tabbed, "--separator", "\t") == {"b:1": ("one", {"n": 1})}
    assert "one character" in write.refused(odd, "--separator", ";;")
    assert "has no separator" in write.refused(written(tmp_path / "c.txt", "a"), "--separator", ";")


@pytest.mark.parametrize(
    ("name", "content", "flags", "message"),
    [
        ("a.csv", "text,n\na,1\n\nb\n", [], "a.csv line 4 has 1 value for 2 columns"),
        ("a.csv", 'text,n\n"a\nb",1\nc,d,e\n', [], "a.csv line 4 has 3 values for 2 columns"),
        ("a.csv", 'text,n\na,1\nb,"open\n', [], "a.csv line 3: unexpected end of data"),
        ("a.csv", "text,n,n\n", [], "two columns 'n'"),
        ("a.csv", "text,n\n", [], "holds no items"),
        ("a.csv", "", ["--column", "text"], "has no columns"),
        ("a.csv", "body,n\na,1\n", [], "no column 'text' (--column is one of body, n)"),
        ("a.csv", b"text,n\n\xff,1\n", [], "is not UTF-8: invalid start byte at b'\\xff,1"),
        (
            "a.csv",
            "text,i\na,x\nb,y\nc,x\n",
            ["--id", "i"],
            "ids in 'i' come twice: 'x' in lines 2 and 4 (an id names one item)",
        ),
        ("a.csv", "text,i\na,x\nb,\n", ["--id", "i"], "line 3 has no id under 'i'"),
        ("a.jsonl", '{"text": "a", "i": 1}\n{"text": "b", "i": 1.5}\n', ["--id", "i"], "line 2: the id under 'i' is 1.5"),
        ("a.jsonl", '{"text": "a", "n": 1}\n{"text": "b", "n": "x"}\n', [], "'n' holds int in line 1, string in line 2"),
        ("a.jsonl", '{"text": "a"}\n{"text": 3}\n', [], "line 2: 'text' is 3, no text"),
        ("a.jsonl", '{"text": "a"}\n{\n', [], "line 2 is not JSON"),
        ("a.jsonl", '{"text": "a"}\n[1, 2]\n', ["--id", "text"], "line 2 is a list, and no object"),
        ("a.jsonl", '{"text": "a"}\n5\n', [], "line 2 is 5, and no object"),
        ("a.jsonl", '{"text": "a"}\n', ["--id", "i"], "line 1 has no id under 'i'"),
        ("a.jsonl", '{"text": "a", "o": {"x": 1}}\n', ["--metadata", "o"], "'o' cannot be kept: it holds an object in line 1"),
        ("a.txt", "", [], "holds no items"),
        ("a.txt", "a", ["--id", "i"], "has no columns"),
        ("a.xls", "", [], "is not a list of items"),
        ("missing.csv", None, [], "cannot be read: No such file"),
        ("a.parquet", "nothing of the kind", [], "a.parquet "),
    ],
)
def test_a_file_that_is_not_sound_is_refused_before_anything_is_sent(
    write: Writes, tmp_path: Path, name: str, content: str | bytes | None, flags: list[str], message: str
) -> None:
    if content is not None:
        written(tmp_path / name, content)
    assert message in write.refused("--from", tmp_path / name, *flags)


def test_many_ids_that_come_twice_are_named_in_part(write: Writes, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "text,i\n" + "".join(f"t,{i % 5}\n" for i in range(40)))
    stderr = write.refused(path, "--id", "i")
    assert "'0' in lines 2, 7, 12, 17, 22 and ..., " in stderr
    assert "and 2 more" in stderr


def test_ids_that_only_hash_alike_are_no_duplicates(write: Writes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_inference, "hash", lambda value: len(value), raising=False)
    assert list(write(written(tmp_path / "a.csv", "text,i\na,x\nb,y\n"), "--id", "i")) == ["x", "y"]


def test_json_lines(write: Writes, tmp_path: Path) -> None:
    lines = [
        '{"text": "a\\u2028b", "n": 1, "tags": ["x"], "deep": {"x": 1}, "f": 1, "maybe": null}',
        "",
        '{"text": "b", "late-comer": true, "f": 0.5, "n": NaN, "empty": ""}',
    ]
    assert write(written(tmp_path / "a.jsonl", "\n".join(lines)), "--type", "n=float") == {
        "a:1": ("a\u2028b", {"n": 1.0, "tags": ["x"], "f": 1.0}),
        "a:2": ("b", {"late_comer": True, "f": 0.5, "empty": ""}),
    }
    assert "'deep' is left out: it holds an object in line 1" in write.topwork.stderr
    assert "write a box as '10,20,60,80:owl'" in write.topwork.stderr
    assert write(written(tmp_path / "b.jsonl", '"one"\n"two"\n')) == {"b:1": ("one", {}), "b:2": ("two", {})}


def test_lines_of_text(write: Writes, tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "one\u2028more\r\ntwo")
    assert write(path) == {"a:1": ("one\u2028more", {}), "a:2": ("two", {})}


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


def test_parquet_is_typed_by_its_schema(write: Writes, tmp_path: Path) -> None:
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
    path = parquet(tmp_path / "a.parquet", **columns)
    day = datetime(1970, 1, 1, tzinfo=UTC)
    first = {"n": 1, "f": 1.5, "when": day.replace(microsecond=1), "day": day, "word": "x", "tags": ["a"], "price": 1.0}
    assert write(path) == {
        "a:1": ("one", first),
        "a:2": ("two", {"when": day.replace(microsecond=2), "word": "x", "tags": [], "price": 2.0}),
        "a:3": ("three", {"n": 3, "day": day.replace(day=2), "word": "y", "price": 3.0}),
    }
    assert "'vector' is left out" in write.topwork.stderr
    assert "'vector' cannot be kept" in write.refused(path, "--metadata", "vector")


def test_parquet_may_hold_pictures_and_has_rows_for_lines(write: Writes, tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", path=[b"png", b"jpg"], i=["x", "x"])
    assert [item for item, _ in write(path, encoder="pictures").values()] == [b"png", b"jpg"]
    assert "'x' in rows 1 and 2" in write.refused(path, "--id", "i", encoder="pictures")
    mixed = parquet(tmp_path / "b.parquet", text=["a", None, "b"])
    assert "row 2 has no text" in write.refused(mixed)
    assert list(write(mixed, "--skip-bad-items")) == ["b:1", "b:3"]
    assert "skipped 'b:2'" in write.topwork.stderr


def test_parquet_without_pyarrow(write: Writes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "topwork[parquet]" in write.refused(written(tmp_path / "a.parquet", ""))


def test_paths_in_a_file_are_relative_to_it(write: Writes, tmp_path: Path) -> None:
    path = written(tmp_path / "sub/list.csv", "path,label\na.jpg,owl\n/abs/b.jpg,wren\n")
    assert [item for item, _ in write(path, encoder="pictures").values()] == [tmp_path / "sub/a.jpg", Path("/abs/b.jpg")]


def test_a_folder(write: Writes, tmp_path: Path) -> None:
    for name in ("b.jpg", "owls/a.PNG", "owls/deep/c.gif", "notes.txt", ".thumbs/x.jpg", "owls/.hidden.jpg"):
        written(tmp_path / name, b"four")
    assert write(tmp_path, encoder="pictures") == {
        "b.jpg": (tmp_path / "b.jpg", {"name": "b.jpg"}),
        "owls/a.PNG": (tmp_path / "owls/a.PNG", {"name": "a.PNG", "folder": "owls"}),
        "owls/deep/c.gif": (tmp_path / "owls/deep/c.gif", {"name": "c.gif", "folder": "owls/deep"}),
    }
    kept = write(tmp_path, "--metadata", "folder", encoder="pictures")
    assert [metadata for _, metadata in kept.values()] == [{}, {"folder": "owls"}, {"folder": "owls/deep"}]
    assert "no 'x' (--metadata is one of folder, name)" in write.refused(tmp_path, "--metadata", "x", encoder="pictures")
    assert "leave --id out" in write.refused(tmp_path, "--id", "x", encoder="pictures")
    assert "holds no files of" in write.refused(tmp_path, encoder="clips")


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


def test_a_folder_s_links_are_followed_once_and_what_is_left_out_is_said(write: Writes, linked: Path) -> None:
    taken = ["a.jpg", "one.jpg", "again/c.jpg", "again/deep/d.jpg", "owls/b.jpg"]
    assert list(write(linked, encoder="pictures")) == taken
    stderr = write.topwork.stderr
    found = [line.partition(f"left out {linked}/")[2].split(": ") for line in stderr.splitlines()]
    reasons = {"lost.jpg": "nowhere", "pipe.jpg": "pipe", "socket.jpg": "socket"}
    named = [(name, reason[0]) for name, *reason in found if name]
    assert len(named) == 5
    assert all(reasons.get(name, "already") in reason for name, reason in named)
    assert "left out 2 more" in stderr
    write.topwork.client.found_heads = [head_info(encoder="pictures")]
    assert write.topwork("predict", "kinds", linked) == 0
    assert write.topwork.asked("predict")["items"] == [str(linked / name) for name in taken]


def test_a_folder_that_cannot_be_read_is_said(write: Writes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jpg", "closed/b.jpg"):
        written(tmp_path / name, b"four")
    scandir = os.scandir

    def refusing(path: Any) -> Any:  # tests may run as root, for whom every folder is open
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert list(write(tmp_path, encoder="pictures")) == ["a.jpg"]
    assert f"{tmp_path / 'closed'}: the folder cannot be read: Permission denied" in write.topwork.stderr
    assert "Permission denied" in write.refused(tmp_path / "closed", encoder="pictures")


@pytest.mark.parametrize("modality", ["image", "video", "audio", "tensor"])
def test_a_pipe_or_a_device_is_no_item(tmp_path: Path, modality: str) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "zero.npy").symlink_to("/dev/zero")
    for name in ("pipe.npy", "zero.npy"):
        with pytest.raises(InvalidInput, match="and no file"):
            items.pack(tmp_path / name, modality, 0)


def test_a_folder_of_texts(write: Writes, tmp_path: Path) -> None:
    written(tmp_path / "b.txt", "\ufeffone\ntwo")
    written(tmp_path / "a.txt", b"\xff")
    assert "a.txt is not UTF-8" in write.refused(tmp_path)
    assert write(tmp_path, "--skip-bad-items") == {"b.txt": ("one\ntwo", {"name": "b.txt"})}
    assert "skipped 'a.txt'" in write.topwork.stderr


def test_a_file_name_that_is_not_utf8(write: Writes, tmp_path: Path) -> None:
    written(tmp_path / b"\xff.jpg".decode(errors="surrogateescape"), b"four")
    assert "the name of b'\\xff.jpg' is not UTF-8" in write.refused(tmp_path, encoder="pictures")


def test_words(write: Writes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "word " * 100
    (short, shortened), (_, (item, _)) = write("a red bird", long).items()
    assert (short, shortened, item) == ("a red bird", ("a red bird", {}), long)
    assert max(map(len, write.topwork.client.written)) == 70
    assert "'a' comes twice" in write.refused("a", "a")
    assert "is a folder" in write.refused(tmp_path, "a")
    assert "are for files of items" in write.refused("a", "b", "--id", "x")
    written(tmp_path / "one/a.jpg", b"four")
    written(tmp_path / "two/a.jpg", b"four")
    monkeypatch.chdir(tmp_path)
    assert list(write("one", "two/a.jpg", encoder="pictures")) == ["a.jpg", "two/a.jpg"]
    assert "'a.jpg' comes twice" in write.refused("one", "two", encoder="pictures")


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
    records = record_files.ParquetFile.every
    monkeypatch.setattr(
        record_files.ParquetFile, "every", lambda self, columns=None: asked.append(columns) or records(self, columns)
    )
    assert schema_inference.survey(table, SchemaRequest("text", None, None, {})).total == 2
    assert asked == []
    schema_inference.survey(table, SchemaRequest("text", "i", None, {"n": "float"}))
    assert asked == [["n", "i"]]


def made(**others: Any) -> Features:
    rows = np.arange(8, dtype=np.float16).reshape(2, 4)
    known = {"counts": np.array([1, 1]), "dim": 4, "dtype": "float16", "numerics": Numerics("fake", "fp32", 1.0, 0.0)}
    return Features("letters", "pooled", "ab" * 32, "item", rows, **{**known, **others})


def vectors(write: Writes, path: Path) -> tuple[Any, list[str]]:
    """Return the vectors that `topwork write --vectors` sends, and their ids."""
    write.topwork.client.written.clear()
    assert write.topwork("write", "v", "--vectors", path) == 0, write.topwork.stderr
    return write.topwork.asked("write_stream")["vectors"], list(write.topwork.client.written)


def test_vectors_of_an_array(write: Writes, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 4)))
    rows, ids = vectors(write, tmp_path / "a.npy")
    assert (rows.dtype, rows.shape, ids) == (np.float32, (3, 4), ["a:1", "a:2", "a:3"])
    np.save(tmp_path / "b.npy", np.ones(4, np.float16))
    assert vectors(write, tmp_path / "b.npy")[0].shape == (1, 4)


def test_features_that_embed_wrote_come_back_whole(write: Writes, tmp_path: Path) -> None:
    features = made(counts=np.array([2, 0]), failures={1: InvalidInput("bad")}, spans=np.ones((2, 2)), span_kind="seconds")
    features.save(tmp_path / "a.npz", ["x", "y"])
    found, ids = vectors(write, tmp_path / "a.npz")
    assert (ids, found.fingerprint, found.numerics) == (["x", "y"], "ab" * 32, features.numerics)
    assert found.spans is not None
    assert str(found.failures[1]) == "bad"
    write.topwork.client.known["v"] = set_info("v")
    assert write.topwork("search", "v", "--vector", tmp_path / "a.npz") == 1
    assert "several rows, or none" in write.topwork.stderr
    made().save(tmp_path / "b.npz")
    assert vectors(write, tmp_path / "b.npz")[1] == ["b:1", "b:2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones((2, 2, 2), np.float32), "holds 2x2x2 float32, no vectors"),
        (np.ones((2, 2), np.int64), "holds 2x2 int64"),
        (np.ones((0, 2), np.float32), "holds 0x2 float32"),
        ("nothing", "holds no vectors"),
        ("", "holds no vectors"),
        (None, "cannot be read: No such file"),
    ],
)
def test_files_that_hold_no_vectors(write: Writes, tmp_path: Path, content: Any, message: str) -> None:
    if isinstance(content, np.ndarray):
        np.save(tmp_path / "a.npy", content)
    elif content is not None:
        written(tmp_path / "a.npy", content)
    assert message in write.refused("--vectors", tmp_path / "a.npy")


def test_archives_that_hold_no_vectors(write: Writes, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    assert "was not written by `topwork embed -o`" in write.refused("--vectors", tmp_path / "a.npz")
    made(dtype="binary").save(tmp_path / "c.npz")
    assert "holds features of binary" in write.refused("--vectors", tmp_path / "c.npz")
