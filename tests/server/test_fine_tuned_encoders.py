"""Encoders that were fine-tuned here: remembered by the catalog, exported with their own weights, deleted whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from topwork_server.errors import ExportFailed, NotFound
from topwork_server.models import artifacts
from topwork_server.models.artifacts import MODEL, Manifest
from topwork_server.models.catalog import Catalog, EncoderState
from topwork_server.runtime import export
from topwork_server.runtime.session import Session
from topwork_server.types import EncoderSpec
from toys import FakePlugins, letters_spec


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(FakePlugins([letters_spec()]), tmp_path / "home")  # type: ignore[arg-type]


def tuned(catalog: Catalog, tmp_path: Path, name: str = "letters-1") -> EncoderSpec:
    """Letters whose table counts: letter n is (n, n, ...)."""
    table = torch.arange(128, dtype=torch.float32)[:, None].repeat(1, 8)
    save_file({"table.weight": table}, tmp_path / "state.safetensors")
    return catalog.add_fine_tuned(name, "letters", tmp_path / "state.safetensors", "letters", "letters, then counting")


def exported(catalog: Catalog, spec: EncoderSpec) -> Path:
    return artifacts.publish(
        catalog.home, spec, lambda scratch: export.export_encoder(spec, Path(spec.source.removeprefix("file:")), scratch)
    )


def test_it_is_an_encoder_with_weights_of_its_own(catalog: Catalog, tmp_path: Path) -> None:
    spec = tuned(catalog, tmp_path)
    assert (spec.name, spec.default_tap, spec.trained_on) == ("letters-1", "letters", "letters, then counting")
    assert catalog.names() == ["letters", "letters-1"]
    assert catalog.fine_tuned() == ["letters-1"]
    assert catalog.entry("letters-1").state is EncoderState.FETCHED
    folder = exported(catalog, spec)
    codes = {"codes": np.array([[3, 5]]), "mask": np.ones((1, 2), np.float32)}
    np.testing.assert_array_equal(Session(folder / MODEL).run(["mean"], codes)[0], np.full((1, 8), 4.0, np.float32))
    folders = exported(catalog, catalog.spec("letters")), folder
    prints = [{info.tap.name: info.fingerprint for info in Manifest.read(one).taps} for one in folders]
    assert prints[0].keys() == prints[1].keys()
    assert not set(prints[0].values()) & set(prints[1].values())


def test_a_server_that_starts_later_knows_it(catalog: Catalog, tmp_path: Path) -> None:
    spec = tuned(catalog, tmp_path)
    assert Catalog(FakePlugins([letters_spec()]), catalog.home).spec("letters-1") == spec  # type: ignore[arg-type]


def test_one_made_of_another_has_both_its_weights(catalog: Catalog, tmp_path: Path) -> None:
    tuned(catalog, tmp_path)
    save_file({"table.weight": torch.zeros(128, 8)}, tmp_path / "again.safetensors")
    spec = catalog.add_fine_tuned("letters-2", "letters-1", tmp_path / "again.safetensors", "mean", "zeros")
    assert spec.tuned is not None
    assert spec.tuned.base == "letters-1"
    assert catalog.source("letters-2") == catalog.source("letters")


def test_weights_that_were_changed_are_not_exported(catalog: Catalog, tmp_path: Path) -> None:
    spec = tuned(catalog, tmp_path)
    assert spec.tuned is not None
    save_file({"table.weight": torch.zeros(128, 8)}, spec.tuned.path)
    with pytest.raises(ExportFailed, match="is not what letters-1 was fine-tuned to"):
        exported(catalog, spec)
    assert catalog.entry("letters-1").state is EncoderState.FETCHED


def test_it_is_deleted_whole(catalog: Catalog, tmp_path: Path) -> None:
    exported(catalog, tuned(catalog, tmp_path))
    catalog.delete_fine_tuned("letters-1")
    left = sorted(path.name for path in catalog.home.rglob("*") if path.suffix != ".lock")
    assert left == ["artifacts", "encoders"]
    with pytest.raises(NotFound):
        catalog.spec("letters-1")
    catalog.delete_fine_tuned("letters-1")
    catalog.delete_fine_tuned("letters")
    assert catalog.names() == ["letters"]
