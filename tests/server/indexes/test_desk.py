"""The desk: who rides together, what is cut, who is skipped, who is told."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from memory_set import DIM, NO_KEYS, FakeSet, build, definition, query, tap_info
from topwork_server.errors import InvalidInput, Overloaded, TopworkError, Unavailable
from topwork_server.indexes import executor as desks
from topwork_server.indexes.executor import SearchExecutor
from topwork_server.indexes.index_types import SearchHits, SearchQuery
from topwork_server.indexes.live_index import LiveIndex
from topwork_server.types import Array, Granularity


class Held:
    """A searcher that says what it was asked, and waits at the gate while it is closed. A vector's first number
    is the key that it finds."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.asked: list[SearchQuery] = []
        self.threads: list[int] = []
        self.long = False
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
    """One desk of one thread, whose searcher is held until `opened`."""

    def __init__(self, runner: asyncio.Runner, workers: int = 1) -> None:
        self.runner, self.held = runner, Held()
        self.busy = False
        self.desk = SearchExecutor(8, lambda: self.busy, workers)

    async def blocked(self) -> asyncio.Task[SearchHits]:
        """A search that holds the thread."""
        self.held.gate.clear()
        task = asyncio.create_task(self.desk.search(self.held, numbered(0)))
        assert await asyncio.to_thread(self.held.entered.acquire, timeout=30)
        return task

    async def waiting(self, *queries: SearchQuery) -> list[asyncio.Task[SearchHits]]:
        """Searches in line behind it."""
        tasks = [asyncio.create_task(self.desk.search(self.held, one)) for one in queries]
        await asyncio.sleep(0)  # each task runs up to its wait
        return tasks


@pytest.fixture
def bench(runner: asyncio.Runner) -> Iterator[Bench]:
    made = Bench(runner)
    yield made
    made.held.gate.set()
    runner.run(made.desk.close())


def test_those_who_wait_ride_together_and_get_their_own(bench: Bench) -> None:
    async def act() -> None:
        first = await bench.blocked()
        tasks = await bench.waiting(*(numbered(i, 100 + i) for i in range(1, 21)))
        bench.held.gate.set()
        await first
        for i, hits in enumerate(await asyncio.gather(*tasks), 1):
            assert hits.keys.tolist() == [i, 100 + i]
            assert hits.counts.tolist() == [1, 1]

    bench.runner.run(act())
    assert bench.held.sizes == [1, 40]
    assert bench.held.threads == [8, 7], "one core is left to the event loop, which many callers keep busy"
    assert bench.held.asked[1].groups.tolist() == list(range(40))
    assert bench.desk.counters == {"callers": 21, "searches": 2}


def test_only_equal_parameters_ride_together(bench: Bench) -> None:
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

    async def act() -> None:
        first = await bench.blocked()
        tasks = await bench.waiting(*(numbered(i, **kind) for i, kind in enumerate(kinds * 2)))
        bench.held.gate.set()
        found = await asyncio.gather(*tasks)
        await first
        assert [hits.keys.tolist() for hits in found] == [[i] for i in range(len(tasks))]

    bench.runner.run(act())
    assert bench.held.sizes == [1, *[2] * len(kinds)]


def test_those_with_an_item_of_their_own_to_skip_ride_with_others(bench: Bench) -> None:
    async def act() -> None:
        first = await bench.blocked()
        tasks = await bench.waiting(numbered(1), numbered(2, 3, without=np.array([7, 8])), numbered(4))
        bench.held.gate.set()
        await asyncio.gather(first, *tasks)

    bench.runner.run(act())
    without = bench.held.asked[1].without
    assert without is not None
    assert without.tolist() == [-1, 7, 8, -1]


def test_a_large_batch_is_cut_and_others_get_their_turn(bench: Bench) -> None:
    async def act() -> tuple[SearchHits, list[SearchHits]]:
        first = await bench.blocked()
        large, small = numbered(*range(1000), without=np.arange(1000)), numbered(5000, k=3)
        tasks = await bench.waiting(large, small)
        bench.held.gate.set()
        await first
        return await tasks[0], [await tasks[1]]

    large, small = bench.runner.run(act())
    assert large.keys.tolist() == list(range(1000))
    assert small[0].keys.tolist() == [5000]
    assert bench.held.sizes[:3] == [1, 64, 1], "the small one goes before the second slice"
    assert sum(bench.held.sizes) == 1002
    assert max(bench.held.sizes) <= desks.BATCH_VECTORS * 4
    for part in bench.held.asked[1:2] + bench.held.asked[3:]:
        assert part.without is not None
        assert part.without.tolist() == part.vectors[:, 0].tolist()
    assert large.version == 2, "the version of the oldest slice"


def test_a_query_of_several_vectors_is_never_cut(bench: Bench) -> None:
    groups = np.repeat(np.arange(5), [100, 10, 1, 70, 30])

    async def act() -> None:
        await bench.desk.search(bench.held, numbered(*range(211), groups=groups))

    bench.held.search = _by_group(bench.held)  # type: ignore[method-assign]
    bench.runner.run(act())
    sent = [part.groups.tolist() for part in bench.held.asked]
    assert all(part[0] == 0 for part in sent)
    assert np.concatenate([np.bincount(part) for part in sent]).tolist() == [100, 10, 1, 70, 30]
    assert len(sent) > 1


def _by_group(held: Held) -> Callable[..., SearchHits]:
    def search(query: SearchQuery, threads: int = 0, check: Callable[[], None] = lambda: None) -> SearchHits:
        held.asked.append(query)
        n = int(query.groups[-1]) + 1
        return SearchHits(np.zeros(n, np.int64), NO_KEYS, np.zeros(0, np.int32), np.zeros(0, np.float32), 1, "held")

    return search


def test_a_caller_who_left_is_skipped(bench: Bench) -> None:
    async def act() -> None:
        first = await bench.blocked()
        tasks = await bench.waiting(numbered(1), numbered(2))
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        bench.held.gate.set()
        await asyncio.gather(first, tasks[1])

    bench.runner.run(act())
    assert [query.vectors[:, 0].tolist() for query in bench.held.asked] == [[0], [2]]
    assert bench.desk.counters["left"] == 1


def test_one_who_leaves_between_slices_is_not_served_on(bench: Bench) -> None:
    async def act() -> None:
        bench.held.gate.clear()
        task = asyncio.create_task(bench.desk.search(bench.held, numbered(*range(500))))
        assert await asyncio.to_thread(bench.held.entered.acquire, timeout=30)
        task.cancel()
        await asyncio.wait([task])
        bench.held.gate.set()
        assert (await bench.desk.search(bench.held, numbered(3))).keys.tolist() == [3]

    bench.runner.run(act())
    assert bench.held.sizes == [64, 1]
    assert bench.desk.counters["left"] == 1


def test_an_error_is_told_to_the_one_who_made_it(bench: Bench) -> None:
    def refuse(query: SearchQuery) -> None:
        bad = np.flatnonzero(query.vectors[:, 0] == 13)
        if len(bad):
            raise InvalidInput("thirteen", item=int(bad[0]))

    bench.held.fail = refuse

    async def act() -> list[SearchHits | BaseException]:
        first = await bench.blocked()
        tasks = await bench.waiting(numbered(1), numbered(2, 13), numbered(3), numbered(*range(100, 200), 13))
        bench.held.gate.set()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)

    one, two, three, four = bench.runner.run(act())
    assert isinstance(one, SearchHits)
    assert one.keys.tolist() == [1]
    assert isinstance(three, SearchHits)
    assert isinstance(two, InvalidInput)
    assert two.item == 1
    assert isinstance(four, InvalidInput)
    assert four.item == 100, "of the whole request, not of its slice"


def test_a_failure_of_any_kind_ends_no_thread(bench: Bench) -> None:
    def crash(query: SearchQuery) -> None:
        raise ZeroDivisionError("a bug")

    async def act() -> None:
        bench.held.fail = crash
        with pytest.raises(ZeroDivisionError):
            await bench.desk.search(bench.held, numbered(1))
        bench.held.fail = lambda query: None
        assert (await bench.desk.search(bench.held, numbered(2))).keys.tolist() == [2]

    bench.runner.run(act())


def test_too_many_callers_are_refused_and_one_large_one_is_not(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "MAX_REQUESTS", 3)
    monkeypatch.setattr(desks, "MAX_QUEUED_VECTORS", 10)

    async def act() -> None:
        first = await bench.blocked()
        tasks = await bench.waiting(numbered(*range(20)))
        for refused in (numbered(1), numbered(*range(20))):
            with pytest.raises(Overloaded, match="1 searches wait"):
                await bench.desk.search(bench.held, refused)
        tasks[0].cancel()
        await asyncio.wait(tasks)
        tasks = await bench.waiting(numbered(1), numbered(2), numbered(3))
        with pytest.raises(Overloaded, match="3 searches wait"):
            await bench.desk.search(bench.held, numbered(4))
        bench.held.gate.set()
        await asyncio.gather(first, *tasks)

    bench.runner.run(act())


def test_closing_tells_those_who_wait(bench: Bench) -> None:
    async def act() -> None:
        first = await bench.blocked()
        tasks = await bench.waiting(numbered(1), numbered(*range(500)))
        closing = asyncio.create_task(bench.desk.close())
        assert all(isinstance(e, Unavailable) for e in await asyncio.gather(*tasks, return_exceptions=True))
        bench.held.gate.set()
        await closing
        assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], TopworkError)
        with pytest.raises(Unavailable):
            await bench.desk.search(bench.held, numbered(1))

    bench.runner.run(act())


def test_cores_are_shared_and_left_to_a_busy_encoder(runner: asyncio.Runner) -> None:
    bench = Bench(runner, workers=2)

    async def act() -> None:
        await bench.desk.search(bench.held, numbered(1))
        assert bench.held.entered.acquire(timeout=30)
        first = await bench.blocked()
        tasks = await bench.waiting(numbered(2))
        assert await asyncio.to_thread(bench.held.entered.acquire, timeout=30)
        bench.held.gate.set()
        await asyncio.gather(first, *tasks)
        bench.busy = True
        await bench.desk.search(bench.held, numbered(3))
        await bench.desk.close()

    runner.run(act())
    assert bench.held.threads == [8, 8, 4, 1]


def test_searches_that_pass_over_all_rows_leave_a_thread_to_the_others(runner: asyncio.Runner) -> None:
    bench = Bench(runner, workers=2)
    slow = Held()
    slow.long = True

    async def act() -> None:
        slow.gate.clear()
        long = [asyncio.create_task(bench.desk.search(slow, numbered(*range(300), k=k))) for k in (1, 2)]
        assert await asyncio.to_thread(slow.entered.acquire, timeout=30)
        assert (await bench.desk.search(bench.held, numbered(1))).keys.tolist() == [1]
        assert len(slow.asked) == 1, "the second waits for the first"
        slow.gate.set()
        await asyncio.gather(*long)
        await bench.desk.close()

    runner.run(act())
    assert slow.sizes == [300, 300], "they are not cut: a pass over the rows costs the same for many"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
def test_its_threads_are_nicer_than_the_others(bench: Bench) -> None:
    found: list[int] = []
    bench.held.fail = lambda query: found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    bench.runner.run(bench.desk.search(bench.held, numbered(1)))
    assert found == [min(19, os.getpriority(os.PRIO_PROCESS, 0) + desks.NICENESS)]


def test_many_callers_of_a_real_index_each_get_what_they_would_alone(runner: asyncio.Runner) -> None:
    fake = FakeSet(tap_info(Granularity.WINDOW))
    rng = np.random.default_rng(4)
    fake.commit([rng.standard_normal((rng.integers(1, 4), DIM)).astype(np.float32) for _ in range(500)])
    live = LiveIndex(definition(granularity=Granularity.WINDOW), fake, 1)
    fake.follow(live.apply)
    live.install(build(fake, effort=16), fake.keys()[1])
    keys = fake.keys()[1]
    queries = [_any(rng, keys) for _ in range(60)]

    async def act() -> list[SearchHits]:
        desk, gated = SearchExecutor(2, lambda: False), Gated(live)
        tasks = [asyncio.create_task(desk.search(gated, one)) for one in queries]
        await asyncio.sleep(0)  # each task runs up to its wait: all are in line before the first is searched
        gated.gate.set()
        found = await asyncio.gather(*tasks)
        await desk.close()
        whose = {row.tobytes(): i for i, one in enumerate(queries) for row in one.vectors}
        assert any(len({whose[row.tobytes()] for row in rows}) > 1 for rows in gated.vectors), "nobody shared a search"
        return list(found)

    for one, hits in zip(queries, runner.run(act()), strict=True):
        alone = live.search(one)
        for name in ("counts", "keys", "rows"):
            assert getattr(hits, name).tolist() == getattr(alone, name).tolist()
        np.testing.assert_allclose(hits.scores, alone.scores, atol=1e-6)


def _any(rng: np.random.Generator, keys: Array) -> SearchQuery:
    n = int(rng.choice([1, 1, 1, 3, 200]))
    groups = np.arange(n) // int(rng.choice([1, 2]))
    without = rng.choice(keys, int(groups[-1]) + 1) if rng.random() < 0.5 else None
    return query(rng.standard_normal((n, DIM)).astype(np.float32), groups=groups, without=without, k=5)


@pytest.mark.parametrize("busy", [False, True])
def test_while_an_encoder_computes_one_search_runs_at_a_time(runner: asyncio.Runner, busy: bool) -> None:
    async def act() -> None:
        bench = Bench(runner, workers=2)
        bench.busy = busy
        first = await bench.blocked()
        [second] = await bench.waiting(numbered(1, k=7))
        beside = await asyncio.to_thread(bench.held.entered.acquire, timeout=0.3)
        bench.held.gate.set()
        await asyncio.gather(first, second)
        await bench.desk.close()
        assert beside is not busy
        assert bench.held.threads[0] == (1 if busy else 8)

    runner.run(act())


def test_without_a_thread_a_search_is_told_so_and_the_next_one_is_answered(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def through() -> SearchHits:
        desk = SearchExecutor(1, lambda: False, 1)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(RuntimeError, match="new thread"):
                await desk.search(Held(), numbered(1))
        try:
            return await asyncio.wait_for(desk.search(Held(), numbered(2)), 60)
        finally:
            await desk.close()

    assert runner.run(through()).keys.tolist() == [2]
