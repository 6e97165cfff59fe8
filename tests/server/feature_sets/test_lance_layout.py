"""The private knowledge in `lance_layout.py` beside what Lance itself says. A failure here is a release of pylance that changed
it: put that file right first. Everything else of the server names no file and no private call of Lance."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from lance import LanceDataset, LanceOperation
from lance.fragment import write_fragments
from lance.optimize import Compaction
from topwork_server.errors import DataLoss
from topwork_server.feature_sets import lance_io, lance_layout
from topwork_server.feature_sets.versions import PIN_PATTERN

SCHEMA = pa.schema([pa.field("id", pa.string(), False), pa.field("key", pa.int64(), False)])


def rows(first: int, count: int) -> pa.Table:
    numbers = range(first, first + count)
    return pa.table([pa.array([f"i{number}" for number in numbers]), pa.array(list(numbers), pa.int64())], schema=SCHEMA)


def upsert(dataset: LanceDataset, first: int, count: int, deleted: list[int]) -> LanceDataset:
    """A commit as the store makes it: rows added and, by address, deleted at once."""
    emptied, updated = lance_layout.delete_rows(dataset, np.array(deleted, np.uint64))
    added = write_fragments(rows(first, count), dataset)
    operation = LanceOperation.Update(removed_fragment_ids=emptied, updated_fragments=updated, new_fragments=added)
    return LanceDataset.commit(dataset, operation, read_version=dataset.version)


@pytest.fixture
def dataset(tmp_path: Path) -> LanceDataset:
    """Three versions: an empty one, ten rows, and ten more with two of the first gone."""
    empty = lance.write_dataset(SCHEMA.empty_table(), str(tmp_path / "d.lance"), data_storage_version=lance_io.STORAGE_VERSION)
    return upsert(upsert(empty, 0, 10, []), 10, 10, [1, 3])


@pytest.fixture
def path(dataset: LanceDataset) -> Path:
    return Path(dataset.uri)


def tracked(dataset: LanceDataset, kind: str, version: int | None = None) -> set[str]:
    """Names that Lance tells of the files of a version, or of all."""
    found = dataset.tracked_files().read_all().to_pylist()
    return {one["path"] for one in found if one["type"] == kind and version in (None, one["version"])}


def test_manifests_are_where_their_versions_say(dataset: LanceDataset, path: Path) -> None:
    named = {version: lance_layout.manifest_name(version) for version in (1, 2, 3)}
    assert tracked(dataset, "manifest") == set(named.values()), "Lance names manifests otherwise: manifest_name"
    assert lance_layout.manifests(path) == named, "a manifest's version is no longer in its name: manifest_version"
    assert {lance_layout.manifest_version(name) for name in ("data/1.manifest", "_versions/d1.manifest", "_versions/x")} == {0}


def test_a_whole_manifest_ends_with_its_mark(path: Path) -> None:
    manifest = path / lance_layout.manifest_name(3)
    assert lance_layout.is_whole_manifest(manifest), "manifests end otherwise: is_whole_manifest"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    assert not lance_layout.is_whole_manifest(manifest)


def test_fragments_tell_the_files_of_a_version(dataset: LanceDataset) -> None:
    files = {name for names in lance_layout.files_of(dataset).values() for name in names}
    deletions = tracked(dataset, "deletion file", 3)
    assert len(deletions) == 1
    assert files == tracked(dataset, "data file", 3) | deletions, "Lance names data or deletion files otherwise: files_of"
    assert {name for name in files if lance_layout.is_deletion_file(name)} == deletions, (
        "deletions are elsewhere: is_deletion_file"
    )


def test_only_touched_fragments_are_asked_again(dataset: LanceDataset) -> None:
    before = lance_layout.files_of(dataset)
    after = upsert(dataset, 20, 5, [0, (1 << 32) + 2])
    assert lance_layout.files_of(after, before, {0, 1}) == lance_layout.files_of(after)
    assert len(tracked(after, "deletion file")) == 3, "a deletion file was written over: versions that read it are damaged"


def test_every_file_is_checked_or_is_a_note(dataset: LanceDataset, path: Path) -> None:
    dataset.tags.create("first", 2)
    found = {one["path"] for one in dataset.all_files().read_all().to_pylist()}
    known = {*lance_layout.checked_files(path), *lance_layout.unchecked_files(path)}
    assert found - known == set(), "Lance keeps files in another place: nothing checks those"
    needed = tracked(dataset, "manifest") | tracked(dataset, "data file") | tracked(dataset, "deletion file")
    assert needed <= {*lance_layout.checked_files(path)}, "a version needs files that have no checksum: checked_files"
    kinds = {one["type"] for one in dataset.tracked_files().read_all().to_pylist()}
    assert kinds <= {"manifest", "data file", "deletion file", "transaction file"}, f"Lance has files of a new kind: {kinds}"


def test_hints_and_notes_may_go(path: Path) -> None:
    for name in set(lance_layout.unchecked_files(path)) - set(lance_layout.manifests(path).values()):
        (path / name).unlink()
    assert lance.dataset(str(path)).count_rows() == 18, "Lance needs a file that has no checksum: unchecked_files"


def test_a_tag_is_a_file_of_its_name(dataset: LanceDataset, path: Path) -> None:
    dataset.tags.create("first", 2)
    file = path / lance_layout.tag_file("first")
    assert file.is_file(), "Lance keeps tags elsewhere: tag_file"
    assert lance_layout.tag_names(path) == ["first"]
    assert lance_layout.tag_version(path, "first") == 2, "a tag's file says its version otherwise: tag_version"
    file.unlink()
    assert lance.dataset(str(path)).tags.list() == {}, "a tag is more than its file: to delete that does not delete it"
    file.write_bytes(b"{}")
    with pytest.raises(DataLoss):
        lance_layout.tag_version(path, "first")
    assert lance_layout.tag_name("_refs/branches/first.json") == ""


@pytest.mark.parametrize("name", ["a", "v1.0", "head-birds.x_2", "A" * 100])
def test_lance_takes_the_names_that_pins_may_have(dataset: LanceDataset, name: str) -> None:
    assert PIN_PATTERN.fullmatch(name)
    dataset.tags.create(name, 2)
    assert list(dataset.tags.list()) == [name]


def test_addresses_are_fragments_and_offsets(dataset: LanceDataset) -> None:
    found = dataset.scanner(columns=["key"], with_row_address=True).to_table()
    expected = np.concatenate([np.delete(lance_layout.addresses_of(0, 10), [1, 3]), lance_layout.addresses_of(1, 10)])
    assert found["_rowaddr"].to_pylist() == expected.tolist(), "row addresses are made otherwise: addresses_of"
    assert lance_layout.fragments_of(expected).tolist() == [0] * 8 + [1] * 10


def test_rows_are_taken_by_address_in_the_order_asked(dataset: LanceDataset) -> None:
    addresses = np.array([(1 << 32) + 4, 9, 2, (1 << 32) + 0], np.uint64)
    assert lance_layout.take_rows(dataset, addresses, ["key"])["key"].to_pylist() == [14, 9, 2, 10], "take_rows"


def test_rows_are_deleted_by_address_before_any_version_holds_it(dataset: LanceDataset, path: Path) -> None:
    every = np.array([0, *range(1 << 32, (1 << 32) + 10)], np.uint64)
    emptied, [updated] = lance_layout.delete_rows(dataset, every)
    assert (emptied, updated.id) == ([1], 0), "a fragment without rows is told otherwise: delete_rows"
    assert (path / updated.deletion_file.path(updated.id)).is_file(), "a deletion file is not where Lance says"
    assert dataset.count_rows() == lance.dataset(str(path)).count_rows() == 18


def test_new_rows_stand_in_their_order_in_fragments_of_greater_numbers(dataset: LanceDataset) -> None:
    after = upsert(dataset, 20, 1000, [5])
    [new] = set(after.fragment_ids()) - set(dataset.fragment_ids())
    assert new > max(dataset.fragment_ids())
    assert after.get_fragment(new).to_table()["key"].to_pylist() == list(range(20, 1020)), "the id map takes rows in order"


def test_a_change_in_place_leaves_the_handle_that_readers_hold(dataset: LanceDataset) -> None:
    copy = lance_io.copy_of(dataset)
    copy.add_columns([pa.field("new", pa.int64())])
    assert (dataset.version, copy.version) == (3, 4), "copy_of gives the same handle: readers would see a change half done"
    assert "new" not in dataset.schema.names


def test_a_compaction_tells_its_new_files(dataset: LanceDataset, path: Path) -> None:
    [task] = Compaction.plan(dataset, {"target_rows_per_fragment": 100}).tasks
    result: Any = task.execute(dataset)
    names = lance_io.data_files(result.new_fragments)
    assert names, "a compaction does not tell the files that it wrote: they would not be synced"
    assert all((path / name).is_file() for name in names)
    joined = lance_io.copy_of(dataset)
    Compaction.commit(joined, [result])
    assert {name for files in lance_layout.files_of(joined).values() for name in files} == set(names)


PRIVATE = re.compile(r"\b_(versions|deletions|refs|transactions)\b[\"'/]|[\"']data/|\.manifest[\"']|\._(ds|take_rows|fragment)\b")


def test_no_other_module_knows_what_is_private_to_lance() -> None:
    server = Path(lance_layout.__file__).parents[1]
    found = [(file.name, line) for file in server.rglob("*.py") for line in file.read_text().splitlines() if PRIVATE.search(line)]
    assert {name for name, _ in found} == {"lance_layout.py"}, f"this belongs into lance_layout.py: {found}"
