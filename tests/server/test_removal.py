"""Removal: the files that go with a name, and artifacts that no encoder refers to."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from topwork import cli
from topwork_server import atomic_store
from topwork_server.home_lock import HomeLock
from topwork_server.models import artifacts
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the encoder `mine`, two artifacts of it (one of an older format), one of glove, and one of no encoder."""
    weights = tmp_path / "mine.txt"
    weights.write_text("owl 1 2\ncat 3 4\n")
    home = tmp_path / "home"
    catalog = Catalog(PluginRegistry.load(), home)
    catalog.add(f"file:{weights}", "mine", "word2vec")
    used = [artifacts.folder_of(home, catalog.spec(name)).name for name in ("mine", "glove-6b-50d")]
    for name in (*used, "mine-0123456789ab", "gone-0123456789ab"):
        (home / "artifacts" / name).mkdir(parents=True)
        (home / "artifacts" / name / "model.onnx").write_bytes(b"123")
    (home / "artifacts" / ".gone-ffffffffffff.lock").touch()
    return home


def topwork(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, dict[str, Any]]:
    status = cli.main([*map(str, words), "--json"])
    return status, json.loads(capsys.readouterr().out)


def left(home: Path) -> set[str]:
    return {path.name.rpartition("-")[0] for path in (home / "artifacts").iterdir()}


def test_prune_deletes_what_no_encoder_refers_to(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {"gone-0123456789ab": 3, "mine-0123456789ab": 3}
    status, answer = topwork(capsys, "prune", "--dry-run", "--home", home)
    assert (status, answer) == (0, {"artifacts": wanted, "bytes": 6, "deleted": False})
    assert len(list((home / "artifacts").iterdir())) == 5
    assert topwork(capsys, "prune", "--yes", "--home", home)[1] == answer | {"deleted": True}
    assert left(home) == {"mine", "glove-6b-50d"}
    assert topwork(capsys, "prune", "--yes", "--home", home)[1] == {"artifacts": {}, "bytes": 0, "deleted": True}


@pytest.mark.parametrize("folder", ["artifacts/mine", "packages/glove-1.0"])
def test_prune_deletes_what_a_killed_export_or_download_left_and_nothing_of_a_living_one(
    home: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    place = home / folder
    place.mkdir(parents=True)
    left_over = place.with_name(f".{place.name}.abc.part")
    left_over.mkdir()
    with atomic_store.folder_lock(place):
        topwork(capsys, "prune", "--yes", "--home", home)
        assert left_over.is_dir()
    lock = place.with_name(f".{place.name}.lock")
    lock.touch()
    topwork(capsys, "prune", "--yes", "--home", home)
    assert not left_over.exists()
    assert not lock.exists()


def test_artifacts_of_an_encoder_that_cannot_be_told_stay(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its plugin may come back."""
    record = home / "encoders" / "mine.json"
    record.write_text(record.read_text().replace("word2vec", "uninstalled"))
    assert list(topwork(capsys, "prune", "--yes", "--home", home)[1]["artifacts"]) == ["gone-0123456789ab"]


def test_forget_takes_the_name_and_the_artifact_and_leaves_the_weights(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert topwork(capsys, "forget", "mine", "--yes", "--home", home) == (0, {"forgotten": "mine"})
    assert "mine" not in Catalog(PluginRegistry.load(), home).names()
    assert not (home / "encoders" / "mine.json").exists()
    assert (home.parent / "mine.txt").exists()
    assert topwork(capsys, "forget", "mine", "--yes", "--home", home)[1]["code"] == "NOT_FOUND"


@pytest.mark.parametrize(("words", "question"), [(["forget", "mine"], "forget mine"), (["prune"], "2 artifacts")])
def test_it_is_asked_whether_to_delete(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], question: str
) -> None:
    before = sorted((home / "artifacts").iterdir())
    status, answer = topwork(capsys, *words, "--home", home)
    assert (status, answer["code"], "--yes" in answer["remedy"]) == (1, "INVALID_ARGUMENT", True)
    for said, status in (("\n", 1), ("y\n", 0)):
        assert sorted((home / "artifacts").iterdir()) == before
        monkeypatch.setattr("sys.stdin", io.StringIO(said))
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        assert cli.main([*words, "--home", str(home)]) == status
        assert question in capsys.readouterr().err
    assert set((home / "artifacts").iterdir()) < set(before)


def test_what_plugins_register_is_not_forgotten(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, answer = topwork(capsys, "forget", "glove-6b-50d", "--home", home)
    assert (status, answer["code"]) == (1, "INVALID_ARGUMENT")
    assert "registered by a plugin" in answer["message"]


def test_nothing_is_forgotten_under_a_server(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with HomeLock(home):
        status, answer = topwork(capsys, "forget", "mine", "--yes", "--home", home)
    assert status == 2
    assert "is in use by" in answer["message"]
    assert "mine" in Catalog(PluginRegistry.load(), home).names()
