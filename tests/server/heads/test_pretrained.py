"""Heads that came with their encoders."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import sample_heads
from topwork_server.atomic_store import file_sha256
from topwork_server.errors import NotFound, NotReady
from topwork_server.heads.pretrained import pretrained_head, pretrained_heads
from topwork_server.heads.serving.head_cache import HeadCache
from topwork_server.models.artifacts import MANIFEST
from topwork_server.models.catalog_entry import EncoderState
from topwork_server.models.pretrained_heads import PretrainedHeadRecord


class Catalog:
    """`net` and `other` are ready; `absent` is not, with anything in its folder."""

    def __init__(self, home: Path) -> None:
        self.entries = {}
        for name in ("net", "other", "absent"):
            (home / name).mkdir()
            (home / name / MANIFEST).write_text('{"files": {}}')
            self.entries[name] = SimpleNamespace(
                state=EncoderState.ABSENT if name == "absent" else EncoderState.READY, folder=home / name
            )

    def names(self):
        return [*self.entries, "broken"]

    def entry(self, name):
        if name not in self.entries:
            raise NotFound(f"there is no encoder {name!r}")
        return self.entries[name]

    def write(self, encoder, name, **fields):
        """As the export does it."""
        head = sample_heads.head(f"{encoder}/{name}", definition=None, encoder=encoder, **fields)
        folder = self.entries[encoder].folder
        record = PretrainedHeadRecord(
            head.name, head.task, encoder, head.tap, head.names, head.created, head.server_version, head.estimate
        )
        (folder / f"head-{name}.json").write_text(json.dumps(asdict(record)))
        (folder / f"head-{name}.onnx").write_bytes(sample_heads.graph(head))
        files = {path.name: file_sha256(path) for path in folder.glob("head-*")}
        (folder / MANIFEST).write_text(json.dumps({"files": files}))
        return head


@pytest.fixture
def catalog(tmp_path):
    return Catalog(tmp_path)


def test_heads_of_ready_encoders_are_listed(catalog):
    imagenet = catalog.write("net", "imagenet")
    catalog.write("absent", "imagenet")
    found = pretrained_heads(catalog)
    assert list(found) == ["net/imagenet"]
    head, graph = found["net/imagenet"]
    assert (head.name, head.task, head.tap, head.names) == (imagenet.name, imagenet.task, imagenet.tap, imagenet.names)
    assert (head.pooling, head.dim, head.encoder) == (imagenet.pooling, imagenet.dim, "net")
    assert head.pretrained
    assert graph == catalog.entries["net"].folder / "head-imagenet.onnx"


def test_another_export_is_seen(catalog):
    catalog.write("net", "imagenet")
    assert pretrained_head(catalog, "net/imagenet").head.created == 1700000000.0
    catalog.write("net", "imagenet", created=2.0)
    os.utime(catalog.entries["net"].folder / MANIFEST, ns=(1, 1))
    assert pretrained_head(catalog, "net/imagenet").head.created == 2.0


def test_unknown_ones_name_those_that_there_are(catalog):
    catalog.write("net", "imagenet")
    with pytest.raises(NotFound, match="net has net/imagenet"):
        pretrained_head(catalog, "net/cars")
    with pytest.raises(NotFound, match="other is not exported, or brings no heads"):
        pretrained_head(catalog, "other/imagenet")
    with pytest.raises(NotFound, match="no encoder"):
        pretrained_head(catalog, "nothing/imagenet")


def test_a_damaged_one_hides_no_other(catalog):
    catalog.write("net", "imagenet")
    catalog.write("other", "cars")
    (catalog.entries["net"].folder / "head-imagenet.json").write_text("{")
    assert list(pretrained_heads(catalog)) == ["other/cars"]
    with pytest.raises(NotReady, match="topwork export net --force"):
        pretrained_head(catalog, "net/imagenet")


def test_a_graph_that_is_gone_names_the_remedy(catalog):
    catalog.write("net", "imagenet")
    kept = pretrained_head(catalog, "net/imagenet")
    kept.graph.unlink()
    with pytest.raises(NotReady, match="topwork export net --force"):
        HeadCache().open(lambda: kept)


def test_a_graph_that_was_changed_is_found(catalog):
    catalog.write("net", "imagenet")
    kept = pretrained_head(catalog, "net/imagenet")
    kept.graph.write_bytes(b"no graph")
    with pytest.raises(NotReady, match=r"head-imagenet\.onnx is not the file.*topwork export net --force"):
        HeadCache().open(lambda: kept)
    unreadable = replace(kept, sha256=file_sha256(kept.graph))
    with pytest.raises(NotReady, match="cannot be opened"):
        HeadCache().open(lambda: unreadable)
