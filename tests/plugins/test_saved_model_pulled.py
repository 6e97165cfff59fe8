"""`topwork pull` of SavedModels, with a stand-in for TensorFlow: what it makes and says; a failure leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_saved_models as tiny
from fake_tensorflow_hub import running_hub
from topwork.cli import main
from topwork_plugins.saved_model.converter import TENSORFLOW
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api import saved_models
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.runtime.session import Session

NAME = "google/imagenet/small_net/feature_vector/5"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tiny.fake_environment(tmp_path / "home")
    return tmp_path / "home"


def pull(home: Path, source: str, *more: str) -> int:
    return main(["pull", source, "--home", str(home), *more])


def is_empty(home: Path) -> bool:
    """True if no encoder and nothing unfinished is left."""
    left = [path.name for path in home.glob("*/.*")] + [path.name for path in (home / "artifacts").glob("*")]
    return not Catalog(PluginRegistry.load(), home).added() and not left


def test_a_folder_is_pulled_and_runs(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.pictures(tmp_path / "net")
    assert pull(home, f"file:{folder}", "--set", "size=8", "--name", "mine", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["name"], made["state"], {tap["name"] for tap in made["taps"]}) == ("mine", "ready", {"pooled", "default", "map"})
    assert made["reference"].startswith("TensorFlow's own output")
    (rows,) = Session(Path(made["folder"]) / "model.onnx").run(["pooled"], {"input_0": np.ones((2, 8, 8, 3), np.float32)})
    np.testing.assert_allclose(rows, np.full((2, 3), 2), atol=1e-6)


@pytest.mark.parametrize("setting", ["sise=48", "lowercase=true"])
def test_a_setting_that_nothing_reads_is_refused_before_one_that_is_missing(
    setting: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pull(home, f"file:{tiny.pictures(tmp_path / 'net')}", "--set", setting, "--json") == 1
    refusal = json.loads(capsys.readouterr().out)
    assert refusal["code"] == "INVALID_ARGUMENT"
    assert f"'{setting.partition('=')[0]}' is no setting" in refusal["message"]
    assert "size" in refusal["remedy"]
    assert is_empty(home)


def test_an_archive_is_named_as_its_file(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tiny.packed(tiny.pictures(tmp_path / "folder", 8), tmp_path / "small-net.tar.gz")
    assert pull(home, f"file:{archive}", "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "small-net"
    archive.unlink()
    assert pull(home, "small-net", "--json") == 0, "what was unpacked is enough"


def test_a_name_of_the_hub(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once its files are here, no network is needed."""
    archive = tiny.packed(tiny.pictures(tmp_path / "folder", 8), tmp_path / "net.tar.gz")
    with running_hub(monkeypatch) as hub:
        hub.put(f"/{NAME}?tf-hub-format=compressed", archive.read_bytes())
        assert pull(home, f"tfhub:{NAME}") == 0
        assert len(hub.asked) == 1
    said = capsys.readouterr()
    assert f"fetching tfhub:{NAME}" in said.err
    assert "small_net is ready" in said.out
    assert pull(home, f"tfhub:{NAME}", "--name", "again", "--json") == 0
    assert main(["export", "small_net", "--force", "--json", "--home", str(home)]) == 0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("tfhub:mobilenet", "names no model"),
        (f"tfhub:{NAME}", "could not be downloaded from http://127.0.0.1:1/"),
    ],
)
def test_names_that_are_not_to_be_had(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str, said: str
) -> None:
    monkeypatch.setenv(saved_models.MIRROR, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "*")
    assert pull(home, source) == 1
    assert said in capsys.readouterr().err
    assert is_empty(home)


def test_a_network_that_is_not_converted_leaves_nothing(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.pictures(tmp_path / "net", 8)
    (folder / "fault").write_text("refused")
    assert pull(home, f"file:{folder}") == 1
    assert "net cannot be read: it needs BesselI0e" in capsys.readouterr().err
    assert is_empty(home)


def test_without_a_network_there_is_no_environment(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(home / "environments")
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    assert pull(home, f"file:{tiny.pictures(tmp_path / 'net', 8)}") == 1
    said = capsys.readouterr().err
    assert "making an environment with tensorflow" in said
    assert f"No matching distribution found for {TENSORFLOW.packages[0]}" in said
    assert is_empty(home)
    assert not list((home / "environments").iterdir())
