"""Encoders that are being made: what a killed process left is deleted, and what one still makes is left alone."""

from __future__ import annotations

from pathlib import Path

import homes
import numpy as np
import pytest
from topwork.cli import main
from topwork_plugins.word2vec import output_vectors
from topwork_server import atomic_store
from topwork_server.errors import AlreadyExists
from topwork_server.models import unfinished
from topwork_server.models.catalog import Catalog
from topwork_server.models.encoder_records import PretrainedEncoder
from topwork_server.plugin_api.plugin_registry import PluginRegistry

MADE = PretrainedEncoder("words", "word2vec", {}, "", "two texts", {"dim": 4})


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(PluginRegistry.load(), tmp_path)


def publish(catalog: Catalog, folder: Path, name: str) -> None:
    folder.mkdir()
    rows = np.ones((2, 4), np.float32)
    output_vectors.write(folder, ["red", "owl"], rows, rows, {})
    spec = catalog.add_pretrained(name, folder, MADE)
    assert (spec.trained_on, spec.source) == ("two texts", f"file:{catalog.home / 'encoders' / name}")


def test_what_was_killed_before_its_export_ended_is_deleted(catalog: Catalog, tmp_path: Path) -> None:
    encoders = tmp_path / "encoders"
    with unfinished.scratch_folder(encoders, "whole.v2") as scratch:
        publish(catalog, scratch / "encoder", "whole.v2")
    left = encoders / f"{unfinished.MAKING}killed"
    left.mkdir()
    (left / unfinished.NEW).touch()
    publish(catalog, left / "encoder", "killed")
    assert catalog.added() == ["killed", "whole.v2"]
    unfinished.sweep(encoders, catalog)
    assert catalog.added() == ["whole.v2"]
    assert sorted(path.name for path in encoders.iterdir()) == ["whole.v2", "whole.v2.json"]
    catalog.delete("whole.v2")
    assert list(encoders.iterdir()) == []


@pytest.mark.parametrize("start", ["pull", "serve"])
def test_what_killed_exports_left_is_swept(start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    for path in ("artifacts/.killed-0123.a.part/torch", "tfhub/.killed-0123.b.part", "artifacts/.alive-0123.c.part"):
        (home / path).mkdir(parents=True)
    for path in ("artifacts/.killed-0123.lock", "tfhub/.killed-0123.lock"):
        (home / path).touch()
    with atomic_store.lock(home / "artifacts/.alive-0123.lock"):
        if start == "pull":
            assert main(["pull", "no-such-encoder", "--home", str(home)]) == 1
        else:
            with homes.served(home) as client:
                assert client.health() == "serving"
        left = [path for folder in ("artifacts", "tfhub") for path in (home / folder).iterdir()]
    assert sorted(path.name for path in left) == [".alive-0123.c.part", ".alive-0123.lock"]


def test_what_is_being_made_is_left_alone(catalog: Catalog, tmp_path: Path) -> None:
    encoders = tmp_path / "encoders"
    with unfinished.scratch_folder(encoders, "mine") as scratch:
        publish(catalog, scratch / "encoder", "mine")
        unfinished.sweep(encoders, catalog)
        assert catalog.added() == ["mine"]
        with pytest.raises(AlreadyExists, match="mine"), unfinished.scratch_folder(encoders, "mine"):
            raise AssertionError("two make it")
    assert catalog.added() == ["mine"]
