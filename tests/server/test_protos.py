"""The protos: their generated code is not stale, all of them is documented, and what is released does not change."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from protos import check

ROOT = Path(__file__).parents[2]
#: Where generated code is, by the folder that a fresh generation writes it into.
COMMITTED = {
    "topwork/v1": ROOT / "clients" / "python" / "topwork" / "v1",
    "others": ROOT / "server" / "topwork_server" / "doors" / "protocols",
}

#: The fields of a descriptor that hold parts with names, as SourceCodeInfo's paths go through them.
PARTS = ("message_type", "enum_type", "service", "field", "nested_type", "value", "method", "oneof_decl")


def generated(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in sorted(folder.iterdir()) if "_pb2" in path.name}


def test_generated_code_is_not_stale(tmp_path):
    command = ["bash", str(ROOT / "protos" / "generate"), str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHON": sys.executable})
    for part, folder in COMMITTED.items():
        fresh, committed = generated(tmp_path / part), generated(folder)
        assert list(fresh) == list(committed), "a proto was added or removed: run protos/generate, and commit"
        stale = [name for name in fresh if fresh[name] != committed[name]]
        assert not stale, "run protos/generate, and commit what it writes"


def compiled(folder: Path, source: str) -> list[FileDescriptorProto]:
    path = folder / "topwork" / "v1" / "a.proto"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return check.compile_protos(folder)


def parts_of(descriptor: Any, name: str, path: tuple[int, ...] = ()) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each part of a file with its full name and its path in the source info, without what protoc adds: the entries of maps, and
    the oneof of an optional field."""
    for field in descriptor.DESCRIPTOR.fields:
        if field.name not in PARTS:
            continue
        for position, part in enumerate(getattr(descriptor, field.name)):
            if (field.name == "nested_type" and part.options.map_entry) or part.name.startswith("_"):
                continue
            yield f"{name}.{part.name}", (*path, field.number, position)
            yield from parts_of(part, f"{name}.{part.name}", (*path, field.number, position))


def undocumented(file: FileDescriptorProto) -> list[str]:
    about = {tuple(one.path): one.leading_comments + one.trailing_comments for one in file.source_code_info.location}
    return [name for name, path in parts_of(file, file.package) if not about.get(path, "").strip()]


def test_everything_has_a_comment():
    files = check.compile_protos(check.PROTOS)
    assert sum(len(list(parts_of(file, ""))) for file in files) > 400
    assert [name for file in files for name in undocumented(file)] == []


def test_what_has_no_comment_is_named(tmp_path):
    source = """syntax = "proto3"; package a;
    // Documented.
    message M {
      string told = 1;  // told
      string bare = 2;
      oneof which { string inside = 3; }
    }
    enum E { ZERO = 0; }
    service S { rpc Call(M) returns (M); }
    """
    (file,) = compiled(tmp_path, source)
    names = {"a.M.bare", "a.M.which", "a.M.inside", "a.E", "a.E.ZERO", "a.S", "a.S.Call"}
    assert set(undocumented(file)) == names


RELEASED = """syntax = "proto3"; package a;
message M {
  string name = 1;
  repeated int32 sizes = 2;
  oneof which { bytes image = 3; bytes video = 4; }
  map<string, int64> counts = 5;
  optional float within = 6;
  Kind kind = 7;
}
enum Kind { KIND_UNSPECIFIED = 0; KIND_BIG = 1; }
service S { rpc Call(M) returns (M); rpc Watch(M) returns (stream M); }
"""

#: What is changed -> (what there was, what there is, words of the sentence).
BREAKS = {
    "a field's number": ("name = 1", "name = 8", "a.M.name is released with the number 1, and has 8"),
    "a field's name": ("string name = 1", "string title = 1", "a.M.name is released as `string name`, and is `string title`"),
    "a field's type": ("string name = 1", "bytes name = 1", "`string name`, and is `bytes name`"),
    "a field's label": ("repeated int32", "int32", "`repeated int32 sizes`, and is `int32 sizes`"),
    "a field's presence": ("optional float", "float", "`optional float within`, and is `float within`"),
    "a field's oneof": ("oneof which", "oneof content", "`bytes image of which`, and is `bytes image of content`"),
    "a map's values": (
        "map<string, int64>",
        "map<string, double>",
        "`map<string,int64> counts`, and is `map<string,double> counts`",
    ),
    "a field's enum": ("Kind kind", "int32 kind", "`a.Kind kind`, and is `int32 kind`"),
    "two numbers swapped": (
        "image = 3; bytes video = 4",
        "image = 4; bytes video = 3",
        "a.M.image is released with the number 3",
    ),
    "no such field": ("string name = 1;", "", "a.M.name is released with the number 1, and is gone without being reserved"),
    "only the number reserved": ("string name = 1;", "reserved 1;", "a.M.name is released"),
    "only the name reserved": ("string name = 1;", 'reserved "name";', "a.M.name is released"),
    "a value's name": ("KIND_BIG", "KIND_LARGE", "a.Kind.KIND_BIG is released as `KIND_BIG`, and is `KIND_LARGE`"),
    "a value's number": ("KIND_BIG = 1", "KIND_BIG = 2", "a.Kind.KIND_BIG is released with the number 1, and has 2"),
    "no such value": ("KIND_BIG = 1;", "", "a.Kind.KIND_BIG is released with the number 1, and is gone"),
    "no such method": ("rpc Call(M) returns (M);", "", "The method a.S.Call is released, and is gone"),
    "a method's reply": ("Call(M) returns (M)", "Call(M) returns (N)", "a.S.Call is released as `a.M returns a.M`"),
    "a method's streaming": ("(stream M)", "(M)", "a.S.Watch is released as `a.M returns stream a.M`, and is `a.M returns a.M`"),
    "no such service": ("service S", "service T", "The service a.S is released, and is gone"),
    "another package": ("package a", "package b", "The message a.M is released, and is gone"),
}
ADDITIONS = {
    "a field": ("string name = 1;", "string name = 1; string more = 8;"),
    "a value": ("KIND_BIG = 1;", "KIND_BIG = 1; KIND_SMALL = 2;"),
    "a member of a oneof": ("bytes video = 4;", "bytes video = 4; bytes sound = 8;"),
    "a method": ("rpc Call", "rpc Stop(M) returns (M); rpc Call"),
    "a message": ("enum Kind", "message More {} enum Kind"),
    "a comment": ("string name", "/* the name */ string name"),
    "a field that goes and is reserved": ("string name = 1;", 'reserved 1; reserved "name";'),
    "a value that goes and is reserved": ("KIND_BIG = 1;", 'reserved 1; reserved "KIND_BIG";'),
}


def protocol(folder: Path, old: str = "", new: str = "") -> check.Protocol:
    assert old in RELEASED
    return check.protocol_of(compiled(folder, RELEASED.replace(old, new, 1) + "message N {}"))


@pytest.mark.parametrize("change", BREAKS)
def test_a_change_of_what_is_released_is_named(change, tmp_path):
    old, new, sentence = BREAKS[change]
    released = protocol(tmp_path).lines
    assert sentence in "\n".join(check.breaks(released, protocol(tmp_path, old, new)))


@pytest.mark.parametrize("change", ADDITIONS)
def test_an_addition_passes_and_is_recorded(change, tmp_path):
    old, new = ADDITIONS[change]
    released, now = protocol(tmp_path).lines, protocol(tmp_path, old, new)
    assert list(check.breaks(released, now)) == []
    recorded = check.recorded(released, now)
    assert list(check.breaks(recorded, now)) == []
    assert (recorded == released) == (change == "a comment")


def test_what_was_removed_stays_reserved(tmp_path):
    before = protocol(tmp_path)
    recorded = check.recorded(before.lines, protocol(tmp_path, "string name = 1;", 'reserved 1; reserved "name";'))
    (sentence,) = check.breaks(recorded, protocol(tmp_path, "string name = 1;", "string other = 1;"))
    assert "a.M.name was removed" in sentence


def test_what_is_released_is_as_it_was_and_complete():
    released, now = check.read_released(), check.protocol_of(check.compile_protos(check.PROTOS))
    assert list(check.breaks(released, now)) == []
    assert check.recorded(released, now) == released, "run `make protos`, and commit"


def test_the_command_fails_for_a_break_and_records_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(check, "RELEASED", tmp_path / "released.json")
    text = '{"message topwork.v1.Gone": {"1": "string name"}}'
    check.RELEASED.write_text(text)
    assert check.main(["--record"]) == 1
    assert "topwork.v1.Gone is released, and is gone" in capsys.readouterr().err
    check.RELEASED.write_text("{}")
    assert (check.main([]), check.read_released()) == (0, {})
    assert check.main(["--record"]) == 0
    assert "service topwork.v1.Jobs" in check.read_released()
