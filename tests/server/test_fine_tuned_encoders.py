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
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import EncoderState
from topwork_server.models.fingerprint import module_digest
from topwork_server.runtime import export
from topwork_server.runtime.session import Session
from topwork_server.types import Adapter, EncoderSpec
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


def adapted(catalog: Catalog, tmp_path: Path, name: str, base: str, trunk: str) -> EncoderSpec:
    """`base` with 3 added to each number of its table, by an adapter of rank 1."""
    factors = {"A": torch.ones(1, 128), "B": torch.ones(8, 1)}
    save_file({f"model.table.lora_embedding_{side}": factor for side, factor in factors.items()}, tmp_path / "a.safetensors")
    adapter = Adapter({"r": 1, "lora_alpha": 3.0, "target_modules": "table"}, trunk)
    return catalog.add_fine_tuned(name, base, tmp_path / "a.safetensors", "mean", "three more", adapter)


def weights_of(spec: EncoderSpec, tmp_path: Path) -> tuple[torch.Tensor, str]:
    """The table of letters, and the digest of the trunk."""
    module = export.open_trunk(spec, tmp_path, tmp_path).module
    assert module is not None
    return module.state_dict()["table.weight"], module_digest(module)


def test_an_adapter_is_added_to_the_trunk_that_it_was_learned_on(catalog: Catalog, tmp_path: Path) -> None:
    """Even where that was tuned itself, or has an adapter of its own."""
    base = tuned(catalog, tmp_path)
    before, digest = weights_of(base, tmp_path)
    one = adapted(catalog, tmp_path, "one", "letters-1", digest)
    once, digest = weights_of(one, tmp_path)
    two = adapted(catalog, tmp_path, "two", "one", digest)
    torch.testing.assert_close(once, before + 3)
    torch.testing.assert_close(weights_of(two, tmp_path)[0], before + 6)
    assert catalog.derived_from("one") == ["two"]
    assert "adapter" in two.description
    assert artifacts.key(one) != artifacts.key(two)
    codes = {"codes": np.array([[3, 5]]), "mask": np.ones((1, 2), np.float32)}
    np.testing.assert_allclose(Session(exported(catalog, two) / MODEL).run(["mean"], codes)[0], np.full((1, 8), 10.0))
    catalog.delete_fine_tuned("two")
    assert not list(catalog.home.rglob("two*.safetensors"))


def test_an_adapter_of_another_trunk_is_refused_by_name(catalog: Catalog, tmp_path: Path) -> None:
    spec = adapted(catalog, tmp_path, "letters-3", "letters", "0" * 64)
    with pytest.raises(ExportFailed, match="the adapter of letters-3 is of another trunk") as caught:
        exported(catalog, spec)
    assert "letters" in caught.value.remedy
    assert artifacts.find(catalog.home, spec) is None


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
