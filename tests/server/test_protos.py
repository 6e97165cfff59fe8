"""The protos: their generated code is not stale, and everything in them is documented."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "clients" / "python" / "topwork" / "v1"

#: The fields of a descriptor that hold parts with names, as SourceCodeInfo's paths go through them.
PARTS = ("message_type", "enum_type", "service", "field", "nested_type", "value", "method", "oneof_decl")


def generated(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in sorted(folder.iterdir()) if path.suffix in (".py", ".pyi")}


def test_generated_code_is_not_stale(tmp_path):
    command = ["bash", str(ROOT / "protos" / "generate"), str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHON": sys.executable})
    fresh, committed = generated(tmp_path / "topwork" / "v1"), generated(COMMITTED)
    assert list(fresh) == list(committed), "a proto was added or removed: run protos/generate, and commit"
    stale = [name for name in fresh if fresh[name] != committed[name]]
    assert not stale, "run protos/generate, and commit what it writes"


def compiled(folder: Path, out: Path) -> list[FileDescriptorProto]:
    names = [str(path.relative_to(folder)) for path in sorted(folder.glob("topwork/v1/*.proto"))]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"-o{out}", "--include_source_info", *names]
    subprocess.run(command, check=True)
    return list(FileDescriptorSet.FromString(out.read_bytes()).file)


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


def test_everything_has_a_comment(tmp_path):
    files = compiled(ROOT / "protos", tmp_path / "set")
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
    (tmp_path / "topwork" / "v1").mkdir(parents=True)
    (tmp_path / "topwork" / "v1" / "a.proto").write_text(source)
    (file,) = compiled(tmp_path, tmp_path / "set")
    names = {"a.M.bare", "a.M.which", "a.M.inside", "a.E", "a.E.ZERO", "a.S", "a.S.Call"}
    assert set(undocumented(file)) == names
