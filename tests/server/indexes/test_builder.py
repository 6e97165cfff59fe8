"""A build's own process, without the process: what it reads, holds out, measures, adds and publishes."""

from __future__ import annotations

import errno
from dataclasses import replace

import lance_rows
import numpy as np
import pytest
import toys_index
from indexes_harness import Half, Kinds
from lance_rows import clustered
from topwork_server import IndexSpec, InvalidInput, Metric
from topwork_server.errors import DiskFull, TopworkError
from topwork_server.feature_sets.set_types import KEY_BITS
from topwork_server.indexes.build_rows import RowSubset, collect_rows
from topwork_server.indexes.builder import HELD_OUT, BuildJob, resolve_kind, run_build
from topwork_server.indexes.index_store import IndexStore, StoredIndex
from topwork_server.indexes.index_types import IndexDefinition
from topwork_server.inference.output_format import normalize
from topwork_server.types import Granularity


def quiet(fraction, message):
    assert 0 <= fraction <= 1


class BuildHarness:
    """A dataset and an index of it."""

    def __init__(self, folder, metric=Metric.COSINE, kind="rows", granularity=Granularity.ITEM):
        self.path = folder / "set"
        self.tap = lance_rows.tap(granularity=granularity)
        self.definition = IndexDefinition("birds", "pooled", self.tap, kind, metric)
        store = IndexStore(folder / "indexes")
        store.add(StoredIndex(self.definition, 0.0))
        self.slot = store.build_folder("birds", "pooled")
        self.dataset = None

    def write(self, keys, rows, counts=None):
        self.dataset = lance_rows.write(self.path, keys, rows, counts, "append" if self.dataset else "create")

    def build(self, anew=False, kinds=None, report=quiet):
        facts = run_build(BuildJob(str(self.slot.folder), self.dataset, 1, anew), kinds or Kinds(), report)
        metric = self.definition.metric
        return facts, self.slot.load(lambda facts: lambda path: toys_index.Rows.load(path, metric))

    def delete(self, where):
        import lance

        table = lance.dataset(str(self.path))
        table.delete(where)
        self.dataset = replace(self.dataset, version=table.version)


def holds(built, keys, rows):
    """The build has exactly these rows, each under its key, and its order is what it says."""
    order = np.arange(len(built.keys)) if built.order is None else built.order
    np.testing.assert_array_equal(built.keys[order], keys)
    np.testing.assert_array_equal(built.index.vectors(order), rows)
    if built.rows is not None:
        assert (np.diff(built.rows[order])[np.diff(built.keys[order]) == 0] == 1).all()


@pytest.mark.parametrize("metric", list(Metric))
def test_all_rows_are_there_under_their_keys_in_any_order_on_disk(tmp_path, metric):
    harness, rows = BuildHarness(tmp_path, metric), clustered(500)
    keys = np.random.default_rng(3).permutation(500) * 3
    harness.write(keys[:300], rows[:300])
    harness.write(keys[300:], rows[300:])
    facts, built = harness.build()
    order = np.argsort(keys)
    holds(built, keys[order], normalize(rows[order]) if metric is Metric.COSINE else rows[order])
    assert (facts.rows, facts.scratch_rows, facts.version) == (500, 500, harness.dataset.version)
    assert (facts.held_out, facts.recall) == (100, 1.0)
    assert facts.kind == "rows"
    assert built.facts.operating[0].qps > 0


def test_items_with_many_rows_are_held_out_whole(tmp_path):
    harness, rows = BuildHarness(tmp_path, granularity=Granularity.TOKEN), clustered(900)
    counts = np.tile([1, 0, 5], 150)
    keys = np.random.default_rng(3).permutation(450)
    harness.write(keys, rows, counts)
    seen = []

    class Watched(toys_index.Rows):
        @classmethod
        def build(cls, vectors, *arguments):
            seen.append(np.concatenate(list(vectors.batches())))
            return super().build(vectors, *arguments)

    facts, built = harness.build(kinds=Kinds([IndexSpec("rows", Watched)]))
    lines = np.split(rows, np.cumsum(counts)[:-1])
    order = np.argsort(keys)
    expected = normalize(np.concatenate([lines[i] for i in order]))
    holds(built, np.repeat(keys[order], counts[order]), expected)
    trained = {row.tobytes() for row in seen[0]}
    inside = [[row.tobytes() in trained for row in normalize(line)] for line in lines if len(line)]
    assert all(len(set(line)) == 1 for line in inside)
    assert sum(not line[0] for line in inside) == 60  # of 300 items
    assert facts.held_out == sum(len(line) for line in inside if not line[0])


@pytest.mark.parametrize("count", [0, 1, 2, 4, 9])
def test_a_set_with_few_rows_builds(tmp_path, count):
    harness = BuildHarness(tmp_path, kind="auto")
    harness.write(np.arange(count), clustered(count))
    facts, built = harness.build()
    assert (facts.rows, len(built.keys), facts.kind) == (count, count, "rows")
    assert facts.recall == 1.0  # the index is exact, held-out rows or none


def test_a_target_that_is_not_reached_is_said_with_the_largest_effort(tmp_path):
    harness = BuildHarness(tmp_path, kind="half")
    harness.write(np.arange(3000), clustered(3000))
    facts, built = harness.build()
    assert facts.held_out == HELD_OUT
    assert [one.effort for one in facts.operating] == [1, 2]
    assert facts.effort == 2
    rows = normalize(clustered(3000))
    held = built.keys[np.argmax(np.diff(built.keys) < 0) + 1 :]
    assert len(held) == HELD_OUT
    rest = np.setdiff1d(np.arange(3000), held)
    best = np.argsort(-(rows[held] @ rows[rest].T), axis=1)[:, :10]
    assert facts.recall == pytest.approx((best % 2 > 0).mean(), abs=1e-3)


def test_what_was_written_since_is_added_and_what_died_does_not_count(tmp_path):
    harness, rows = BuildHarness(tmp_path, Metric.L2), clustered(1600)
    harness.write(np.arange(1000), rows[:1000])
    harness.build()
    keys = np.arange(600) + (harness.dataset.version << KEY_BITS)
    harness.write(keys[::-1], rows[1000:][::-1])
    harness.delete("key < 100")
    facts, built = harness.build()
    assert (facts.rows, facts.scratch_rows, facts.recall, facts.held_out) == (1600, 1000, 1.0, 120)
    holds(built, np.concatenate([np.arange(1000), keys]), rows)


@pytest.mark.parametrize(("dead", "added", "anew"), [(250, 100, False), (0, 3100, False), (0, 0, False), (0, 100, True)])
def test_all_is_built_again_where_much_died_or_much_came_or_it_was_asked(tmp_path, dead, added, anew):
    harness, rows = BuildHarness(tmp_path, Metric.L2), clustered(1000 + added)
    harness.write(np.arange(1000), rows[:1000])
    harness.build()
    if added:
        harness.write(np.arange(added) + (harness.dataset.version << KEY_BITS), rows[1000:])
    if dead:
        harness.delete(f"key < {dead}")
    facts, _ = harness.build(anew)
    assert facts.rows == facts.scratch_rows == 1000 + added - dead


def test_behind_a_damaged_build_stands_the_one_before(tmp_path):
    harness = BuildHarness(tmp_path, Metric.L2)
    for first in (0, 300):
        harness.write(np.arange(first, first + 300), clustered(300))
        harness.build(anew=True)
    (harness.slot.builds / "2" / "index.bin").write_bytes(b"")
    load = lambda facts: lambda path: toys_index.Rows.load(path, Metric.L2)  # noqa: E731
    assert harness.slot.load(load).facts.rows == 300


def test_a_publication_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(self, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(toys_index.Rows, "save", full)
    harness = BuildHarness(tmp_path, Metric.L2)
    harness.write(np.arange(50), clustered(50))
    with pytest.raises(DiskFull):
        harness.build()
    assert list(harness.slot.builds.iterdir()) == []


def test_the_job_of_a_dropped_index_does_not_bring_it_back(tmp_path):
    harness = BuildHarness(tmp_path, Metric.L2)
    harness.write(np.arange(50), clustered(50))

    def drop(fraction, message):
        if message == "writing the index":
            IndexStore(tmp_path / "indexes").remove("birds", "pooled")

    with pytest.raises(TopworkError):
        harness.build(report=drop)
    assert not harness.slot.folder.exists()


def test_an_older_build_that_is_damaged_is_not_added_to(tmp_path):
    harness = BuildHarness(tmp_path, Metric.L2)
    harness.write(np.arange(500), clustered(500))
    harness.build()
    (harness.slot.builds / "1" / "index.bin").write_bytes(b"garbage")
    harness.write(np.arange(100) + (harness.dataset.version << KEY_BITS), clustered(100))
    assert harness.build()[0].scratch_rows == 600


def test_auto_changes_its_kind_as_the_set_grows(tmp_path):
    harness = BuildHarness(tmp_path, kind="auto")
    harness.write(np.arange(900), clustered(900))
    assert harness.build()[0].kind == "rows"
    harness.write(np.arange(400) + (harness.dataset.version << KEY_BITS), clustered(400))
    facts, _ = harness.build()
    assert (facts.kind, facts.scratch_rows) == ("more", 1300)


def test_no_kind_for_so_many_rows_is_said(tmp_path):
    definition = BuildHarness(tmp_path, kind="auto").definition
    with pytest.raises(InvalidInput, match="no kind of index suits 5 rows"):
        resolve_kind(definition, 5, Kinds([IndexSpec("half", Half)]))


def test_a_failed_build_leaves_the_one_before(tmp_path):
    harness = BuildHarness(tmp_path)
    harness.write(np.arange(50), clustered(50))
    harness.build()

    def fail(fraction, message):
        raise RuntimeError(message)

    with pytest.raises(TopworkError, match="read 50 of 50"):
        harness.build(report=fail)
    assert [path.name for path in harness.slot.builds.iterdir()] == ["1"]


def test_rows_are_read_in_bounded_batches_and_samples_repeat(tmp_path, monkeypatch):
    monkeypatch.setattr("topwork_server.indexes.build_rows.BATCH_BYTES", 4 * 8 * 100)
    dataset = lance_rows.write(tmp_path / "set", np.arange(1000)[::-1], clustered(1000))
    rows = collect_rows(dataset, lance_rows.tap(), Metric.L2, tmp_path, quiet)
    chosen = RowSubset(rows, np.arange(0, 1000, 3))
    batches = list(chosen.batches())
    assert {len(batch) for batch in batches} == {100, 34}
    np.testing.assert_array_equal(np.concatenate(batches), clustered(1000)[::-1][::3])
    assert all(batch.flags.c_contiguous and batch.dtype == np.float32 for batch in batches)
    sample = chosen.sample(50)
    np.testing.assert_array_equal(sample, chosen.sample(50))
    assert len({row.tobytes() for row in sample} & {row.tobytes() for row in np.concatenate(batches)}) == 50
    assert chosen.sample(5000).shape == (334, 8)


def test_half_precision_and_missing_rows_are_read(tmp_path):
    import lance
    import pyarrow as pa

    rows = clustered(6).astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 8)
    table = pa.table({"key": [3, 1, 2, 0, 5, 4, 6], lance_rows.COLUMN: pa.concat_arrays([column, pa.nulls(1, column.type)])})
    version = lance.write_dataset(table, str(tmp_path / "set"), data_storage_version="2.1").version
    dataset = lance_rows.DatasetColumn(str(tmp_path / "set"), version, lance_rows.COLUMN)
    found = collect_rows(dataset, lance_rows.tap(), Metric.L2, tmp_path, quiet)
    np.testing.assert_array_equal(found.keys, np.arange(6))
    np.testing.assert_array_equal(found.gather(np.arange(6)), rows[[3, 1, 2, 0, 5, 4]].astype(np.float32))
