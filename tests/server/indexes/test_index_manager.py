"""An index follows its set through failures of its builds and its files. Jobs run in this process, so that tests hold them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from indexes_harness import POOLED, Kinds, birds, block, builds, found_ids, nearest_ids, open_indexes
from lance_rows import clustered
from passes import of_set
from topwork_server.errors import NotFound
from topwork_server.indexes import build_schedule, index
from topwork_server.indexes.index_types import CreateIndexParams, IndexState
from topwork_server.plugin_api.vector_index import Metric
from topwork_server.types import FingerprintedTap, Granularity, Tap

QUERIES = clustered(12, seed=9)


def names(start, stop):
    return [f"b{i:04}" for i in range(start, stop)]


def filled(sets, count=300, **more):
    feature_set = birds(sets, **more)
    feature_set.write(block(names(0, count), clustered(count), year=list(range(count)))).result()
    return feature_set


async def indexed(w, **params):
    """The set, once its index is built."""
    feature_set = filled(w.sets)
    await w.indexes.create(CreateIndexParams(of_set("birds"), **params))
    await w.indexes.wait_for_build(of_set("birds"))
    return feature_set


async def right(w, feature_set, metric=Metric.COSINE, name=""):
    """The index finds what exact search over the whole set does, at its latest version."""
    hits = await w.search(QUERIES, name=name)
    assert hits.version == feature_set.version
    assert found_ids(feature_set, hits) == nearest_ids(feature_set, QUERIES, metric=metric)
    return hits


@pytest.mark.parametrize("metric", list(Metric))
async def test_searches_are_right_before_while_and_after_it_is_built(tmp_path, metric):
    async with open_indexes(tmp_path) as w:
        feature_set = filled(w.sets)
        w.jobs.gate.clear()
        begun = await w.indexes.create(CreateIndexParams(of_set("birds"), metric=metric))
        assert (begun.state, begun.definition.name, begun.definition.kind) == (IndexState.BUILDING, "pooled", "auto")
        assert (begun.definition.target_recall, begun.alive_rows) == (0.95, 300)
        assert w.jobs.get(begun.job).subject == "birds/pooled"
        assert (await right(w, feature_set, metric)).how == "exact"
        w.jobs.gate.set()
        done = await w.indexes.wait_for_build(of_set("birds"))
        assert (done.state, done.detail, done.facts.recall, done.facts.rows) == (IndexState.READY, "", 1.0, 300)
        assert (done.alive_rows, done.fresh_rows, done.dead_rows) == (300, 0, 0)
        assert done.version == feature_set.version
        assert done.memory > 0
        assert done.facts.bytes > 300 * 8 * 4
        await right(w, feature_set, metric)


async def test_what_is_acknowledged_is_found_at_once(tmp_path):
    async with open_indexes(tmp_path) as w:
        feature_set = await indexed(w)
        feature_set.write(block(names(250, 350), clustered(100, seed=5))).result()
        await right(w, feature_set)
        feature_set.delete(names(0, 40)).result()
        hits = await right(w, feature_set)
        assert not {key for key in hits.keys if feature_set.ids_of(np.array([key])) == [None]}
        described = await w.indexes.get(of_set("birds"))
        assert (described.alive_rows, described.fresh_rows, described.dead_rows) == (310, 100, 90)
        assert described.version == feature_set.version


async def test_writes_while_it_is_built_are_not_lost(tmp_path):
    async with open_indexes(tmp_path) as w:
        feature_set = filled(w.sets)
        w.jobs.gate.clear()
        await w.indexes.create(CreateIndexParams(of_set("birds")))
        feature_set.write(block(names(280, 400), clustered(120, seed=5))).result()
        feature_set.delete(names(0, 10)).result()
        w.jobs.gate.set()
        described = await w.indexes.wait_for_build(of_set("birds"))
        assert (described.facts.rows, described.fresh_rows, described.dead_rows) == (300, 120, 30)
        await right(w, feature_set)


async def test_after_a_restart_it_catches_up(tmp_path):
    async with open_indexes(tmp_path) as w:
        await indexed(w)
        first = w.sets.get(of_set("birds"))
        first.write(block(names(290, 330), clustered(40, seed=5))).result()
    async with open_indexes(tmp_path) as w:
        feature_set = w.sets.get(of_set("birds"))
        feature_set.delete(names(0, 20)).result()  # no index follows yet
        [listed] = await w.indexes.list()
        assert (listed.state, listed.memory, listed.version) == (IndexState.READY, 0, listed.facts.version)
        await right(w, feature_set)
        described = await w.indexes.get(of_set("birds"))
        assert (described.state, described.fresh_rows, described.dead_rows) == (IndexState.READY, 40, 30)
        assert w.jobs.started == []


DAMAGES = {
    "no index": lambda build: (build / "index.bin").unlink(),
    "half an index": lambda build: (build / "index.bin").write_bytes((build / "index.bin").read_bytes()[:200]),
    "no keys": lambda build: (build / "keys.npy").unlink(),
    "other keys": lambda build: np.save(build / "keys.npy", np.arange(3)),
    "no facts": lambda build: (build / "facts.json").unlink(),
    "garbage": lambda build: (build / "facts.json").write_text("{"),
    "facts of something else": lambda build: (build / "facts.json").write_text("[1]"),
    "facts without a field": lambda build: (build / "facts.json").write_text('{"format": 1, "facts": {}, "files": {}}'),
    "an older format": lambda build: (build / "facts.json").write_text('{"format": 0}'),
    "facts of more rows": lambda build: _replace_text(build / "facts.json", '"rows": 300', '"rows": 301'),
}


def _replace_text(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_lost_or_corrupt_file_is_built_again_and_searches_are_right_meanwhile(tmp_path, damage):
    async with open_indexes(tmp_path) as w:
        await indexed(w)
    DAMAGES[damage](tmp_path / "indexes" / "birds" / "pooled" / "builds" / "1")
    async with open_indexes(tmp_path) as w:
        w.jobs.gate.clear()
        await right(w, w.sets.get(of_set("birds")))
        assert (await w.indexes.get(of_set("birds"))).state is IndexState.BUILDING
        w.jobs.gate.set()
        assert (await w.indexes.wait_for_build(of_set("birds"))).state is IndexState.READY
        assert len(w.jobs.started) == 1
        await right(w, w.sets.get(of_set("birds")))


async def test_a_first_build_that_the_end_of_the_server_cut_off_begins_again(tmp_path):
    async with open_indexes(tmp_path) as w:
        filled(w.sets)
        w.jobs.gate.clear()
        await w.indexes.create(CreateIndexParams(of_set("birds")))
    async with open_indexes(tmp_path) as w:
        await right(w, w.sets.get(of_set("birds")))
        assert (await w.indexes.wait_for_build(of_set("birds"))).state is IndexState.READY


async def test_builds_of_few_numbers_stand_in_a_line_of_their_own(tmp_path, monkeypatch):
    async with open_indexes(tmp_path) as w:
        filled(w.sets)
        await w.indexes.create(CreateIndexParams(of_set("birds"), "one"))
        monkeypatch.setattr(index, "SMALL", 300 * 8 - 1)
        await w.indexes.create(CreateIndexParams(of_set("birds"), "two"))
        assert w.jobs.small == [True, False]


async def test_a_failed_build_does_not_begin_again_until_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(build_schedule, "PATIENCE", 0.0)
    async with open_indexes(tmp_path) as w:
        filled(w.sets)
        w.jobs.fail = "it was too much"
        await w.indexes.create(CreateIndexParams(of_set("birds")))
        await w.indexes.wait_for_build(of_set("birds"))
        w.sets.get(of_set("birds")).write(block(["new"], clustered(1, seed=5))).result()
        await right(w, w.sets.get(of_set("birds")))
        assert len(w.jobs.started) == 1
    async with open_indexes(tmp_path) as w:  # nor when the server is started again
        await right(w, w.sets.get(of_set("birds")))
        failed = await w.indexes.wait_for_build(of_set("birds"))
        assert (failed.state, "it was too much" in failed.detail) == (IndexState.FAILED, True)
        assert w.jobs.started == []
        await w.indexes.rebuild(of_set("birds"))
        assert (await w.indexes.wait_for_build(of_set("birds"))).state is IndexState.READY
    async with open_indexes(tmp_path) as w:
        assert (await w.indexes.get(of_set("birds"))).detail == ""


async def test_a_failed_rebuild_is_tried_again_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(build_schedule, "PATIENCE", 0.01)
    monkeypatch.setattr(build_schedule, "DEAD", 1)
    monkeypatch.setattr(build_schedule, "DEAD_SHARE", 0.0)
    async with open_indexes(tmp_path) as w:
        feature_set = filled(w.sets)
        await w.indexes.create(CreateIndexParams(of_set("birds")))
        built = await w.indexes.wait_for_build(of_set("birds"))
        w.jobs.fail = "it was too much"
        feature_set.delete(names(0, 10)).result()
        while len(w.jobs.started) < 3:
            await asyncio.sleep(0.001)
        w.jobs.fail = ""
        while (await w.indexes.wait_for_build(of_set("birds"))).facts.version == built.facts.version:
            await asyncio.sleep(0.001)
        await right(w, feature_set)


async def test_a_failed_rebuild_leaves_the_one_before(tmp_path):
    async with open_indexes(tmp_path) as w:
        feature_set = await indexed(w)
        w.jobs.fail = "it was too much"
        w.jobs.gate.clear()
        assert (await w.indexes.rebuild(of_set("birds"))).state is IndexState.REBUILDING
        w.jobs.gate.set()
        described = await w.indexes.wait_for_build(of_set("birds"))
        assert described.state is IndexState.READY
        assert "it was too much" in described.detail
        assert described.facts.rows == 300
        await right(w, feature_set)


async def test_a_cancelled_build(tmp_path):
    async with open_indexes(tmp_path) as w:
        feature_set = filled(w.sets)
        w.jobs.gate.clear()
        await w.indexes.create(CreateIndexParams(of_set("birds")))
        await w.jobs.cancel(w.jobs.list()[0].id)
        described = await w.indexes.get(of_set("birds"))  # a caller that watched the job to its end sees the result
        assert described.state is IndexState.FAILED
        assert "cancelled" in described.detail
        await right(w, feature_set)
        w.jobs.gate.set()
        await w.indexes.rebuild(of_set("birds"))
        assert (await w.indexes.wait_for_build(of_set("birds"))).state is IndexState.READY
        w.jobs.gate.clear()
        await w.indexes.rebuild(of_set("birds"))
        await w.jobs.cancel(w.jobs.list()[0].id)
        assert (await w.indexes.get(of_set("birds"))).state is IndexState.READY
        await right(w, feature_set)


async def test_a_rebuild_swaps_while_searches_run(tmp_path):
    async with open_indexes(tmp_path) as w:
        feature_set = await indexed(w)
        feature_set.delete(names(0, 50)).result()
        expected, searches, stop = nearest_ids(feature_set, QUERIES), 0, asyncio.Event()

        async def searcher():
            nonlocal searches
            while not stop.is_set():
                assert found_ids(feature_set, await w.search(QUERIES)) == expected
                searches += 1

        async with asyncio.TaskGroup() as group:
            group.create_task(searcher())
            for _ in range(3):
                before = searches
                await w.indexes.rebuild(of_set("birds"))
                described = await w.indexes.wait_for_build(of_set("birds"))
                assert (described.facts.rows, described.dead_rows) == (250, 0)
                while searches == before:
                    await asyncio.sleep(0)
            stop.set()
        builds = tmp_path / "indexes" / "birds" / "pooled" / "builds"
        assert [path.name for path in builds.iterdir()] == ["4"]


async def test_many_fresh_rows_are_absorbed_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(build_schedule, "FRESH", 100)
    async with open_indexes(tmp_path) as w:
        feature_set = await indexed(w)
        feature_set.write(block(names(300, 400), clustered(100, seed=5))).result()
        await right(w, feature_set)
        assert len(w.jobs.started) == 1
        feature_set.write(block(names(400, 420), clustered(20, seed=6))).result()
        while len(w.jobs.started) < 2:
            await asyncio.sleep(0)
        described = await w.indexes.wait_for_build(of_set("birds"))
        assert w.jobs.started[1][1]["from_scratch"] is False
        assert (described.facts.rows, described.facts.scratch_rows, described.fresh_rows) == (420, 300, 0)
        await right(w, feature_set)


async def test_many_dead_rows_are_left_out_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(build_schedule, "DEAD", 10)
    async with open_indexes(tmp_path) as w:
        feature_set = await indexed(w)
        feature_set.delete(names(0, 100)).result()
        while len(w.jobs.started) < 2:
            await asyncio.sleep(0)
        described = await w.indexes.wait_for_build(of_set("birds"))
        assert (described.facts.rows, described.dead_rows) == (200, 0)
        await right(w, feature_set)


async def test_an_index_of_an_empty_set(tmp_path):
    async with open_indexes(tmp_path) as w:
        feature_set = birds(w.sets)
        await w.indexes.create(CreateIndexParams(of_set("birds")))
        described = await w.indexes.wait_for_build(of_set("birds"))
        assert (described.state, described.alive_rows) == (IndexState.READY, 0)
        assert (await w.search(QUERIES)).counts.tolist() == [0] * len(QUERIES)
        feature_set.write(block(names(0, 30), clustered(30))).result()
        await right(w, feature_set)


async def test_a_target_that_is_not_reached_is_said(tmp_path):
    async with open_indexes(tmp_path) as w:
        filled(w.sets, 1200)
        await w.indexes.create(CreateIndexParams(of_set("birds"), kind="half"))
        described = await w.indexes.wait_for_build(of_set("birds"))
        assert described.state is IndexState.READY
        assert 0.3 < described.facts.recall < 0.7
        assert described.detail == f"recall is {described.facts.recall:.2f} at most; the target was 0.95"


async def test_which_index_is_meant(tmp_path):
    other = FingerprintedTap(Tap("hidden.6", 8, Granularity.ITEM), "c" * 64)
    async with open_indexes(tmp_path) as w:
        birds(w.sets, POOLED, other)
        with pytest.raises(NotFound, match="has no index") as caught:
            await w.indexes.get(of_set("birds"))
        assert "CreateIndex(birds)" in caught.value.remedy
        await w.indexes.create(CreateIndexParams(of_set("birds"), tap="hidden.6"))
        assert (await w.indexes.get(of_set("birds"))).definition.name == "hidden.6"  # the only one
        await w.indexes.create(CreateIndexParams(of_set("birds"), "flat"))
        assert (await w.indexes.get(of_set("birds"))).definition.name == "flat"  # the one of the first tap
        await w.indexes.create(CreateIndexParams(of_set("birds")))
        assert (await w.indexes.get(of_set("birds"))).definition.name == "pooled"  # named as the first tap
        assert w.indexes.names("birds") == ["flat", "hidden.6", "pooled"]
        assert [d.definition.name for d in await w.indexes.list(of_set("birds"))] == ["flat", "hidden.6", "pooled"]
        with pytest.raises(NotFound, match="no index named 'poled'") as caught:
            await w.indexes.get(of_set("birds"), "poled")
        assert caught.value.remedy == "did you mean pooled?"
        with pytest.raises(NotFound, match="no feature set"):
            await w.indexes.list(of_set("nobody"))


async def test_a_dropped_index_is_gone_and_its_job_with_it(tmp_path):
    async with open_indexes(tmp_path) as w:
        feature_set = await indexed(w)
        live = await w.indexes.live(of_set("birds"))
        w.jobs.gate.clear()
        await w.indexes.rebuild(of_set("birds"))
        await w.indexes.drop(of_set("birds"))
        assert w.jobs.list()[0].state == "cancelled"
        with pytest.raises(NotFound):
            await w.indexes.get(of_set("birds"))
        assert not (await w.indexes.open(of_set("birds"))).indexed
        assert list((tmp_path / "indexes" / "birds").iterdir()) == []
        feature_set.write(block(names(0, 1), clustered(1))).result()
        assert live.version < feature_set.version  # it follows no more
        await w.indexes.create(CreateIndexParams(of_set("birds")))
        w.jobs.gate.set()
        assert (await w.indexes.wait_for_build(of_set("birds"))).state is IndexState.READY
        await right(w, feature_set)


async def test_the_indexes_of_a_dropped_set_go_with_it(tmp_path):
    async with open_indexes(tmp_path) as w:
        filled(w.sets)
        await w.indexes.create(CreateIndexParams(of_set("birds"), "one"))
        await w.indexes.create(CreateIndexParams(of_set("birds"), "two"))
        await w.indexes.wait_for_build(of_set("birds"), "one")
        await w.indexes.drop_set(of_set("birds"), w.sets.drop)
        assert await w.indexes.list() == []
        assert list((tmp_path / "indexes").iterdir()) == []
        feature_set = filled(w.sets, 50)
        await w.indexes.create(CreateIndexParams(of_set("birds"), "one"))
        await w.indexes.wait_for_build(of_set("birds"))
        await right(w, feature_set)


async def test_an_index_never_answers_for_another_set_of_that_name(tmp_path):
    async with open_indexes(tmp_path) as w:
        await indexed(w)
        w.sets.drop(of_set("birds"))  # and the server ended before its indexes went
    async with open_indexes(tmp_path) as w:
        assert await w.indexes.list() == []
        assert not (tmp_path / "indexes" / "birds").exists()
        await indexed(w)
    async with open_indexes(tmp_path) as w:
        w.sets.drop(of_set("birds"))
        filled(w.sets, 10)
        with pytest.raises(NotFound, match="another set of that name"):
            await w.indexes.live(of_set("birds"))
        await w.indexes.drop(of_set("birds"))
        await w.indexes.create(CreateIndexParams(of_set("birds")))
        assert (await w.indexes.wait_for_build(of_set("birds"))).facts.rows == 10


async def test_a_server_without_searches_takes_no_memory(tmp_path):
    async with open_indexes(tmp_path, idle_seconds=0.04) as w:
        feature_set = await indexed(w)
        await right(w, feature_set)
        while (await w.indexes.list())[0].memory:
            await asyncio.sleep(0.01)
        feature_set.write(block(names(290, 310), clustered(20, seed=5))).result()
        await right(w, feature_set)


async def test_leftovers_of_killed_jobs_are_swept(tmp_path):
    async with open_indexes(tmp_path) as w:
        await indexed(w)
        builds = tmp_path / "indexes" / "birds" / "pooled" / "builds"
        (builds / ".dead.part").mkdir()
        await w.indexes.rebuild(of_set("birds"))
        await w.indexes.wait_for_build(of_set("birds"))
        assert [path.name for path in builds.iterdir()] == ["2"]
        (builds / ".dead.part").mkdir()
    async with open_indexes(tmp_path) as w:
        assert [path.name for path in builds.iterdir()] == ["2"]


async def test_one_build_at_a_time(tmp_path):
    async with open_indexes(tmp_path) as w:
        filled(w.sets)
        w.jobs.gate.clear()
        first = await w.indexes.create(CreateIndexParams(of_set("birds")))
        again = await asyncio.gather(w.indexes.rebuild(of_set("birds")), w.indexes.rebuild(of_set("birds")))
        assert {described.job for described in again} == {first.job}
        w.jobs.gate.set()
        await w.indexes.wait_for_build(of_set("birds"))
        assert len(w.jobs.started) == 1


async def test_a_definition_whose_kind_is_gone_is_served_all_the_same(tmp_path):
    async with open_indexes(tmp_path) as w:
        filled(w.sets)
        await w.indexes.create(CreateIndexParams(of_set("birds"), kind="rows"))
        await w.indexes.wait_for_build(of_set("birds"))
    fewer = Kinds([replace(Kinds().specs[1])])
    async with open_indexes(tmp_path, fewer, builds(fewer)) as w:
        await right(w, w.sets.get(of_set("birds")))
        described = await w.indexes.wait_for_build(of_set("birds"))
        assert described.state is IndexState.FAILED
        assert "no kind of index named 'rows'" in described.detail
