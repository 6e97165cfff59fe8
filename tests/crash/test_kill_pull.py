"""A pull that is ended changes nothing: at once where it was told to end, at the next command where it was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from servers import kill, start
from topwork import Client
from topwork.cli import main
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import EncoderState
from topwork_server.plugin_api.plugin_registry import PluginRegistry

WORDS = "\n".join(["8 2", *[f"word{i} {i / 8} {1 - i / 8}" for i in range(8)]])


def begin(home: Path, source: str, *more: str) -> subprocess.Popen[str]:
    """A pull that exports its encoder."""
    command = [sys.executable, "-m", "topwork.cli", "pull", source, "--name", "mine", *more, "--home", str(home)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any("exporting mine" in line for line in process.stderr)
    return process


def catalog(home: Path) -> Catalog:
    return Catalog(PluginRegistry.load(), home)


def end(process: subprocess.Popen[str], number: signal.Signals, home: Path) -> None:
    """End a pull; where it was killed, run a command that fails."""
    process.send_signal(number)
    assert process.wait(60) != 0
    if number is signal.SIGKILL:
        assert main(["pull", "no-such-encoder", "--home", str(home)]) == 1


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_pull_that_is_ended_leaves_no_name(number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words.vec").write_text(WORDS)
    source, home = f"file:{tmp_path / 'words.vec'}", tmp_path / "home"
    with begin(home, source) as process:
        assert catalog(home).added() == []
        end(process, number, home)
    assert [path.name for path in (home / "encoders").iterdir()] == []


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_name_that_was_there_keeps_its_meaning(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("words.vec", "others.vec"):
        (tmp_path / name).write_text(WORDS)
    home = tmp_path / "home"
    assert main(["pull", f"file:{tmp_path / 'words.vec'}", "--name", "mine", "--home", str(home), "--json"]) == 0
    before = sorted(path.name for path in (home / "artifacts").iterdir())
    with begin(home, f"file:{tmp_path / 'others.vec'}") as process:
        end(process, number, home)
    assert [path.name for path in (home / "encoders").iterdir()] == ["mine.json"]
    capsys.readouterr()
    assert main(["prune", "--yes", "--home", str(home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["artifacts"] == {}
    assert [path.name for path in (home / "artifacts").iterdir()] == before
    entry = catalog(home).entry("mine")
    assert entry.state is EncoderState.READY
    assert "words.vec" in entry.spec.source


def test_a_name_means_what_it_did_until_the_new_encoder_is_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words.vec").write_text(WORDS)
    (tmp_path / "others.vec").write_text(WORDS.replace("word", "other"))
    home = tmp_path / "home"
    assert main(["pull", f"file:{tmp_path / 'words.vec'}", "--name", "mine", "--home", str(home)]) == 0
    server, address = start(home)
    try:
        with begin(home, f"file:{tmp_path / 'others.vec'}") as process, Client(address) as client:
            assert client.embed("mine", ["word1"]).rows.shape == (1, 2)
            assert main(["prune", "--yes", "--home", str(home)]) == 0
            assert main(["pull", f"file:{tmp_path / 'words.vec'}", "--name", "mine", "--home", str(home)]) == 1
            assert "is being made" in capsys.readouterr().err
            assert process.poll() is None, "the new encoder was ready before the old one was asked"
            assert process.wait(120) == 0
        assert "others.vec" in catalog(home).spec("mine").source
    finally:
        kill(server)
    server, address = start(home)
    try:
        with Client(address) as client:
            assert client.embed("mine", ["other1"]).rows.shape == (1, 2)
    finally:
        kill(server)
