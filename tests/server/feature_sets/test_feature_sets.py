"""The folder of all sets: made, opened, dropped, swept; one that is broken troubles no other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import lance
import pytest
from passes import of_set
from sample_batches import CELLS, POOLED, TOKENS, WINDOWS, block, everything, wanted
from topwork_server.errors import AlreadyExists, DataLoss, DiskFull, InvalidInput, NotFound, NotReady
from topwork_server.feature_sets import lance_io
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import ColumnType
from topwork_server.types import FingerprintedTap, Granularity, Modality, Tap


@pytest.fixture
def sets(tmp_path: Path) -> FeatureSets:
    return FeatureSets(tmp_path / "home" / "sets")


def test_a_set_says_after_a_restart_what_it_was_made_with(sets: FeatureSets) -> None:
    made = wanted(
        "a.b-c_d",
        *(POOLED, TOKENS, WINDOWS, CELLS),
        encoder="all-minilm",
        options={"truncate": True, "depth": 3},
        modalities=(Modality.TEXT,),
        dtype="float16",
        keep_inputs=True,
    )
    described = sets.create(made).describe()
    sets.close()
    again = FeatureSets(sets.folder).get(of_set("a.b-c_d")).describe()
    assert again == described
    assert again.definition == made
    assert again.tap_columns == {
        "pooled": "features_pooled",
        "hidden.6": "features_hidden_6",
        "windows": "features_windows",
        "cells": "features_cells",
    }


def test_taps_whose_names_look_alike_have_columns_of_their_own(sets: FeatureSets) -> None:
    taps = [FingerprintedTap(Tap(name, 2, Granularity.ITEM), "") for name in ("a.b", "a_b", "A-b", "a_b_2")]
    columns = sets.create(wanted("alike", *taps)).describe().tap_columns
    assert columns == {"a.b": "features_a_b", "a_b": "features_a_b_2", "A-b": "features_a_b_3", "a_b_2": "features_a_b_2_2"}


@pytest.mark.parametrize("name", ["", "Birds", "../birds", "a/b", ".birds", "b irds", "é", "b" * 101, "b\n"])
def test_bad_names_are_refused(sets: FeatureSets, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot name a feature set"):
        sets.create(wanted(name))
    with pytest.raises(NotFound):
        sets.get(of_set(name))
    with pytest.raises(NotFound):
        sets.drop(of_set(name))


def test_what_cannot_be_stored_is_refused(sets: FeatureSets) -> None:
    with pytest.raises(InvalidInput, match="'int8'"):
        sets.create(wanted(dtype="int8"))
    with pytest.raises(InvalidInput, match="'pooled' stands twice"):
        sets.create(wanted("twice", POOLED, POOLED))
    assert sets.names() == []


def test_a_name_is_taken_once_and_near_names_are_told(sets: FeatureSets) -> None:
    birds = sets.create(wanted("birds"))
    assert sets.get(of_set("birds")) is birds
    with pytest.raises(AlreadyExists, match="'birds'"):
        sets.create(wanted("birds"))
    with pytest.raises(NotFound, match=r"'brids' .did you mean birds"):
        sets.get(of_set("brids"))


def test_a_dropped_set_is_gone_and_its_name_is_free(sets: FeatureSets) -> None:
    birds = sets.create(wanted("birds"))
    birds.write(block(["a"])).result()
    sets.drop(of_set("birds"))
    assert sets.names() == []
    assert list(sets.folder.iterdir()) == []
    with pytest.raises(NotFound):
        sets.get(of_set("birds"))
    with pytest.raises(NotFound):
        birds.write(block(["b"]))
    again = sets.create(wanted("birds", TOKENS))
    assert again.describe().items == 0


def test_a_broken_set_troubles_no_other(sets: FeatureSets) -> None:
    for name in ("birds", "broken", "empty", "foreign"):
        sets.create(wanted(name)).write(block(["a"])).result()
    sets.close()
    for manifest in (sets.folder / "broken.lance" / "_versions").iterdir():
        manifest.write_bytes(b"xxx")
    shutil.rmtree(sets.folder / "empty.lance" / "_versions")
    lance.dataset(str(sets.folder / "foreign.lance")).update_schema_metadata({"topwork": '{"format": 99}'})
    opened = FeatureSets(sets.folder)
    assert opened.names() == ["birds", "broken", "empty", "foreign"]
    for name, kind in (("broken", DataLoss), ("empty", DataLoss), ("foreign", NotReady)):
        with pytest.raises(kind, match=f"{name}.*") as caught:
            opened.get(of_set(name))
        assert "drop the set" in str(caught.value) or kind is NotReady
        assert ".rs:" not in str(caught.value)
    assert list(everything(opened.get(of_set("birds")))) == ["a"]
    opened.drop(of_set("broken"))
    assert opened.names() == ["birds", "empty", "foreign"]


def test_what_a_crash_left_is_swept(sets: FeatureSets) -> None:
    sets.create(wanted("birds")).write(block(["a"])).result()
    sets.close()
    (sets.folder / ".unfinished.part" / "birds.lance" / "data").mkdir(parents=True)
    (sets.folder / "notes.txt").write_text("mine")
    opened = FeatureSets(sets.folder)
    assert sorted(path.name for path in sets.folder.iterdir()) == ["birds.lance", "notes.txt"]
    assert opened.names() == ["birds"]


def test_nothing_is_left_of_a_set_that_could_not_be_made(sets: FeatureSets, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lance_io, "sync", full)
        with pytest.raises(DiskFull):
            sets.create(wanted("birds"))
    assert list(sets.folder.iterdir()) == []
    assert sets.create(wanted("birds")).describe().items == 0


def test_all_folders_of_a_set_are_there_and_synced_from_the_start(sets: FeatureSets) -> None:
    """Commits sync the names in folders, but not those of new folders."""
    birds = sets.create(wanted("birds"))
    before = {path for path in birds.path.rglob("*") if path.is_dir()}
    birds.write(block(["a", "b"])).result()
    birds.delete(["a"]).result()
    birds.pin("first")
    birds.add_column("year", ColumnType.INT)
    birds.prune(0)
    birds.compact()
    assert {path for path in birds.path.rglob("*") if path.is_dir()} == before


def test_a_server_without_sets_does_not_load_lance(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from topwork_server.feature_sets.set_registry import FeatureSets;"
        f"assert FeatureSets(Path({str(tmp_path)!r})).names() == [];"
        "assert not {'lance', 'pyarrow', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
