"""Builds as they are: FAISS kinds, in jobs with processes of their own, that are cancelled and killed."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import numpy as np
import psutil
import pytest
from indexes_harness import birds, block, found_ids, nearest_ids, open_indexes
from lance_rows import clustered
from passes import of_set
from topwork_server.indexes.index_types import CreateIndexParams, IndexState
from topwork_server.jobs.job_records import JobRecords, JobState
from topwork_server.jobs.manager import JobManager
from topwork_server.plugin_api.plugin_registry import PluginRegistry

COUNT = 4000


def names(start, stop):
    return [f"b{i:05}" for i in range(start, stop)]


def served(home):
    return open_indexes(home, PluginRegistry.load(), JobManager(home / "jobs", threads=1))


def filled(sets):
    feature_set = birds(sets)
    feature_set.write(block(names(0, COUNT), clustered(COUNT))).result()
    return feature_set


async def child():
    """The process of the job that is starting."""
    while True:
        for process in psutil.Process().children():
            if "topwork_server.jobs.worker" in process.cmdline():
                return process.pid
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("kind", ["hnsw", "ivf-sq8", "IVF16,Flat"])
async def test_the_recall_that_is_said_is_the_recall_that_there_is(tmp_path, kind):
    async with served(tmp_path) as w:
        feature_set = filled(w.sets)
        await w.indexes.create(CreateIndexParams(of_set("birds"), kind=kind))
        described = await w.indexes.wait_for_build(of_set("birds"))
        assert described.state is IndexState.READY, described.detail
        facts = described.facts
        assert (facts.rows, facts.held_out) == (COUNT, 200)
        assert facts.operating[-1].recall == facts.recall >= 0.95
        assert all(one.recall < 0.95 and one.qps > 0 for one in facts.operating[:-1])
        queries = clustered(300, seed=77)
        found = found_ids(feature_set, await w.search(queries))
        own = np.mean([len(a & b) / 10 for a, b in zip(found, nearest_ids(feature_set, queries), strict=True)])
        assert own == pytest.approx(facts.recall, abs=0.04)
        feature_set.delete(names(0, 500)).result()
        feature_set.write(block(names(COUNT - 200, COUNT + 300), clustered(500, seed=5))).result()
        found = found_ids(feature_set, await w.search(queries))
        own = np.mean([len(a & b) / 10 for a, b in zip(found, nearest_ids(feature_set, queries), strict=True)])
        assert own > 0.9
        await w.jobs.close()


async def test_a_build_whose_server_was_killed_as_it_published_is_done(tmp_path):
    async with served(tmp_path) as w:
        filled(w.sets)
        begun = await w.indexes.create(CreateIndexParams(of_set("birds"), kind="flat"))
        await w.indexes.wait_for_build(of_set("birds"))
        done = w.jobs.get(begun.job)
        await w.jobs.close()
    records, later = JobRecords(tmp_path / "jobs"), replace(done, id="zzzzzzzz", created=done.created + 1000)
    for job in (done, later):
        records.save(replace(job, state=JobState.RUNNING, ended=0.0, result={}))
    async with served(tmp_path) as w:
        found = w.jobs.get(done.id)
        assert (found.state, found.error) == (JobState.DONE, "")
        assert found.result["seconds"] == done.result["seconds"]
        assert w.jobs.get(later.id).state is JobState.FAILED
        await w.jobs.close()


async def test_a_killed_build_is_said_with_its_cause_and_searches_go_on(tmp_path):
    async with served(tmp_path) as w:
        feature_set = filled(w.sets)
        begun = await w.indexes.create(CreateIndexParams(of_set("birds")))
        os.kill(await child(), signal.SIGKILL)
        assert (await w.jobs.wait(begun.job)).state is JobState.FAILED
        failed = await w.indexes.get(of_set("birds"))
        assert failed.state is IndexState.FAILED
        assert "signal 9" in failed.detail
        queries = clustered(5, seed=9)
        assert found_ids(feature_set, await w.search(queries)) == nearest_ids(feature_set, queries)
        await w.indexes.rebuild(of_set("birds"))
        mended = await w.indexes.wait_for_build(of_set("birds"))
        assert (mended.state, mended.facts.built) == (IndexState.READY, "Flat")
        assert found_ids(feature_set, await w.search(queries)) == nearest_ids(feature_set, queries)
        await w.indexes.rebuild(of_set("birds"))
        os.kill(await child(), signal.SIGKILL)
        kept = await w.indexes.wait_for_build(of_set("birds"))
        assert kept.state is IndexState.READY
        assert "signal 9" in kept.detail
        assert found_ids(feature_set, await w.search(queries)) == nearest_ids(feature_set, queries)
        await w.jobs.close()


async def test_a_cancelled_build_ends_its_process(tmp_path):
    async with served(tmp_path) as w:
        filled(w.sets)
        begun = await w.indexes.create(CreateIndexParams(of_set("birds")))
        pid = await child()
        assert (await w.jobs.cancel(begun.job)).state is JobState.CANCELLED
        assert not psutil.pid_exists(pid)
        described = await w.indexes.get(of_set("birds"))
        assert (described.state, "cancelled" in described.detail) == (IndexState.FAILED, True)
        builds = tmp_path / "indexes" / "birds" / "pooled" / "builds"
        assert not builds.exists() or list(builds.iterdir()) == []
        await w.jobs.close()
