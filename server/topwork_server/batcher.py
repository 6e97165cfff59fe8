"""Prepared samples -> batches -> results. One thread a session; no delay timer: whoever waits when the session is free rides.

A ticket is one caller's samples. Failure travels on the ticket that carries the results, so that no caller waits for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from topwork_server.encoder import Encoder, batch_key
from topwork_server.errors import DeadlinePassed, TooLarge, TopworkError, Unavailable
from topwork_server.sessions.session import Runs
from topwork_server.taprows import rows_of
from topwork_server.types import Array, Numerics, Priority, Sample, Tap
from topwork_server.waiting import Line, Waiting

log = logging.getLogger(__name__)

#: The share of a batch that may be padding.
PADDING = 0.15
#: A GPU wants batches so many times larger than those that encoders name, which are best on a CPU.
GPU_BATCH = 8
#: Seconds between tries to reopen a session that cannot be opened.
REOPEN = (0.0, 0.2, 1.0, 5.0)

UNSETTLED = Unavailable("not settled yet")

#: One sample's rows (n, dim) for each tap of its ticket.
Rows = tuple[Array, ...]


@dataclass(frozen=True)
class Lane:
    """One device's way of computing the graph, and how near it is to the reference. `open` gives one session, or one a GPU; it
    is called when the lane is first used, and again after a session died."""

    numerics: Numerics
    open: Callable[[], Sequence[Runs]]


class Ticket:
    """One caller's samples and, in the end, a result for each: rows, or the error that this sample met.

    Made on the caller's event loop; settled by the worker's thread; `done` wakes the caller once, when all are settled.
    """

    def __init__(self, samples: Sequence[Sample], taps: Sequence[Tap], deadline: float | None) -> None:
        self.samples, self.taps, self.deadline = samples, tuple(taps), deadline
        self.results: list[Rows | TopworkError] = [UNSETTLED] * len(samples)
        self.queued = self.computed = 0.0
        self.cancelled = False
        self._remaining = len(samples)
        self._made = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        if not samples:
            self.done.set_result(None)

    def cancel(self) -> None:
        """The caller left: samples that still wait never reach the session."""
        self.cancelled = True

    def settle(self, index: int, result: Rows | TopworkError) -> None:
        self.results[index] = result
        self._remaining -= 1
        if not self._remaining:
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed: nobody is there to be told
                self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def boarded(self, now: float) -> None:
        self.queued = max(self.queued, now - self._made)

    @property
    def left(self) -> bool:
        """Nobody waits for this any more."""
        return self.cancelled or (self.deadline is not None and time.monotonic() >= self.deadline)


@dataclass(frozen=True, slots=True)
class Rider:
    ticket: Ticket
    index: int

    @property
    def sample(self) -> Sample:
        return self.ticket.samples[self.index]

    def settle(self, result: Rows | TopworkError) -> None:
        self.ticket.settle(self.index, result)


def _has_left(waiting: Waiting) -> bool:
    return bool(waiting.rider.ticket.left)


def _owned(rows: Array) -> Array:
    """A view would keep the whole batch's output alive for as long as one caller keeps a row."""
    return rows if rows.base is None else rows.copy()


class Batcher:
    """Owns one session and the one thread that runs it.

    `counters`: samples, batches, expired, cancelled, memory_splits, restarts. `serving` is False while a session that died is
    being reopened; `on_health` is told of each change, from the worker's thread.
    """

    def __init__(self, encoder: Encoder, lanes: Sequence[Lane], on_health: Callable[[bool], None] = lambda serving: None) -> None:
        self.lanes = tuple(lanes)
        self._encoder, self._on_health = encoder, on_health
        self._session = self._open()
        self._line = Line(encoder.budget * (1 if self._session.provider == "cpu" else GPU_BATCH), PADDING)
        self._wake = threading.Condition()
        self._closed = False
        self._aboard: list[Rider] = []
        self.serving = True
        self.counters: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._live, name=f"session {encoder.spec.name}", daemon=True)
        self._thread.start()

    def _open(self) -> Runs:
        return self.lanes[0].open()[0]

    @property
    def session(self) -> Runs:
        return self._session

    @property
    def busy(self) -> bool:
        """Whether a batch is being computed now."""
        return bool(self._aboard)

    def submit(
        self,
        samples: Sequence[Sample],
        taps: Sequence[Tap],
        deadline: float | None = None,
        *,
        lane: int = 0,
        flow: Hashable = None,
        priority: Priority = Priority.NORMAL,
    ) -> Ticket:
        """Join the line. Unavailable while the worker is being restarted. `deadline` is in time.monotonic(). Flows share the
        session in turns."""
        ticket = Ticket(samples, taps, deadline)
        encoder = self._encoder
        waiting = [Waiting(encoder.cost(s), batch_key(encoder, s), Rider(ticket, i)) for i, s in enumerate(samples)]
        with self._wake:
            if self._closed or not self.serving:
                raise self._unavailable()
            for one in waiting:
                self._line.push(one)
            self._wake.notify()
        return ticket

    def close(self) -> None:
        """End the thread after the batch that it is at; whoever still waits is told."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        self._fail([waiting.rider for waiting in self._line.drain()], self._unavailable())

    def _live(self) -> None:
        """The worker's life: work, die, be restarted."""
        while not self._closed:
            try:
                while batch := self._next():
                    self._aboard = batch
                    self._run(batch)
                    self._aboard = []
            except BaseException as error:
                log.exception("the worker of %s died", self._encoder.spec.name)
                self._restart(error)

    def _next(self) -> list[Rider]:
        """The next batch as soon as there is one; nobody when the batcher is closed."""
        with self._wake:
            while not self._closed:
                taken = self._line.take(_has_left)
                for waiting in taken.dropped:
                    self._drop(waiting.rider)
                if taken.batch:
                    return [waiting.rider for waiting in taken.batch]
                self._wake.wait()
        return []

    def _drop(self, rider: Rider) -> None:
        self.counters["cancelled" if rider.ticket.cancelled else "expired"] += 1
        rider.settle(DeadlinePassed("the deadline passed while the item was queued", remedy="allow more time, or send less"))

    def _run(self, batch: list[Rider]) -> None:
        """A batch that does not fit in memory is halved until it does, or until one sample is left to blame."""
        try:
            self._compute(batch)
        except MemoryError:
            if len(batch) == 1:
                remedy = "send a smaller item, or serve on a device with more memory"
                self._fail(batch, TooLarge("the item does not fit in the device's memory", remedy=remedy))
                return
            self.counters["memory_splits"] += 1
            self._run(batch[: len(batch) // 2])
            self._run(batch[len(batch) // 2 :])
        except TopworkError as error:
            self._fail(batch, error)

    def _compute(self, batch: list[Rider]) -> None:
        started = time.monotonic()
        for rider in batch:
            rider.ticket.boarded(started)
        names = list({tap.name: None for rider in batch for tap in rider.ticket.taps})
        feeds = self._encoder.collate([rider.sample for rider in batch])
        outputs = dict(zip(names, self._session.run(names, feeds), strict=True))
        seconds = time.monotonic() - started
        self.counters.update(batches=1, samples=len(batch))
        for ticket in {rider.ticket for rider in batch}:
            ticket.computed += seconds
        for i, rider in enumerate(batch):
            rider.settle(tuple(_owned(rows_of(tap, outputs[tap.name][i], rider.sample)) for tap in rider.ticket.taps))

    def _restart(self, error: BaseException) -> None:
        self._set_serving(False)
        aboard, self._aboard = self._aboard, []
        self._fail([r for r in aboard if r.ticket.results[r.index] is UNSETTLED], self._unavailable(error))
        for attempt in itertools.count():
            with self._wake:
                if self._wake.wait_for(lambda: self._closed, timeout=REOPEN[min(attempt, len(REOPEN) - 1)]):
                    return
            try:
                self._session = self._open()
            except Exception:
                log.exception("the session of %s cannot be reopened yet", self._encoder.spec.name)
                with self._wake:
                    waiting = self._line.drain()
                self._fail([one.rider for one in waiting], self._unavailable(error))
            else:
                break
        self.counters["restarts"] += 1
        self._set_serving(True)

    def _set_serving(self, serving: bool) -> None:
        with self._wake:
            self.serving = serving
        self._on_health(serving)

    def _unavailable(self, error: BaseException | None = None) -> Unavailable:
        why = f": {type(error).__name__}: {error}" if error else ""
        return Unavailable(f"the worker of {self._encoder.spec.name} is being restarted{why}", remedy="try again in a second")

    @staticmethod
    def _fail(riders: Sequence[Rider], error: TopworkError) -> None:
        for rider in riders:
            rider.settle(error)
