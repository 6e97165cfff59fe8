"""Temporary files lie in the home of the server that makes them, and the next one deletes what a killed one left."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
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
    atomic_store.use_temporary_folder(tmp_path)
    assert Path(tempfile.gettempdir()) == tmp_path / atomic_store.TEMPORARY
    ask = [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"]
    done = subprocess.run(ask, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / atomic_store.TEMPORARY)


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
