"""The executor: which searches are joined, which are cut, which are skipped, and what callers are told."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from memory_set import DIM, NO_KEYS, FakeSet, build, definition, query, tap_info
from topwork_server.errors import InvalidInput, Overloaded, TopworkError, Unavailable
from topwork_server.indexes import executor as module
from topwork_server.indexes.executor import SearchExecutor
from topwork_server.indexes.index_types import SearchHits, SearchQuery
from topwork_server.indexes.live_index import LiveIndex
from topwork_server.types import Array, Granularity


class Held:
    """A searcher that says what it was asked, and waits at the gate while it is closed. A vector's first number
    is the key that it finds."""

    def __init__(self, long: bool = False) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.asked: list[SearchQuery] = []
        self.threads: list[int] = []
        self.long = long
        self.fail: Callable[[SearchQuery], None] = lambda query: None

    def search(self, query: SearchQuery, threads: int = 0, check: Callable[[], None] = lambda: None) -> SearchHits:
        self.asked.append(query)
        self.threads.append(threads)
        self.entered.release()
        assert self.gate.wait(30)
        check()
        self.fail(query)
        n = len(query.vectors)
        first = query.vectors[:, 0].astype(np.int64)
        return SearchHits(np.ones(n, np.int64), first, np.zeros(n, np.int32), first.astype(np.float32), len(self.asked), "held")

    def scans_every_row(self, query: SearchQuery) -> bool:
        return self.long

    @property
    def sizes(self) -> list[int]:
        return [len(query.vectors) for query in self.asked]


class Grouped(Held):
    """Answers queries of several vectors with no hits."""

    def search(self, query: SearchQuery, threads: int = 0, check: Callable[[], None] = lambda: None) -> SearchHits:
        self.asked.append(query)
        n = int(query.groups[-1]) + 1
        return SearchHits(np.zeros(n, np.int64), NO_KEYS, np.zeros(0, np.int32), np.zeros(0, np.float32), 1, "held")


class Gated:
    """A real searcher that waits until the gate is open. `vectors` are those of each search."""

    def __init__(self, live: LiveIndex) -> None:
        self.live, self.gate = live, threading.Event()
        self.vectors: list[Array] = []

    def search(self, query: SearchQuery, threads: int = 0, check: Callable[[], None] = lambda: None) -> SearchHits:
        assert self.gate.wait(30)
        self.vectors.append(query.vectors)
        return self.live.search(query, threads, check)

    def scans_every_row(self, query: SearchQuery) -> bool:
        return self.live.scans_every_row(query)


def numbered(*values: int, **options: Any) -> SearchQuery:
    vectors = np.zeros((len(values), DIM), np.float32)
    vectors[:, 0] = values
    return query(vectors, **options)


class Bench:
    """An executor of 8 cores, and a searcher that holds its thread."""

    def __init__(self, workers: int) -> None:
        self.held, self.busy = Held(), False
        self.executor = SearchExecutor(8, lambda: self.busy, workers)

    async def search(self, *values: int, **options: Any) -> SearchHits:
        return await self.executor.search(self.held, numbered(*values, **options))

    async def blocked(self) -> asyncio.Task[SearchHits]:
        """Start a search that holds the thread."""
        self.held.gate.clear()
        task = asyncio.create_task(self.search(0))
        await self.entered(self.held)
        return task

    async def entered(self, searcher: Held) -> None:
        assert await asyncio.to_thread(searcher.entered.acquire, timeout=30)

    async def waiting(self, *queries: SearchQuery) -> list[asyncio.Task[SearchHits]]:
        """Put searches in line behind it."""
        tasks = [asyncio.create_task(self.executor.search(self.held, one)) for one in queries]
        await asyncio.sleep(0)  # each task runs up to its wait
        return tasks

    async def search_together(self, *queries: SearchQuery) -> list[Any]:
        """Search while all wait for one thread; return hits or errors."""
        first = await self.blocked()
        tasks = await self.waiting(*queries)
        self.held.gate.set()
        await first
        return list(await asyncio.gather(*tasks, return_exceptions=True))


@asynccontextmanager
async def bench(workers: int = 1) -> AsyncIterator[Bench]:
    made = Bench(workers)
    try:
        yield made
    finally:
        made.held.gate.set()
        await made.executor.close()


async def test_waiting_searches_are_joined_and_each_gets_its_own_hits() -> None:
    async with bench() as b:
        found = await b.search_together(*(numbered(i, 100 + i) for i in range(1, 21)))
        for i, hits in enumerate(found, 1):
            assert (hits.keys.tolist(), hits.counts.tolist()) == ([i, 100 + i], [1, 1])
        assert b.held.sizes == [1, 40]
        assert b.held.threads == [8, 7], "one core is left to the event loop, which many callers keep busy"
        assert b.held.asked[1].groups.tolist() == list(range(40))
        assert b.executor.counters == {"callers": 21, "searches": 2}


async def test_only_searches_of_equal_parameters_are_joined() -> None:
    keys = np.arange(5)
    kinds: list[dict[str, Any]] = [
        {},
        {"k": 3},
        {"within": 0.5},
        {"allowed": keys},
        {"allowed": keys.copy()},
        {"every_row": True},
        {"exact": True},
        {"effort": 9},
    ]
    async with bench() as b:
        found = await b.search_together(*(numbered(i, **kind) for i, kind in enumerate(kinds * 2)))
        assert [hits.keys.tolist() for hits in found] == [[i] for i in range(2 * len(kinds))]
        assert b.held.sizes == [1, *[2] * len(kinds)]


async def test_searches_that_skip_an_item_are_joined_with_others() -> None:
    async with bench() as b:
        await b.search_together(numbered(1), numbered(2, 3, without=np.array([7, 8])), numbered(4))
        assert b.held.asked[1].without is not None
        assert b.held.asked[1].without.tolist() == [-1, 7, 8, -1]


async def test_a_large_batch_is_cut_and_others_get_their_turn() -> None:
    async with bench() as b:
        large, small = await b.search_together(numbered(*range(1000), without=np.arange(1000)), numbered(5000, k=3))
        assert large.keys.tolist() == list(range(1000))
        assert small.keys.tolist() == [5000]
        assert b.held.sizes[:3] == [1, 64, 1], "the small one goes before the second slice"
        assert sum(b.held.sizes) == 1002
        assert max(b.held.sizes) <= module.BATCH_VECTORS * 4
        for part in b.held.asked[1:2] + b.held.asked[3:]:
            assert part.without is not None
            assert part.without.tolist() == part.vectors[:, 0].tolist()
        assert large.version == 2, "the version of the oldest slice"


async def test_a_query_of_several_vectors_is_never_cut() -> None:
    groups = np.repeat(np.arange(5), [100, 10, 1, 70, 30])
    async with bench() as b:
        searcher = Grouped()
        await b.executor.search(searcher, numbered(*range(211), groups=groups))
        sent = [part.groups.tolist() for part in searcher.asked]
        assert all(part[0] == 0 for part in sent)
        assert np.concatenate([np.bincount(part) for part in sent]).tolist() == [100, 10, 1, 70, 30]
        assert len(sent) > 1


async def test_a_caller_that_left_is_skipped() -> None:
    async with bench() as b:
        first = await b.blocked()
        tasks = await b.waiting(numbered(1), numbered(2))
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        b.held.gate.set()
        await asyncio.gather(first, tasks[1])
        assert [query.vectors[:, 0].tolist() for query in b.held.asked] == [[0], [2]]
        assert b.executor.counters["left"] == 1


async def test_a_caller_that_leaves_between_slices_is_not_served_on() -> None:
    async with bench() as b:
        b.held.gate.clear()
        task = asyncio.create_task(b.search(*range(500)))
        await b.entered(b.held)
        task.cancel()
        await asyncio.wait([task])
        b.held.gate.set()
        assert (await b.search(3)).keys.tolist() == [3]
        assert b.held.sizes == [64, 1]
        assert b.executor.counters["left"] == 1


async def test_an_error_goes_to_the_caller_whose_query_made_it() -> None:
    def refuse(query: SearchQuery) -> None:
        bad = np.flatnonzero(query.vectors[:, 0] == 13)
        if len(bad):
            raise InvalidInput("thirteen", item=int(bad[0]))

    async with bench() as b:
        b.held.fail = refuse
        queries = numbered(1), numbered(2, 13), numbered(3), numbered(*range(100, 200), 13)
        one, two, three, four = await b.search_together(*queries)
        assert (one.keys.tolist(), three.keys.tolist()) == ([1], [3])
        assert isinstance(two, InvalidInput)
        assert two.item == 1
        assert isinstance(four, InvalidInput)
        assert four.item == 100, "of the whole request, not of its slice"


async def test_a_failure_of_any_kind_ends_no_thread() -> None:
    def crash(query: SearchQuery) -> None:
        raise ZeroDivisionError("a bug")

    async with bench() as b:
        b.held.fail = crash
        with pytest.raises(ZeroDivisionError):
            await b.search(1)
        b.held.fail = lambda query: None
        assert (await b.search(2)).keys.tolist() == [2]


async def test_too_many_callers_are_refused_and_one_large_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REQUESTS", 3)
    monkeypatch.setattr(module, "MAX_QUEUED_VECTORS", 10)
    async with bench() as b:
        first = await b.blocked()
        tasks = await b.waiting(numbered(*range(20)))
        for refused in ((1,), range(20)):
            with pytest.raises(Overloaded, match="1 searches wait"):
                await b.search(*refused)
        tasks[0].cancel()
        await asyncio.wait(tasks)
        tasks = await b.waiting(numbered(1), numbered(2), numbered(3))
        with pytest.raises(Overloaded, match="3 searches wait"):
            await b.search(4)
        b.held.gate.set()
        await asyncio.gather(first, *tasks)


async def test_closing_tells_waiting_callers() -> None:
    async with bench() as b:
        first = await b.blocked()
        tasks = await b.waiting(numbered(1), numbered(*range(500)))
        closing = asyncio.create_task(b.executor.close())
        assert all(isinstance(e, Unavailable) for e in await asyncio.gather(*tasks, return_exceptions=True))
        b.held.gate.set()
        await closing
        assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], TopworkError)
        with pytest.raises(Unavailable):
            await b.search(1)


@pytest.mark.parametrize("busy", [False, True])
async def test_cores_are_shared_and_left_to_a_busy_encoder(busy: bool) -> None:
    async with bench(workers=2) as b:
        b.busy = busy
        first = await b.blocked()
        [second] = await b.waiting(numbered(1, k=7))
        beside = await asyncio.to_thread(b.held.entered.acquire, timeout=0.3 if busy else 30)
        b.held.gate.set()
        await asyncio.gather(first, second)
        assert beside is not busy
        assert b.held.threads == ([1, 1] if busy else [8, 4])


async def test_searches_that_pass_over_all_rows_leave_a_thread_to_the_others() -> None:
    slow = Held(long=True)
    async with bench(workers=2) as b:
        slow.gate.clear()
        long = [asyncio.create_task(b.executor.search(slow, numbered(*range(300), k=k))) for k in (1, 2)]
        await b.entered(slow)
        assert (await b.search(1)).keys.tolist() == [1]
        assert len(slow.asked) == 1, "the second waits for the first"
        slow.gate.set()
        await asyncio.gather(*long)
        assert slow.sizes == [300, 300], "they are not cut: a pass over the rows costs the same for many"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
async def test_its_threads_are_nicer_than_the_others() -> None:
    found: list[int] = []
    async with bench() as b:
        b.held.fail = lambda query: found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        await b.search(1)
    assert found == [min(19, os.getpriority(os.PRIO_PROCESS, 0) + module.NICENESS)]


async def test_many_callers_of_a_real_index_each_get_what_they_would_alone() -> None:
    fake = FakeSet(tap_info(Granularity.WINDOW))
    rng = np.random.default_rng(4)
    fake.commit([rng.standard_normal((rng.integers(1, 4), DIM)).astype(np.float32) for _ in range(500)])
    live = LiveIndex(definition(granularity=Granularity.WINDOW), fake, 1)
    fake.follow(live.apply)
    live.install(build(fake, effort=16), fake.keys()[1])
    queries = [_any_query(rng, fake.keys()[1]) for _ in range(60)]
    gated = Gated(live)
    async with bench(workers=2) as b:
        tasks = [asyncio.create_task(b.executor.search(gated, one)) for one in queries]
        await asyncio.sleep(0)  # each task runs up to its wait: all are in line before the first is searched
        gated.gate.set()
        found = await asyncio.gather(*tasks)
    whose = {row.tobytes(): i for i, one in enumerate(queries) for row in one.vectors}
    assert any(len({whose[row.tobytes()] for row in rows}) > 1 for rows in gated.vectors), "no search was shared"
    for one, hits in zip(queries, found, strict=True):
        alone = live.search(one)
        for name in ("counts", "keys", "rows"):
            assert getattr(hits, name).tolist() == getattr(alone, name).tolist()
        np.testing.assert_allclose(hits.scores, alone.scores, atol=1e-6)


def _any_query(rng: np.random.Generator, keys: Array) -> SearchQuery:
    n = int(rng.choice([1, 1, 1, 3, 200]))
    groups = np.arange(n) // int(rng.choice([1, 2]))
    without = rng.choice(keys, int(groups[-1]) + 1) if rng.random() < 0.5 else None
    return query(rng.standard_normal((n, DIM)).astype(np.float32), groups=groups, without=without, k=5)


async def test_without_a_thread_a_search_fails_and_the_next_one_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with bench() as b:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(RuntimeError, match="new thread"):
                await b.search(1)
        assert (await asyncio.wait_for(b.search(2), 60)).keys.tolist() == [2]
