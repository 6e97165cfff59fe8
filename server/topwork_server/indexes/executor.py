"""Runs searches in a few threads of lower priority. Waiting requests share the next search; long ones are cut into slices.

No timers: as soon as a thread is free it takes the request that waited longest, and others of its kind up to a slice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from topwork_server.blocking_calls import Check
from topwork_server.errors import DeadlineExceeded, Overloaded, TopworkError, Unavailable
from topwork_server.indexes.index_types import SearchHits, SearchQuery
from topwork_server.indexes.prepared_query import check_hit_count, count_queries
from topwork_server.plugin_crashes import contained
from topwork_server.process_resources import limit_blas

log = logging.getLogger(__name__)

#: Vectors of a slice: the first of a caller, the fewest and the most.
FIRST, FEWEST, MOST = 64, 32, 1024
#: What a slice should take, in seconds, and how much larger than the one before it may be.
AIM, GROWTH = 0.035, 4
#: Vectors that are searched together; callers and vectors that may wait.
BATCH_VECTORS = 256
MAX_REQUESTS, MAX_QUEUED_VECTORS = 4096, 131_072
#: How much nicer than the server its searches are. The workers of OpenMP inherit it.
NICENESS = 10

Outcome = SearchHits | BaseException


class SliceSearcher(Protocol):
    """The part of `LiveIndex` that the executor uses."""

    def search(self, query: SearchQuery, threads: int = ..., check: Check = ...) -> SearchHits: ...

    def scans_every_row(self, query: SearchQuery) -> bool: ...


class SearchRequest:
    """The search of one caller, made on its event loop. `cancelled`: the caller has left."""

    def __init__(self, live: SliceSearcher, query: SearchQuery) -> None:
        self.live, self.query = live, query
        self.queries = count_queries(query)
        self.long = live.scans_every_row(query)
        self.cancelled = False
        self.batch_key = _kind(live, query)
        self.vectors = len(query.vectors)
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[SearchHits] = self.loop.create_future()
        self._size, self._done = MOST if self.long else FIRST, 0
        self._parts: list[SearchHits] = []

    def next_slice(self) -> SearchQuery:
        """Return the queries of the next slice: as many as have about so many vectors as a slice should, at least one."""
        groups = self.query.groups
        if not self._done and self.vectors <= self._size:
            return self.query
        start = int(np.searchsorted(groups, self._done))
        end = self.queries if start + self._size >= len(groups) else max(int(groups[start + self._size]), int(groups[start]) + 1)
        stop = int(np.searchsorted(groups, end))
        without = None if self.query.without is None else self.query.without[self._done : end]
        return replace(
            self.query, vectors=self.query.vectors[start:stop], groups=groups[start:stop] - self._done, without=without
        )

    def add_hits(self, hits: SearchHits, seconds: float, vectors: int) -> bool:
        """Add a slice's hits; tell whether they were the last."""
        self._parts.append(hits)
        self._done += len(hits.counts)
        if not self.long:
            wanted = int(vectors * AIM / max(seconds, 1e-6))
            self._size = max(FEWEST, min(wanted, GROWTH * self._size, MOST))
        return self._done >= self.queries

    def result(self) -> SearchHits:
        """Join the hits of all slices; their version is that of the oldest."""
        parts = self._parts
        if len(parts) == 1:
            return parts[0]
        columns = {name: np.concatenate([getattr(p, name) for p in parts]) for name in ("counts", "keys", "rows", "scores")}
        return SearchHits(**columns, version=min(part.version for part in parts), how=parts[0].how, compared=parts[0].compared)

    def relocate_error(self, error: BaseException) -> BaseException:
        """Return the error with the query's place in the whole request."""
        if isinstance(error, TopworkError) and error.item is not None and self._done:
            return error.at(error.item + self._done)
        return error


def _kind(live: SliceSearcher, query: SearchQuery) -> Hashable:
    """Return a key that is equal for requests that can be one search."""
    within = None if query.within is None else float(query.within)
    return id(live), query.k, within, id(query.allowed), query.every_row, query.exact, query.effort


def join_queries(queries: Sequence[SearchQuery]) -> SearchQuery:
    """Join queries of one kind into one, in their order."""
    if len(queries) == 1:
        return queries[0]
    counts = [count_queries(query) for query in queries]
    offsets = np.cumsum(counts) - counts
    groups = np.concatenate([query.groups + offset for query, offset in zip(queries, offsets, strict=True)])
    without = None
    if any(query.without is not None for query in queries):
        own = [np.full(n, -1, np.int64) if q.without is None else q.without for q, n in zip(queries, counts, strict=True)]
        without = np.concatenate(own)
    return replace(queries[0], vectors=np.concatenate([query.vectors for query in queries]), groups=groups, without=without)


def split_hits(hits: SearchHits, counts: Sequence[int]) -> list[SearchHits]:
    """Split hits into those of each caller, which had so many queries."""
    if len(counts) == 1:
        return [hits]
    before = [0, *np.cumsum(hits.counts).tolist()]
    parts, start = [], 0
    for end in np.cumsum(counts).tolist():
        rows = slice(before[start], before[end])
        own = hits.counts[start:end]
        parts.append(SearchHits(own, hits.keys[rows], hits.rows[rows], hits.scores[rows], hits.version, hits.how, hits.compared))
        start = end
    return parts


class SearchExecutor:
    """The threads that search. They may use `threads` cores together; one while `busy()` (an encoder computes).

    `counters`: searches (calls of LiveIndex.search), callers, left.
    """

    def __init__(self, threads: int, busy: Callable[[], bool], workers: int = 0) -> None:
        self._threads, self._busy = threads, busy
        self._max_workers = workers or max(2, min(threads // 4, 8))
        self._wake = threading.Condition()
        self._queue: deque[SearchRequest] = deque()
        self._queued_vectors = self._running = self._long = 0
        self._workers: list[threading.Thread] = []
        self._closed = False
        self.counters: Counter[str] = Counter()

    @property
    def idle(self) -> bool:
        """True where no search runs or waits, and no encoder computes."""
        return not self._queue and not self._running and not self._busy()

    async def search(self, live: SliceSearcher, query: SearchQuery) -> SearchHits:
        """Search as LiveIndex.search does. Overloaded where too many wait; Unavailable when the server is stopping."""
        check_hit_count(count_queries(query), query.k)
        request = SearchRequest(live, query)
        self._enqueue(request)
        try:
            return await request.future
        finally:
            if request.future.cancelled():
                self._cancel(request)

    async def close(self) -> None:
        """End the threads after the slices that they are at; waiting callers get Unavailable."""
        with self._wake:
            self._closed = True
            rest = list(self._queue)
            self._queue.clear()
            self._wake.notify_all()
        _resolve([(request, Unavailable("the server is going", remedy="try again in a moment")) for request in rest])
        await asyncio.gather(*(asyncio.to_thread(worker.join) for worker in self._workers))

    def _enqueue(self, request: SearchRequest) -> None:
        with self._wake:
            if self._closed:
                raise Unavailable("the server is going", remedy="try again in a moment")
            full = len(self._queue) >= MAX_REQUESTS or self._queued_vectors + request.vectors > MAX_QUEUED_VECTORS
            if full and self._queue:
                raise Overloaded(f"{len(self._queue)} searches wait", remedy="come back later, or send fewer at once")
            if len(self._workers) < self._max_workers:
                self._start_worker()
            self.counters["callers"] += 1
            self._append(request)
            self._wake.notify()

    def _append(self, request: SearchRequest) -> None:
        self._queue.append(request)
        self._queued_vectors += request.vectors

    def _remove(self, request: SearchRequest) -> None:
        self._queue.remove(request)
        self._queued_vectors -= request.vectors

    def _cancel(self, request: SearchRequest) -> None:
        request.cancelled = True
        with self._wake:
            self.counters["left"] += 1
            with contextlib.suppress(ValueError):  # its search is running: it ends at the next check
                self._remove(request)

    def _start_worker(self) -> None:
        """Start one more worker. RuntimeError where no thread can be had, and none is there."""
        worker = threading.Thread(target=self._worker_loop, name=f"search {len(self._workers)}", daemon=True)
        try:
            worker.start()
        except RuntimeError:
            if not self._workers:
                raise
        else:
            self._workers.append(worker)

    def _worker_loop(self) -> None:
        _lower_priority()
        limit_blas(1)  # 6 ms: here rather than on the event loop, which starts the workers
        while batch := self._next_batch():
            try:
                outcomes = self._run_batch(batch)
            except BaseException as error:
                log.exception("a search failed")
                outcomes = [(request, contained(error)) for request in batch]
            self._finish(batch, outcomes)

    def _next_batch(self) -> list[SearchRequest]:
        """Take the next batch: one request, or several of a kind. Empty when the executor is closed."""
        with self._wake:
            while not self._closed:
                first = self._next_request()
                if first is not None:
                    batch = self._batch_with(first)
                    for request in batch:
                        self._remove(request)
                    self._running += 1
                    self._long += first.long
                    return batch
                self._wake.wait()
        return []

    def _next_request(self) -> SearchRequest | None:
        """Choose the next request. Long searches leave one thread to the short ones; an encoder that computes leaves one to
        all."""
        if self._running and self._busy():
            return None
        return next((t for t in self._queue if not t.long or self._long < self._max_workers - 1), None)

    def _batch_with(self, first: SearchRequest) -> list[SearchRequest]:
        batch, vectors = [first], first.vectors
        if vectors > FIRST:
            return batch
        for other in self._queue:
            if other is not first and other.batch_key == first.batch_key and vectors + other.vectors <= BATCH_VECTORS:
                batch.append(other)
                vectors += other.vectors
        return batch

    def _run_batch(self, batch: list[SearchRequest]) -> list[tuple[SearchRequest, Outcome]]:
        """Run a batch and return the answered requests. Where several fail together each is tried alone, so that only the bad
        one fails."""
        try:
            return self._search_slices(batch)
        except TopworkError as error:
            if len(batch) == 1:
                return [(batch[0], batch[0].relocate_error(error))]
        return [outcome for request in batch for outcome in self._run_batch([request])]

    def _search_slices(self, batch: list[SearchRequest]) -> list[tuple[SearchRequest, Outcome]]:
        def check() -> None:
            if self._closed or all(request.cancelled for request in batch):
                raise DeadlineExceeded("every caller of this search has left")

        parts = [request.next_slice() for request in batch]
        query = join_queries(parts)
        check()
        began = time.perf_counter()
        self.counters["searches"] += 1
        hits = batch[0].live.search(query, self._thread_count(len(batch)), check)
        seconds = time.perf_counter() - began
        answered: list[tuple[SearchRequest, Outcome]] = []
        for request, own in zip(batch, split_hits(hits, [count_queries(part) for part in parts]), strict=True):
            if request.add_hits(own, seconds, len(query.vectors)):
                answered.append((request, request.result()))
        return answered

    def _thread_count(self, callers: int) -> int:
        """Return the threads of a search. With several callers the event loop keeps a core, since threads of OpenMP wait for
        the slowest among them."""
        free = self._threads - (callers > 1)
        return 1 if self._busy() else max(1, free // max(1, self._running))

    def _finish(self, batch: list[SearchRequest], outcomes: list[tuple[SearchRequest, Outcome]]) -> None:
        done = {id(request) for request, _ in outcomes}
        rest = [request for request in batch if id(request) not in done and not request.cancelled]
        with self._wake:
            self._running -= 1
            self._long -= batch[0].long
            if not self._closed:
                for request in rest:
                    self._append(request)
                rest = []
            if self._queue:
                self._wake.notify_all()
        _resolve([*outcomes, *((request, Unavailable("the server is going")) for request in rest)])


def _resolve(outcomes: list[tuple[SearchRequest, Outcome]]) -> None:
    """Tell the callers, all of one event loop at once."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[SearchRequest, Outcome]]] = defaultdict(list)
    for request, outcome in outcomes:
        loops[request.loop].append((request, outcome))
    for loop, its in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its callers are gone
            loop.call_soon_threadsafe(_set_results, its)


def _set_results(outcomes: list[tuple[SearchRequest, Outcome]]) -> None:
    for request, outcome in outcomes:
        if request.future.done():
            continue
        if isinstance(outcome, BaseException):
            request.future.set_exception(outcome)
        else:
            request.future.set_result(outcome)


def _lower_priority() -> None:
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        me = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, me, os.getpriority(os.PRIO_PROCESS, me) + NICENESS)
