"""Prepared samples -> batches -> results. No delay timer: whoever waits when a session is free rides.

Workers are threads, as many as the sessions of the first lane take at once: one on a CPU, which computes with all its cores for
one batch; more on a GPU, where collating and copies hide behind computing; so many for each of several GPUs. All take from one
line.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from topwork_server.containment import contained
from topwork_server.errors import DeadlineExceeded, PluginFault, TooLarge, TopworkError, Unavailable
from topwork_server.features import rows_of
from topwork_server.inference.batch_requests import BatchRequest, RequestSample, Rows, wake
from topwork_server.inference.client_queues import QueuedSample
from topwork_server.inference.deadline_queue import DeadlineQueue
from topwork_server.inference.request_deadlines import TimedRequest
from topwork_server.inference.scheduler import FairBatchScheduler
from topwork_server.inference.session_pool import Backend, SessionPool
from topwork_server.plugin_api.encoder import Encoder, batch_key
from topwork_server.plugin_api.result_checks import check_cost
from topwork_server.runtime.providers import GPUS
from topwork_server.types import Array, Priority, Sample, Tap

__all__ = ["Backend", "BatchRequest", "Batcher", "Rows"]

log = logging.getLogger(__name__)

#: A GPU wants batches so many times larger than those that encoders name, which are best on a CPU.
GPU_BATCH = 8
#: Seconds between tries to reopen a session that cannot be opened.
REOPEN = (0.0, 0.2, 1.0, 5.0)


class _Failed(Exception):
    """An encoder's own code raised `error`; whoever rode along is not to blame."""

    def __init__(self, error: TopworkError) -> None:
        self.error = error


class Batcher:
    """Owns the sessions of one encoder and the threads that run them.

    `counters`: samples, batches, expired, cancelled, refused, memory_splits, restarts. `serving` is False while a session that
    died is being reopened; `on_health` is told of each change, from a worker's thread.
    """

    def __init__(
        self, encoder: Encoder, lanes: Sequence[Backend], on_health: Callable[[bool], None] = lambda serving: None
    ) -> None:
        self.lanes = tuple(lanes)
        self._encoder, self._on_health = encoder, on_health
        self._sessions = SessionPool(self.lanes)
        budgets = [encoder.budget * (GPU_BATCH if lane.numerics.provider in GPUS else 1) for lane in lanes]
        self._line = FairBatchScheduler(budgets)
        self._due = DeadlineQueue(self._line, budgets)
        self._wake = threading.Condition()  # guards the line, the tickets' counts and what follows
        self._closed = False
        self._aboard: dict[int, list[RequestSample]] = {}
        self.serving = True
        self.counters: Counter[str] = Counter()
        name = f"session {encoder.spec.name}"
        self._threads = [
            threading.Thread(target=self._live, args=(worker,), name=name, daemon=True)
            for worker in range(self._sessions.workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def lanes_open(self) -> int:
        return self._sessions.open_count

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
        request: TimedRequest | None = None,
        items: int = 0,
    ) -> BatchRequest:
        """Join the line. Unavailable while a session is being reopened. `deadline` is in time.monotonic(). Flows take turns.

        With a `request`, of which these are the samples of so many more `items`: Overloaded where it cannot be done by its
        deadline. `end` it in the end."""
        ticket, encoder = BatchRequest(samples, taps, deadline, request), self._encoder
        ticket.on_cancel = self._leave
        group = [(lane, batch_key(encoder, s)) for s in samples]
        timed = request is not None
        ticket.riders = [
            RequestSample(check_cost(encoder, encoder.cost(s)), group[i], ticket, i, timed=timed) for i, s in enumerate(samples)
        ]
        with self._wake:
            if self._closed or not self.serving:
                raise self._unavailable()
            if request is not None:
                self._give_up(self._due.join(request, ticket, items, lane, flow, priority, ticket.made))
            self._line.push(ticket.riders, flow, priority)
            self._wake.notify()
        return ticket

    def end(self, request: TimedRequest) -> None:
        """Nothing of the request will come any more."""
        with self._wake:
            self._due.forget(request, time.monotonic())

    def count_expired(self, items: int) -> None:
        """Count items whose deadline passed before they were samples."""
        with self._wake:
            self.counters["expired"] += items

    def close(self) -> None:
        """End the threads after the batches that they are at; whoever still waits is told."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()
        self._fail(self._drained(), self._unavailable())
        self._sessions.close()

    def _live(self, worker: int) -> None:
        """A worker's life: work, and where a session dies, see that it is opened anew."""
        while self._work(worker):
            pass

    def _work(self, worker: int) -> bool:
        """One batch, of which nothing is kept while the next is waited for; False when the batcher is closed."""
        batch = self._next(worker)
        try:
            if batch:
                self._run(worker, batch)
        except BaseException as error:
            log.exception("the session of %s died", self._encoder.spec.name)
            self._die(worker, batch, error)
        return bool(batch)

    def _next(self, worker: int) -> list[RequestSample]:
        """The next batch as soon as there is one; nobody when the batcher is closed."""
        with self._wake:
            self._land(worker)
            while not self._closed:
                if self.serving and (batch := self._take()):
                    self._aboard[worker] = batch
                    if len(self._line):
                        self._wake.notify()
                    return batch
                self._wake.wait()
        return []

    def _land(self, worker: int) -> None:
        self._aboard.pop(worker, None)
        if not self.serving:
            self._wake.notify_all()  # who reopens a session waits until nobody runs

    def _take(self) -> list[RequestSample]:
        now = time.monotonic()
        self._give_up(self._due.late(now))
        taken = self._line.take(lambda waiting: _rider(waiting).ticket.expires <= now, self._due.first(now))
        self._due.began(taken.batch)
        if taken.dropped:
            self._drop([_rider(waiting) for waiting in taken.dropped], "expired")
        return [_rider(waiting) for waiting in taken.batch]

    def _give_up(self, requests: Sequence[TimedRequest]) -> None:
        """Those that cannot be done in time, or give way: their samples leave the line."""
        for request in requests:
            waiting = self._due.waiting(request)
            self._due.forget(request, time.monotonic())
            self._line.remove(waiting)
            self.counters["refused"] += len(waiting)
            assert request.error is not None
            self._fail([_rider(one) for one in waiting], request.error)

    def _leave(self, ticket: BatchRequest) -> None:
        """A caller left: who of his is still in line goes at once, with what it holds in memory."""
        with self._wake:
            gone = [rider for rider in ticket.riders if not rider.gone]
            self._line.remove(gone)
            self._drop(gone, "cancelled")

    def _drop(self, riders: Sequence[RequestSample], why: str) -> None:
        self.counters[why] += len(riders)
        self._fail(
            riders, DeadlineExceeded("the deadline passed while the item was queued", remedy="allow more time, or send less")
        )

    def _run(self, worker: int, batch: list[RequestSample]) -> None:
        """A batch that does not fit in memory, or that the encoder fails on, is halved until it does not, or until one sample is
        left to blame."""
        try:
            self._compute(worker, batch)
        except (MemoryError, PluginFault, _Failed) as error:
            if len(batch) == 1:
                self._fail(batch, error.error if isinstance(error, _Failed) else _one_of(error))
                return
            with self._wake:
                self.counters["memory_splits"] += isinstance(error, MemoryError)
            self._run(worker, batch[: len(batch) // 2])
            self._run(worker, batch[len(batch) // 2 :])
        except TopworkError as error:
            self._fail(batch, error)

    def _compute(self, worker: int, batch: list[RequestSample]) -> None:
        started = time.monotonic()
        names = list({tap.name: None for rider in batch for tap in rider.ticket.taps})
        feeds = self._collated(batch)
        outputs = dict(zip(names, self._sessions.seat(batch[0].group[0], worker).run(names, feeds), strict=True))
        results = [self._rows(rider, outputs, i) for i, rider in enumerate(batch)]
        seconds = time.monotonic() - started
        with self._wake:
            self.counters["batches"] += 1
            self.counters["samples"] += len(batch)
            self._due.measure(batch, started, time.monotonic())
            for ticket in {rider.ticket for rider in batch}:
                ticket.queued = max(ticket.queued, started - ticket.made)
                ticket.computed += seconds
        self._settle(batch, results)

    def _collated(self, batch: Sequence[RequestSample]) -> dict[str, Array]:
        try:
            return self._encoder.collate([rider.sample for rider in batch])
        except (TopworkError, MemoryError):
            raise
        except BaseException as error:
            raise _Failed(self._failed(contained(error))) from error

    def _rows(self, rider: RequestSample, outputs: dict[str, Array], i: int) -> Rows | TopworkError:
        """A view would keep the whole batch's output alive for as long as one caller keeps a row."""
        try:
            return tuple([_owned(rows_of(tap, outputs[tap.name][i], rider.sample)) for tap in rider.ticket.taps])
        except Exception as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> TopworkError:
        log.error("%s failed on a batch", self._encoder.spec.name, exc_info=error)
        return TopworkError(
            f"the encoder failed on this item's batch: {type(error).__name__}: {error}",
            remedy="report it to the encoder's author",
        )

    def _settle(self, riders: Sequence[RequestSample], results: Sequence[Rows | TopworkError]) -> None:
        with self._wake:
            done = [rider.ticket for rider, result in zip(riders, results, strict=True) if rider.settle(result)]
        wake(done)

    def _fail(self, riders: Sequence[RequestSample], error: TopworkError) -> None:
        self._settle(riders, [error] * len(riders))

    def _die(self, worker: int, batch: Sequence[RequestSample], error: BaseException) -> None:
        """The first of those who meet a dead session sees to it, when the others have landed."""
        with self._wake:
            first, self.serving = self.serving, False
        if first:
            self._on_health(False)
        self._fail([rider for rider in batch if not rider.settled], self._unavailable(error))
        with self._wake:
            self._land(worker)
            if first:
                self._wake.wait_for(lambda: self._closed or not self._aboard)
        if first:
            self._reopen(batch[0].group[0], error)

    def _reopen(self, lane: int, error: BaseException) -> None:
        for attempt in itertools.count():
            with self._wake:
                if self._wake.wait_for(lambda: self._closed, timeout=REOPEN[min(attempt, len(REOPEN) - 1)]):
                    return
            try:
                self._sessions.reopen(lane)
                break
            except Exception:
                log.exception("the session of %s cannot be reopened yet", self._encoder.spec.name)
                self._fail(self._drained(), self._unavailable(error))
        with self._wake:
            self.counters["restarts"] += 1
            self.serving = True
            self._wake.notify_all()
        self._on_health(True)

    def _drained(self) -> list[RequestSample]:
        with self._wake:
            return [_rider(waiting) for waiting in self._line.drain()]

    def _unavailable(self, error: BaseException | None = None) -> Unavailable:
        why = f": {type(error).__name__}: {error}" if error else ""
        return Unavailable(f"the worker of {self._encoder.spec.name} is being restarted{why}", remedy="try again in a second")


def _rider(waiting: QueuedSample) -> RequestSample:
    assert isinstance(waiting, RequestSample)
    return waiting


def _owned(rows: Array) -> Array:
    return rows if rows.base is None else np.array(rows)


def _one_of(error: MemoryError | PluginFault) -> TopworkError:
    """The error of a batch of one sample."""
    if isinstance(error, PluginFault):
        return PluginFault(error.message, remedy=error.remedy)
    return TooLarge(
        "the item does not fit in the device's memory", remedy="send a smaller item, or serve on a device with more memory"
    )
