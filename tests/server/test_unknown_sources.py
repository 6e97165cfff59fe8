"""Errors of `topwork pull` for a source that no plugin reads, is not there, or is misspelled."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from topwork import cli


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    """The message and the remedy."""
    assert cli.main(["pull", *words, "--home", "home", "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["code"] in ("INVALID_ARGUMENT", "FAILED_PRECONDITION")
    assert not list(Path("home").glob("encoders/*"))
    return record["message"], record["remedy"]


def folder(name: str, **files: object) -> Path:
    path = Path(name)
    path.mkdir()
    for stem, content in files.items():
        (path / f"{stem}.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("kind", ["clap", "yolos", "encodec"])
def test_a_folder_of_another_kind_of_model_is_named_as_what_it_is(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder("mine", config={"model_type": kind, "architectures": ["Any"]})
    message, remedy = refused(capsys, "file:mine")
    assert "a folder of config.json" in message
    bert, resnet, onnx = (message.index(f"; {plugin}:") for plugin in ("bert", "resnet", "onnx"))
    assert bert < resnet < onnx  # the most specific first
    assert f"'{kind}' model" in message[bert:resnet]
    assert "modernbert" in remedy
    assert "--family" in remedy


@pytest.mark.parametrize(
    ("name", "says", "remedy"),
    [
        ("empty", "an empty folder", "--family"),
        ("net.pth", "does not say of which net", "architecture="),
        ("net.onnx", "its own scheme", "onnx:"),
        ("words.txt", "its first line", "--family"),
        ("rows.npy", "has its words beside it", "--family"),
        ("archive.zip", "a file of 5 bytes", "--family"),
        ("pipe", "neither a file nor a folder", "--family"),
        ("timm", "names no `architecture`", "--family"),
        ("modules", "does not begin with a Transformer", "--family"),
    ],
)
def test_each_kind_of_content_has_its_reason(name: str, says: str, remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder("empty")
    folder("timm", config={"num_classes": 3})
    folder("modules", modules=[{"idx": 0, "path": "", "type": "sentence_transformers.models.CLIPModel"}])
    if "." in name:
        Path(name).write_bytes(b"bytes")
    os.mkfifo("pipe")
    message, told = refused(capsys, f"file:{name}")
    assert says in message
    assert remedy in told


@pytest.mark.parametrize("content", [None, '{"model_type": "be', "[1]"])
def test_a_reason_that_several_plugins_have_is_told_once(content: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder("mine")
    (path / "model.safetensors").write_bytes(b"weights")
    if content is not None:
        (path / "config.json").write_text(content)
    message, remedy = refused(capsys, "file:mine")
    reason = {None: "has no config.json", "[1]": "holds no JSON object"}.get(content, "cannot be read as JSON")
    assert message.count(reason) == 1
    assert message.index("bert") < message.index(reason)
    assert "resnet" in message[message.index("; bert") : message.index(reason)]
    assert "all of its files" in remedy or "copy the model's folder again" in remedy


def test_a_link_that_leads_nowhere_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    path = folder("mine", config={"model_type": "bert"})
    weights, self_named = path / "model.safetensors", Path("round")
    weights.symlink_to("../blobs/abc")
    self_named.symlink_to("round")
    message, remedy = refused(capsys, "file:mine")
    assert f"{weights} is a link that leads to ../blobs/abc, which is not there" in message
    assert "copy the real file" in remedy
    weights.unlink()
    for name in ("model.safetensors", "config.json"):
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to(name)
        assert f"{path / name} is a link that leads back to itself" in refused(capsys, "file:mine")[0]
        (path / name).unlink()
    for uri in ("file:round", "file:round/mine", "onnx:round"):
        assert f"{self_named} is a link that leads back to itself" in refused(capsys, uri)[0]
    Path("net.toml").symlink_to("gone.toml")
    Path("net.onnx").write_bytes(b"graph")
    assert "net.toml is a link that leads to gone.toml" in refused(capsys, "onnx:net.onnx")[0]
    (path / "README.md").symlink_to("gone.md")  # it is not read
    assert "is a link that" not in refused(capsys, "file:mine")[0]


def test_a_path_that_is_not_there_is_said_with_what_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    folder("my-bert")
    for uri in ("file:my-brt", "file:./my-brt", "file:~/my-brt", f"file://{os.getcwd()}/my-brt", "onnx:my-brt"):
        message, remedy = refused(capsys, uri)
        assert f"{os.getcwd()}/my-brt cannot be read: No such file or directory" in message, uri
        assert "my-bert" in remedy
    message, remedy = refused(capsys, "file:no/such/folder", "--family", "bert")
    assert "No such file" in message
    assert "no is not in it" in remedy


@pytest.mark.parametrize(
    ("target", "remedy"),
    [
        ("flie:/models/x", "file:/models/x"),
        ("FILE:/models/x", "file:/models/x"),
        ("onx:/m.onnx", "onnx:/m.onnx"),
        ("tim:resnet50", "timm:resnet50"),
        ("https://example.org/net.pth", "download"),
        ("file:", "file:..."),
        ("s3://models/x", "download"),
        ("./mine", "file:./mine"),
        ("mine", "file:mine"),
        ("~/mine", "file:~/mine"),
        ("net.onnx", "onnx:net.onnx"),
        ("org/model", "hf:org/model"),
        ("package:some-weights", "package:NAME==VERSION"),
        ("package:some-weights==1.0", "--family"),
    ],
)
def test_a_misspelled_scheme_or_a_bare_path_is_told_what_to_write(
    target: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder("mine")
    Path("net.onnx").touch()
    assert remedy in refused(capsys, target)[1]


@pytest.mark.parametrize(
    ("config", "source", "setting", "near"),
    [
        ({"model_type": "bert"}, "file:mine", "max_token=64", "max_tokens"),
        ({"model_type": "vit"}, "file:mine", "sise=64", "size"),
        ({"model_type": "clip"}, "file:mine", "size=64", "leave --set out"),
        ({"architecture": "resnet18"}, "file:mine", "Size=64", "size"),
        ({}, "timm:resnet34", "architekture=resnet18", "architecture"),
        ({}, "file:words.vec", "lower=true", "lowercase"),
        ({}, "onnx:net.onnx", "size=3", "description"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(
    config: dict[str, str], source: str, setting: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder("mine", config=config)
    Path("words.vec").write_text("1 2\nowl 1 2\n")
    Path("net.onnx").write_bytes(b"graph")
    Path("net.toml").write_text('modality = "tensor"\n[taps.pooled]\noutput = "pooled"\n')
    message, remedy = refused(capsys, source, "--set", setting, *(["--family", "i3d"] if source.startswith("timm") else []))
    assert f"{setting.partition('=')[0]!r} is no setting" in message
    assert near in remedy
