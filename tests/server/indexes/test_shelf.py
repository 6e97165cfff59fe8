"""What is on the shelf is whole or not there."""

from __future__ import annotations

import errno
import json
from dataclasses import replace

import lance_rows
import numpy as np
import pytest
import toys_index
from topwork_server import Metric
from topwork_server.errors import DiskFull, TopworkError
from topwork_server.indexes.index_store import IndexStore, StoredIndex, order_by_key, read_definition
from topwork_server.indexes.index_types import BuildFacts, BuiltIndex, IndexDefinition, MeasuredEffort
from topwork_server.types import Granularity

FACTS = BuildFacts("rows", "Rows", 7, 5, 5, 0, 3, 0.97, (MeasuredEffort(1, 0.9, 10.0), MeasuredEffort(3, 0.97, 5.0)), 2, 1.5, 0)
DEFINITION = IndexDefinition(
    "birds", "pooled", lance_rows.tap(granularity=Granularity.CELL), "rows", Metric.L2, {"m": 16}, target_recall=0.9
)


def built(version=7, rows=None):
    index = toys_index.Rows(lance_rows.clustered(5), Metric.L2)
    return BuiltIndex(replace(FACTS, version=version), index, np.array([1, 2, 9, 4, 4]), rows)


def opener(facts):
    return lambda path: toys_index.Rows.load(path, Metric.L2)


@pytest.fixture
def shelf(tmp_path):
    shelf = IndexStore(tmp_path / "indexes")
    shelf.add(StoredIndex(DEFINITION, 12.5))
    return shelf


@pytest.fixture
def slot(shelf):
    return shelf.build_folder("birds", "pooled")


def test_a_definition_comes_back_as_it_was(shelf, slot):
    assert shelf.stored() == [StoredIndex(DEFINITION, 12.5)]
    assert read_definition(slot) == DEFINITION


def test_a_definition_that_cannot_be_read_hides_no_other(shelf, slot):
    shelf.add(StoredIndex(replace(DEFINITION, name="other"), 1.0))
    (slot.folder / "definition.json").write_text("{")
    assert [kept.definition.name for kept in shelf.stored()] == ["other"]
    with pytest.raises(TopworkError, match="drop the index"):
        read_definition(slot)


@pytest.mark.parametrize("rows", [None, np.array([0, 0, 0, 0, 1], np.int32)])
def test_a_build_comes_back_as_it_was(slot, rows):
    slot.publish(built(rows=rows))
    found = slot.load(opener)
    assert replace(found.facts, bytes=0) == FACTS
    assert found.facts.bytes == sum(p.stat().st_size for p in slot.builds.glob("1/*") if p.name != "facts.json")
    assert found.keys.tolist() == [1, 2, 9, 4, 4]
    assert found.order.tolist() == [0, 1, 3, 4, 2]
    assert (found.rows is None) == (rows is None)
    np.testing.assert_array_equal(found.index.vectors(np.arange(5)), lance_rows.clustered(5))


def test_the_newest_is_the_current_one_and_the_others_go(slot):
    for version in (7, 8, 9):
        slot.publish(built(version))
    assert slot.facts().version == 9
    slot.prune(slot.facts())
    assert [path.name for path in slot.builds.iterdir()] == ["3"]
    slot.publish(built(10))
    assert slot.load(opener).facts.version == 10


DAMAGES = {
    "index deleted": lambda folder: (folder / "index.bin").unlink(),
    "index truncated": lambda folder: (folder / "index.bin").write_bytes((folder / "index.bin").read_bytes()[:100]),
    "index garbage": lambda folder: (folder / "index.bin").write_bytes(b"garbage"),
    "keys deleted": lambda folder: (folder / "keys.npy").unlink(),
    "keys of another length": lambda folder: np.save(folder / "keys.npy", np.arange(3)),
    "facts deleted": lambda folder: (folder / "facts.json").unlink(),
    "facts truncated": lambda folder: (folder / "facts.json").write_text("{"),
    "facts of something else": lambda folder: (folder / "facts.json").write_text("[1]"),
    "facts without a field": lambda folder: (folder / "facts.json").write_text('{"format": 1, "facts": {}, "files": {}}'),
    "an older format": lambda folder: (folder / "facts.json").write_text('{"format": 0}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_build_is_none(slot, damage):
    DAMAGES[damage](slot.publish(built()))
    assert slot.load(opener) is None


def test_behind_a_damaged_build_stands_the_one_before(slot):
    slot.publish(built(7))
    (slot.publish(built(8)) / "index.bin").write_bytes(b"")
    assert slot.load(opener).facts.version == 7


def test_a_build_whose_parts_do_not_agree_is_none(slot):
    slot.publish(replace(built(), facts=replace(FACTS, rows=6)))
    assert slot.load(opener) is None


def test_a_plugin_that_cannot_load_is_none(slot):
    slot.publish(built())

    def refuse(facts):
        raise RuntimeError("no such kind")

    assert slot.load(refuse) is None


def test_a_publication_that_fails_leaves_nothing(slot, monkeypatch):
    def full(self, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(toys_index.Rows, "save", full)
    with pytest.raises(DiskFull):
        slot.publish(built())
    assert list(slot.builds.iterdir()) == []


def test_what_killed_jobs_left_is_swept(shelf, slot):
    slot.publish(built())
    (slot.builds / ".abc.part").mkdir()
    (shelf.folder / ".def.part").mkdir()
    shelf.sweep()
    assert [path.name for path in slot.builds.iterdir()] == ["1"]
    assert [path.name for path in shelf.folder.iterdir()] == ["birds"]


def test_a_removed_index_is_gone_and_a_job_of_it_cannot_bring_it_back(shelf, slot):
    shelf.add(StoredIndex(replace(DEFINITION, name="other"), 1.0))
    shelf.remove("birds", "pooled")
    assert [kept.definition.name for kept in shelf.stored()] == ["other"]
    with pytest.raises(TopworkError, match="cannot be written"):
        slot.publish(built())
    assert not slot.folder.exists()
    shelf.remove("birds")
    shelf.remove("birds")
    assert list(shelf.folder.iterdir()) == []


def test_the_record_holds_plain_json(slot):
    record = json.loads((slot.publish(built()) / "facts.json").read_text())
    assert sorted(record["files"]) == ["index.bin", "keys.npy"]


def test_keys_that_ascend_need_no_order():
    assert order_by_key(np.array([1, 1, 4]), None) is None
    assert order_by_key(np.empty(0, np.int64), None) is None
