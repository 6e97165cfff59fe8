"""Files and folders of the home are whole or not there, one process holds a lock, and temporary files go with their server."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from topwork_server import atomic_store
from topwork_server.models import artifacts
from toys import letters_spec

SERVER = """
import asyncio, os, sys, tempfile
from pathlib import Path
from topwork_server import app
from topwork_server.config import Config

def announce(what):
    os.mkdir(os.path.join(tempfile.gettempdir(), "survey"))
    print(os.environ["TMPDIR"], flush=True)
    sys.stdin.read()

asyncio.run(app.serve(Config(home=Path(sys.argv[1]), listen="127.0.0.1:0", provider="cpu"), announce))
"""


def test_what_a_killed_server_left_goes_when_the_next_one_starts(tmp_path: Path) -> None:
    left = tmp_path / atomic_store.TEMPORARY / "survey"
    for _ in range(2):  # the second one could not make the folder if it were still there
        command = [sys.executable, "-c", SERVER, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline().strip() == str(left.parent)
            server.kill()
        assert left.is_dir()


def test_temporary_files_of_children_lie_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", os.environ.get("TMPDIR", "/tmp"))
    before = os.environ["TMPDIR"]
    with atomic_store.temporary_files_of(tmp_path):
        assert Path(tempfile.gettempdir()) == tmp_path / atomic_store.TEMPORARY
        ask = [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"]
        done = subprocess.run(ask, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(tmp_path / atomic_store.TEMPORARY)
    assert (tempfile.gettempdir(), os.environ["TMPDIR"]) == (before, before)


def test_temporary_files_of_an_export_go_with_it(tmp_path: Path) -> None:
    """Files of one that was killed are swept as its scratch folder is: they bear the same name."""
    seen: list[Path] = []

    def build(folder: Path) -> None:
        ask = [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"]
        seen.extend(
            (Path(tempfile.mkdtemp()), Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()))
        )

    before = tempfile.gettempdir()
    made = artifacts.publish(tmp_path, letters_spec(), build)
    assert seen[0].parent == seen[1]
    assert seen[1].parent == tmp_path / "artifacts"
    assert seen[1].match(f".{made.name}.*.part")
    assert not seen[1].exists()
    assert tempfile.gettempdir() == before


def test_a_write_that_fails_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_store.replacing(tmp_path / "record.json") as file:
            file.write(b"half of the n")
            raise RuntimeError

    atomic_store.write(tmp_path / "record.json", "old")
    with pytest.raises(RuntimeError):
        fail()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"record.json": "old"}


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with atomic_store.replacing(tmp_path / "record.json") as file:
        file.write(b"later")
        atomic_store.write(tmp_path / "record.json", "sooner")
        assert (tmp_path / "record.json").read_text() == "sooner"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"record.json": "later"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("in_the_way", [Path.touch, os.mkfifo, lambda path: path.symlink_to("/dev/null/no")])
def test_a_pipe_or_a_file_in_the_place_of_a_folder_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_the_way: Callable[[Path], object]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", os.environ.get("TMPDIR", "/tmp"))
    in_the_way(tmp_path / atomic_store.TEMPORARY)
    with atomic_store.temporary_files_of(tmp_path):
        assert (tmp_path / atomic_store.TEMPORARY).is_dir()
    in_the_way(tmp_path / "place")
    atomic_store.remove(tmp_path / "place")
    assert [path.name for path in tmp_path.iterdir()] == [atomic_store.TEMPORARY]


def test_a_folder_takes_the_place_of_an_older_one_and_goes_in_one_step(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_store.scratch_folder(tmp_path) as scratch:
            (scratch / "below").mkdir()
            (scratch / "below" / "file").write_text(content)
            atomic_store.publish(scratch, tmp_path / "place")
        assert [path.name for path in tmp_path.iterdir()] == ["place"]
    assert (tmp_path / "place" / "below" / "file").read_text() == "new"
    atomic_store.remove(tmp_path / "place")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("in_the_way", [lambda path: None, os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_lock_has_one_holder_also_where_something_else_is_in_its_place(
    tmp_path: Path, in_the_way: Callable[[Path], object]
) -> None:
    path = tmp_path / "one.lock"
    in_the_way(path)
    with atomic_store.lock(path) as mine, atomic_store.lock(path, wait=False) as other:
        assert (mine, other) == (True, False)
    with atomic_store.lock(path, wait=False) as held:
        assert held


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".one.json.123.part").write_text("{")
    (tmp_path / ".abc.part" / "below").mkdir(parents=True)
    (tmp_path / "one.json").write_text("{}")
    atomic_store.sweep(tmp_path, ".two.")
    assert len(list(tmp_path.iterdir())) == 3
    atomic_store.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]
