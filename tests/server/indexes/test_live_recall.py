"""Recall of live searches: sampled, repeated exactly when the server is idle, shown by filter share, forgotten with the build."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
from indexes_harness import DIM, Half, Kinds, birds, block, open_indexes
from passes import of_set
from topwork_server.indexes.executor import SearchExecutor
from topwork_server.indexes.index_types import CreateIndexParams, SearchQuery
from topwork_server.indexes.live_recall import LiveRecallSampler
from topwork_server.plugin_api.vector_index import IndexSpec

ROWS = np.random.default_rng(0).normal(size=(400, DIM)).astype(np.float32)


class Blind(Half):
    """Does not give its vectors, so that a filtered search is the index's own."""

    def vectors(self, positions):
        return None


def query(rows, k=10, **more):
    return SearchQuery(rows, np.arange(len(rows)), k, **more)


async def searched(live, recall, executor, asked):
    hits = await executor.search(live, asked)
    recall.offer(live, asked, hits)
    return hits


async def test_live_recall_is_that_of_the_searches(tmp_path):
    """The kind "half" never finds a row at an even position."""
    kinds = Kinds([IndexSpec("half", Blind)])
    async with open_indexes(tmp_path, kinds) as w:
        there = birds(w.sets)
        there.write(block([f"b{i}" for i in range(400)], ROWS)).result()
        await w.indexes.create(CreateIndexParams(of_set("birds"), kind="half"))
        facts = (await w.indexes.wait_for_build(of_set("birds"))).facts
        live = await w.indexes.live(of_set("birds"))
        executor = SearchExecutor(2, lambda: False)
        recall = LiveRecallSampler(executor, every=2)
        recall._task = asyncio.create_task(asyncio.sleep(0))  # repeated below, one by one
        keys = there.keys()[1]
        asked = [query(ROWS[i : i + 3]) for i in range(0, 60, 3)]
        asked += [query(ROWS[i : i + 1], allowed=keys[:300]) for i in range(20)]
        for one in asked:
            assert (await searched(live, recall, executor, one)).how == "index"
            if recall._waiting:
                await recall.repeat_oldest()
        bare, filtered = recall.figures("birds", "pooled", facts)
        assert (bare.filtered, bare.searches, filtered.filtered, filtered.above, filtered.up_to, filtered.searches) == (
            False,
            10,
            True,
            0.1,
            1.0,
            10,
        )
        assert 0.2 < bare.recall < 0.8
        assert 0.2 < filtered.recall < 0.8
        for chosen in (replace(asked[0], effort=2), replace(asked[0], exact=True), replace(asked[0], within=0.5)):
            await searched(live, recall, executor, chosen)
        assert not recall._waiting
        assert recall.figures("birds", "pooled", replace(facts, version=99)) == ()
        await recall.close()
        await executor.close()


class Watched(SearchExecutor):
    """Tells when it was asked whether it is idle."""

    asked = None

    @property
    def idle(self):
        self.asked.set()
        return super().idle


async def test_samples_wait_until_the_server_is_idle_and_are_repeated_then(tmp_path, monkeypatch):
    monkeypatch.setattr("topwork_server.indexes.live_recall.PAUSE", 0.01)
    async with open_indexes(tmp_path) as w:
        birds(w.sets).write(block([f"b{i}" for i in range(400)], ROWS)).result()
        await w.indexes.create(CreateIndexParams(of_set("birds"), kind="half"))
        facts = (await w.indexes.wait_for_build(of_set("birds"))).facts
        live, busy = await w.indexes.live(of_set("birds")), True
        executor = Watched(2, lambda: busy)
        executor.asked = asyncio.Event()
        recall = LiveRecallSampler(executor, every=1)
        await searched(live, recall, executor, query(ROWS[:1]))
        for _ in range(2):
            executor.asked.clear()
            await asyncio.wait_for(executor.asked.wait(), 20)
        assert recall.figures("birds", "pooled", facts) == ()
        busy = False
        await asyncio.wait_for(recall._task, 20)
        (told,) = recall.figures("birds", "pooled", facts)
        assert told.searches == 1
        await recall.close()
        await executor.close()
