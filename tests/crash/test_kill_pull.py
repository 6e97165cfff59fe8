"""A pull that is ended leaves no name behind: at once where it was told to end, at the next command where it was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from topwork.cli import main
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry

WORDS = "\n".join(["8 2", *[f"word{i} {i / 8} {1 - i / 8}" for i in range(8)]])


def begin(home: Path, source: str, *more: str) -> subprocess.Popen[str]:
    """A pull that has given its encoder a name and exports it."""
    command = [sys.executable, "-m", "topwork.cli", "pull", source, "--name", "mine", *more, "--home", str(home)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any("exporting mine" in line for line in process.stderr)
    return process


def added(home: Path) -> list[str]:
    return Catalog(PluginRegistry.load(), home).added()


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_pull_that_is_ended_leaves_no_name(number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words.vec").write_text(WORDS)
    source, home = f"file:{tmp_path / 'words.vec'}", tmp_path / "home"
    with begin(home, source) as process:
        assert added(home) == ["mine"]
        process.send_signal(number)
        assert process.wait(60) != 0
    if number is signal.SIGKILL:
        assert main(["pull", "no-such-encoder", "--home", str(home)]) == 1
    assert added(home) == []
    assert [path.name for path in (home / "encoders").iterdir()] == []


def test_a_name_that_was_there_keeps_its_meaning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("words.vec", "others.vec"):
        (tmp_path / name).write_text(WORDS)
    home = tmp_path / "home"
    assert main(["pull", f"file:{tmp_path / 'words.vec'}", "--name", "mine", "--home", str(home), "--json"]) == 0
    with begin(home, f"file:{tmp_path / 'others.vec'}") as process:
        process.terminate()
        assert process.wait(60) != 0
    assert main(["pull", "mine", "--home", str(home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["state"] == "ready"
    assert "words.vec" in Catalog(PluginRegistry.load(), home).spec("mine").source
