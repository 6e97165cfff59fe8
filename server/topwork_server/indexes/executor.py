"""Where searches run: a few threads of lower priority. Who waits rides in the next search; long ones are cut into slices.

No timers: as soon as a thread is free it takes whoever waited longest, and of the same kind as many as make a slice.
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
from collections.abc import Callable

from topwork_server.containment import contained
from topwork_server.errors import DeadlineExceeded, Overloaded, TopworkError, Unavailable
from topwork_server.indexes import prepared_query
from topwork_server.indexes.index_types import SearchHits, SearchQuery
from topwork_server.indexes.search_requests import FIRST, SearchRequest, SliceSearcher, joined, split
from topwork_server.runtime import blas_threads

log = logging.getLogger(__name__)

#: Vectors that ride together; callers and vectors that may wait.
TOGETHER = 256
MOST_CALLERS, MOST_VECTORS = 4096, 131_072
#: How much nicer than the server its searches are. The workers of OpenMP inherit it.
NICER = 10

Outcome = SearchHits | BaseException


class SearchExecutor:
    """`threads` are the cores that searches may use, all together; while `busy()` (an encoder computes), it is one.

    `counters`: searches (calls of Live.search), callers, left.
    """

    def __init__(self, threads: int, busy: Callable[[], bool], workers: int = 0) -> None:
        self._threads, self._busy = threads, busy
        self._wanted = workers or max(2, min(threads // 4, 8))
        self._wake = threading.Condition()
        self._line: deque[SearchRequest] = deque()
        self._waiting = self._running = self._long = 0
        self._workers: list[threading.Thread] = []
        self._closed = False
        self.counters: Counter[str] = Counter()

    @property
    def idle(self) -> bool:
        """Whether no search runs or waits, and no encoder computes."""
        return not self._line and not self._running and not self._busy()

    async def search(self, live: SliceSearcher, query: SearchQuery) -> SearchHits:
        """As Live.search. Overloaded where too many wait; Unavailable when the server is going."""
        prepared_query.check_size(prepared_query.count(query), query.k)
        ticket = SearchRequest(live, query)
        self._enter(ticket)
        try:
            return await ticket.future
        finally:
            if ticket.future.cancelled():
                self._leave(ticket)

    async def close(self) -> None:
        """Ends the threads after the slices that they are at; who waits is told."""
        with self._wake:
            self._closed = True
            rest = list(self._line)
            self._line.clear()
            self._wake.notify_all()
        _settle([(ticket, Unavailable("the server is going", remedy="try again in a moment")) for ticket in rest])
        await asyncio.gather(*(asyncio.to_thread(worker.join) for worker in self._workers))

    def _enter(self, ticket: SearchRequest) -> None:
        with self._wake:
            if self._closed:
                raise Unavailable("the server is going", remedy="try again in a moment")
            full = len(self._line) >= MOST_CALLERS or self._waiting + ticket.vectors > MOST_VECTORS
            if full and self._line:
                raise Overloaded(f"{len(self._line)} searches wait", remedy="come back later, or send fewer at once")
            if len(self._workers) < self._wanted:
                self._hire()
            self.counters["callers"] += 1
            self._append(ticket)
            self._wake.notify()

    def _append(self, ticket: SearchRequest) -> None:
        self._line.append(ticket)
        self._waiting += ticket.vectors

    def _remove(self, ticket: SearchRequest) -> None:
        self._line.remove(ticket)
        self._waiting -= ticket.vectors

    def _leave(self, ticket: SearchRequest) -> None:
        ticket.gone = True
        with self._wake:
            self.counters["left"] += 1
            with contextlib.suppress(ValueError):  # its search is running: it ends at the next check
                self._remove(ticket)

    def _hire(self) -> None:
        """One more worker. RuntimeError where no thread can be had, and none is there."""
        blas_threads.set_threads(1)
        worker = threading.Thread(target=self._work, name=f"search {len(self._workers)}", daemon=True)
        try:
            worker.start()
        except RuntimeError:
            if not self._workers:
                raise
        else:
            self._workers.append(worker)

    def _work(self) -> None:
        _be_nice()
        while turn := self._next():
            try:
                outcomes = self._serve(turn)
            except BaseException as error:
                log.exception("a search failed")
                outcomes = [(ticket, contained(error)) for ticket in turn]
            self._finish(turn, outcomes)

    def _next(self) -> list[SearchRequest]:
        """Whose turn it is: one, or several of a kind. Empty when the desk is closed."""
        with self._wake:
            while not self._closed:
                first = self._first()
                if first is not None:
                    turn = self._riders(first)
                    for ticket in turn:
                        self._remove(ticket)
                    self._running += 1
                    self._long += first.long
                    return turn
                self._wake.wait()
        return []

    def _first(self) -> SearchRequest | None:
        """Long searches leave one thread to the short ones, and an encoder that computes leaves one to all of them."""
        if self._running and self._busy():
            return None
        return next((t for t in self._line if not t.long or self._long < self._wanted - 1), None)

    def _riders(self, first: SearchRequest) -> list[SearchRequest]:
        turn, vectors = [first], first.vectors
        if vectors > FIRST:
            return turn
        for other in self._line:
            if other is not first and other.kind == first.kind and vectors + other.vectors <= TOGETHER:
                turn.append(other)
                vectors += other.vectors
        return turn

    def _serve(self, turn: list[SearchRequest]) -> list[tuple[SearchRequest, Outcome]]:
        """Those that are answered. Where several fail together each is tried alone, so that only the guilty one fails."""
        try:
            return self._search(turn)
        except TopworkError as error:
            if len(turn) == 1:
                return [(turn[0], turn[0].blamed(error))]
        return [outcome for ticket in turn for outcome in self._serve([ticket])]

    def _search(self, turn: list[SearchRequest]) -> list[tuple[SearchRequest, Outcome]]:
        def check() -> None:
            if self._closed or all(ticket.gone for ticket in turn):
                raise DeadlineExceeded("nobody waits for this search any more")

        parts = [ticket.next() for ticket in turn]
        query = joined(parts)
        check()
        began = time.perf_counter()
        self.counters["searches"] += 1
        hits = turn[0].live.search(query, self._cores(len(turn)), check)
        seconds = time.perf_counter() - began
        answered: list[tuple[SearchRequest, Outcome]] = []
        for ticket, own in zip(turn, split(hits, [prepared_query.count(part) for part in parts]), strict=True):
            if ticket.take(own, seconds, len(query.vectors)):
                answered.append((ticket, ticket.answer()))
        return answered

    def _cores(self, callers: int) -> int:
        """Of several callers the event loop is busy: it keeps a core, since threads of OpenMP wait for the slowest among them."""
        free = self._threads - (callers > 1)
        return 1 if self._busy() else max(1, free // max(1, self._running))

    def _finish(self, turn: list[SearchRequest], outcomes: list[tuple[SearchRequest, Outcome]]) -> None:
        done = {id(ticket) for ticket, _ in outcomes}
        rest = [ticket for ticket in turn if id(ticket) not in done and not ticket.gone]
        with self._wake:
            self._running -= 1
            self._long -= turn[0].long
            if not self._closed:
                for ticket in rest:
                    self._append(ticket)
                rest = []
            if self._line:
                self._wake.notify_all()
        _settle([*outcomes, *((ticket, Unavailable("the server is going")) for ticket in rest)])


def _settle(outcomes: list[tuple[SearchRequest, Outcome]]) -> None:
    """Tell the callers, all of one event loop at once."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[SearchRequest, Outcome]]] = defaultdict(list)
    for ticket, outcome in outcomes:
        loops[ticket.loop].append((ticket, outcome))
    for loop, its in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
            loop.call_soon_threadsafe(_tell, its)


def _tell(outcomes: list[tuple[SearchRequest, Outcome]]) -> None:
    for ticket, outcome in outcomes:
        if ticket.future.done():
            continue
        if isinstance(outcome, BaseException):
            ticket.future.set_exception(outcome)
        else:
            ticket.future.set_result(outcome)


def _be_nice() -> None:
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        me = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, me, os.getpriority(os.PRIO_PROCESS, me) + NICER)
