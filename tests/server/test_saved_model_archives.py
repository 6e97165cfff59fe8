"""Archives of SavedModels: downloaded by name from a server of this test, unpacked, and what is refused of them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_tensorflow_hub import Hub, running_hub
from topwork_server.errors import InvalidInput, NotReady
from topwork_server.plugin_api import saved_models, sources
from topwork_server.plugin_api.sources import SourceUri

MOBILENET = "google/imagenet/mobilenet_v2_100_224/feature_vector/5"
KAGGLE = "google/mobilenet-v2/tensorFlow2/100-224-feature-vector/2"


def packed(files: dict[str, bytes], links: dict[str, str] | None = None, kind: bytes = tarfile.SYMTYPE) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            tar.addfile(entry)
    return made.getvalue()


WHOLE = packed({"./saved_model.pb": b"graph", "./variables/variables.index": b"index" * 1000})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub(monkeypatch) as server:
        yield server


@pytest.mark.parametrize(
    ("written", "name", "short"),
    [
        (MOBILENET, MOBILENET, "mobilenet_v2_100_224"),
        (f"https://tfhub.dev/{MOBILENET}", MOBILENET, "mobilenet_v2_100_224"),
        ("tensorflow/bert_en_uncased_L-12_H-768_A-12/4", None, "bert_en_uncased_L-12_H-768_A-12"),
        (KAGGLE, KAGGLE, "mobilenet-v2-100-224-feature-vector"),
        (
            "https://www.kaggle.com/models/google/mobilenet-v2/frameworks/tensorFlow2/variations/100-224-feature-vector/versions/2",
            KAGGLE,
            "mobilenet-v2-100-224-feature-vector",
        ),
    ],
)
def test_names(written: str, name: str | None, short: str) -> None:
    source = SourceUri.parse(f"tfhub:{written}")
    assert source.location == (name or written)
    assert SourceUri.parse(str(source)) == source
    assert saved_models.short_name(source.location) == short


@pytest.mark.parametrize("written", ["mobilenet", "../../etc/passwd", "google/../x", "https://other.org/x/y", "a/b c", ""])
def test_what_names_no_model(written: str) -> None:
    with pytest.raises(InvalidInput):
        SourceUri.parse(f"tfhub:{written}")


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(saved_models.MIRROR, raising=False)
    assert saved_models.address(MOBILENET) == f"https://tfhub.dev/{MOBILENET}?tf-hub-format=compressed"
    assert saved_models.address(KAGGLE) == f"https://www.kaggle.com/api/v1/models/{KAGGLE}/download"


def test_a_model_is_downloaded_once_with_its_checksum(hub: Hub, tmp_path: Path) -> None:
    hub.put(f"/{MOBILENET}?tf-hub-format=compressed", WHOLE)
    source, seen = SourceUri.parse(f"tfhub:{MOBILENET}"), list[tuple[int, int]]()
    assert sources.locate(source, tmp_path) is None
    folder = sources.fetch(source, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert (folder / "saved_model.pb").read_bytes() == b"graph"
    assert seen[-1] == (len(WHOLE), len(WHOLE))
    record = json.loads((folder.parent / "archive.json").read_text())
    assert record["sha256"] == hashlib.sha256(WHOLE).hexdigest()
    assert record["source"].endswith(f"/{MOBILENET}?tf-hub-format=compressed")
    assert sources.fetch(source, tmp_path) == sources.locate(source, tmp_path) == folder
    assert len(hub.asked) == 1
    assert {path.name for path in folder.parent.iterdir()} == {"mobilenet_v2_100_224", "archive.json"}


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ((404, 0, b""), NotReady, "it answers 404"),
        ((403, 0, b""), NotReady, "it answers 403"),
        ((200, len(WHOLE), WHOLE[:-9]), NotReady, f"of {len(WHOLE)} bytes|IncompleteRead|ended after"),
        ((200, 15, b"<html>log in</html>"[:15]), InvalidInput, "no .tar.gz"),
    ],
)
def test_a_download_that_fails_leaves_nothing(
    hub: Hub, tmp_path: Path, answer: tuple[int, int, bytes], error: type[Exception], said: str
) -> None:
    status, length, content = answer
    hub.put(f"/{KAGGLE}/download", content, status, length)
    with pytest.raises(error, match=said):
        sources.fetch(SourceUri.parse(f"tfhub:{KAGGLE}"), tmp_path)
    assert not list((tmp_path / "tfhub").iterdir())


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv(saved_models.MIRROR, "http://127.0.0.1:1")
    with pytest.raises(NotReady, match=r"could not be downloaded from http://127\.0\.0\.1:1/") as caught:
        sources.fetch(SourceUri.parse(f"tfhub:{MOBILENET}"), tmp_path)
    assert "file:/" in caught.value.remedy


def test_another_checksum_than_was_said(hub: Hub, tmp_path: Path) -> None:
    hub.put(f"/{KAGGLE}/download", WHOLE)
    with pytest.raises(NotReady, match="has SHA-256"):
        sources.fetch(SourceUri.parse(f"tfhub:{KAGGLE}"), tmp_path, "0" * 64)
    assert not list((tmp_path / "tfhub").iterdir())


@pytest.mark.parametrize("inside", ["", "net/"])
def test_an_archive_here_is_unpacked_again_once_it_changes(tmp_path: Path, inside: str) -> None:
    archive, home = tmp_path / "net.tar.gz", tmp_path / "home"
    archive.write_bytes(packed({f"{inside}saved_model.pb": b"one", f"{inside}variables/v": b"1", "README": b"words"}))
    source = SourceUri.parse(f"file:{archive}")
    folder = sources.fetch(source, home)
    assert (folder / "saved_model.pb").read_bytes() == b"one"
    archive.write_bytes(packed({"saved_model.pb": b"number two"}))
    assert sources.locate(source, home) == folder
    assert (folder / "saved_model.pb").read_bytes() == b"number two"
    assert not (folder / "variables").exists()
    archive.unlink()
    assert sources.locate(source, home) == folder, "what was unpacked is enough"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (packed({"saved_model.pb": b"x", "../outside": b"x"}), "'../outside', which leads out"),
        (packed({"saved_model.pb": b"x"}, {"variables": "/etc"}), "'variables', which leads out"),
        (packed({"saved_model.pb": b"x"}, {"variables": "../../.."}), "'variables', which leads out"),
        (packed({"saved_model.pb": b"x"}, {"variables": "saved_model.pb"}), "'variables'.* neither a file nor a folder"),
        (packed({"saved_model.pb": b"x"}, {"same": "saved_model.pb"}, tarfile.LNKTYPE), "'same'.* neither a file nor a folder"),
        (packed({"saved_model.pb": b"x"}, {"null": ""}, tarfile.CHRTYPE), "'null'.* neither a file nor a folder"),
        (packed({"saved_model.pb": b"x"}, {"pipe": ""}, tarfile.FIFOTYPE), "'pipe'.* neither a file nor a folder"),
        (packed({"saved_model.pb": b"x", "/tmp/absolute": b"x"}), "'/tmp/absolute', which leads out"),
        (packed({"config.json": b"{}"}), r"holds no saved_model\.pb"),
        (WHOLE[: len(WHOLE) // 2], "damaged"),
        (WHOLE[:40] + bytes(8) + WHOLE[48:], "damaged"),
        (b"", "damaged"),
        (b"\0" * 2048, "saved_model.pb|damaged"),
    ],
    ids=[
        "a path upwards",
        "a link to a folder of the machine",
        "a link upwards",
        "a link within",
        "a hard link",
        "a device",
        "a pipe",
        "an absolute path",
        "another model",
        "half",
        "changed bytes",
        "empty",
        "zeros",
    ],
)
def test_archives_that_are_refused_leave_nothing(tmp_path: Path, content: bytes, said: str) -> None:
    archive, home = tmp_path / "net.tar.gz", tmp_path / "home"
    archive.write_bytes(content)
    with pytest.raises(InvalidInput, match=said):
        sources.fetch(SourceUri.parse(f"file:{archive}"), home)
    assert not list((home / "tfhub").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"net.tar.gz", "home"}


def test_a_model_that_was_changed_since_is_refused_by_name(hub: Hub, tmp_path: Path) -> None:
    hub.put(f"/{MOBILENET}?tf-hub-format=compressed", WHOLE)
    source = SourceUri.parse(f"tfhub:{MOBILENET}")
    graph = sources.fetch(source, tmp_path) / "saved_model.pb"
    graph.write_bytes(b"grapH")
    with pytest.raises(NotReady, match=r"saved_model\.pb is not the file that was downloaded") as caught:
        sources.fetch(source, tmp_path)
    assert "topwork pull" in caught.value.remedy
