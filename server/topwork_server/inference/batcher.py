"""Continuous batching: preprocessed samples -> batches -> results. There is no delay timer: a free session takes what waits.

Workers are threads, as many as the sessions of the first backend take at once: one on a CPU, which computes one batch with all
its cores; more on a GPU, where collating and copies hide behind computing; so many for each of several GPUs. All take from one
queue.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from topwork_server.errors import DeadlineExceeded, PluginFault, TooLarge, TopworkError, Unavailable
from topwork_server.features import rows_of
from topwork_server.inference.batch_requests import BatchRequest, RequestSample, Rows, wake_callers
from topwork_server.inference.client_queues import QueuedSample
from topwork_server.inference.deadline_admission import TimedRequest
from topwork_server.inference.deadline_queue import DeadlineQueue
from topwork_server.inference.scheduler import FairBatchScheduler
from topwork_server.inference.session_pool import Backend, SessionPool
from topwork_server.plugin_api.encoder import Encoder, batch_key
from topwork_server.plugin_api.result_checks import check_cost
from topwork_server.plugin_crashes import contained
from topwork_server.runtime.providers import GPUS
from topwork_server.types import Array, Priority, Sample, Tap

__all__ = ["Backend", "BatchRequest", "Batcher", "Rows"]

log = logging.getLogger(__name__)

#: Factor of a GPU's batches over the budgets of encoders, which are best on a CPU.
GPU_BATCH = 8
#: Seconds between tries to reopen a session that cannot be opened.
REOPEN = (0.0, 0.2, 1.0, 5.0)


class _EncoderFailed(Exception):
    """The encoder's own code raised `error` on a batch; which sample is to blame is not known yet."""

    def __init__(self, error: TopworkError) -> None:
        self.error = error


class Batcher:
    """Owns the sessions of one encoder and the threads that run them.

    `counters`: samples, batches, cost (of the samples) and padded_cost (with their padding), expired, cancelled, refused,
    memory_splits, restarts. `serving` is False while a session that
    died is being reopened; `on_health` is called at each change, from a worker's thread.
    """

    def __init__(
        self, encoder: Encoder, backends: Sequence[Backend], on_health: Callable[[bool], None] = lambda serving: None
    ) -> None:
        self.backends = tuple(backends)
        self._encoder, self._on_health = encoder, on_health
        self._sessions = SessionPool(self.backends)
        budgets = [encoder.budget * (GPU_BATCH if backend.numerics.provider in GPUS else 1) for backend in backends]
        self._scheduler = FairBatchScheduler(budgets)
        self._deadlines = DeadlineQueue(self._scheduler, budgets)
        self._changed = threading.Condition()  # guards the queues, the requests' counts and the fields below
        self._closed = False
        self._in_flight: dict[int, list[RequestSample]] = {}
        self.serving = True
        self.counters: Counter[str] = Counter()
        name = f"session {encoder.spec.name}"
        self._threads = [
            threading.Thread(target=self._worker_loop, args=(worker,), name=name, daemon=True)
            for worker in range(self._sessions.workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def open_backends(self) -> int:
        return self._sessions.open_count

    @property
    def busy(self) -> bool:
        """True while a batch is computed."""
        return bool(self._in_flight)

    def submit(
        self,
        samples: Sequence[Sample],
        taps: Sequence[Tap],
        deadline: float | None = None,
        *,
        backend: int = 0,
        client: Hashable = None,
        priority: Priority = Priority.NORMAL,
        timed_request: TimedRequest | None = None,
        items: int = 0,
    ) -> BatchRequest:
        """Queue samples. Unavailable while a session is being reopened. `deadline` is in time.monotonic(). Clients take turns.

        With a `timed_request`, to which these samples of so many more `items` belong, raises Overloaded where it cannot be done
        by its deadline; call `end_request` in the end."""
        request, encoder = BatchRequest(samples, taps, deadline, timed_request), self._encoder
        request.on_cancel = self._cancel
        group = [(backend, batch_key(encoder, s)) for s in samples]
        timed = timed_request is not None
        request.queued_samples = [
            RequestSample(check_cost(encoder, encoder.cost(s)), group[i], request, i, timed=timed) for i, s in enumerate(samples)
        ]
        request.cost = sum([queued.cost for queued in request.queued_samples])
        with self._changed:
            if self._closed or not self.serving:
                raise self._unavailable()
            if timed_request is not None:
                self._refuse(self._deadlines.register(timed_request, request, items, backend, client, priority, request.created))
            self._scheduler.push(request.queued_samples, client, priority)
            self._changed.notify()
        return request

    def end_request(self, request: TimedRequest) -> None:
        """Forget a request, of which no more samples will come."""
        with self._changed:
            self._deadlines.unregister(request, time.monotonic())

    def count_expired(self, items: int) -> None:
        """Count items whose deadline passed before they were preprocessed."""
        with self._changed:
            self.counters["expired"] += items

    def close(self) -> None:
        """End the threads after their current batches; samples that still wait fail."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._fail(self._drain(), self._unavailable())
        self._sessions.close()

    def _worker_loop(self, worker: int) -> None:
        """Serve batches until the batcher is closed."""
        while self._serve_batch(worker):
            pass

    def _serve_batch(self, worker: int) -> bool:
        """Serve one batch; False when the batcher is closed. A function of its own, so that the batch is freed before the next
        wait."""
        batch = self._next_batch(worker)
        try:
            if batch:
                self._run_batch(worker, batch)
        except BaseException as error:
            log.exception("the session of %s died", self._encoder.spec.name)
            self._on_crash(worker, batch, error)
        return bool(batch)

    def _next_batch(self, worker: int) -> list[RequestSample]:
        """Wait for the next batch; an empty one when the batcher is closed."""
        with self._changed:
            self._finish(worker)
            while not self._closed:
                if self.serving and (batch := self._take_batch()):
                    self._in_flight[worker] = batch
                    if len(self._scheduler):
                        self._changed.notify()
                    return batch
                self._changed.wait()
        return []

    def _finish(self, worker: int) -> None:
        self._in_flight.pop(worker, None)
        if not self.serving:
            self._changed.notify_all()  # the thread that reopens a session waits until none runs

    def _take_batch(self) -> list[RequestSample]:
        now = time.monotonic()
        self._refuse(self._deadlines.find_late(now))
        taken = self._scheduler.take_batch(
            lambda queued: _request_sample(queued).request.expires <= now, self._deadlines.urgent_samples(now)
        )
        self._deadlines.mark_begun(taken.batch)
        if taken.dropped:
            self._drop([_request_sample(queued) for queued in taken.dropped], "expired")
        return [_request_sample(queued) for queued in taken.batch]

    def _refuse(self, requests: Sequence[TimedRequest]) -> None:
        """Fail requests that cannot be done in time, or that give way to others: remove their samples from the queue."""
        for request in requests:
            queued = self._deadlines.waiting_samples(request)
            self._deadlines.unregister(request, time.monotonic())
            self._scheduler.remove(queued)
            self.counters["refused"] += len(queued)
            assert request.error is not None
            self._fail([_request_sample(one) for one in queued], request.error)

    def _cancel(self, request: BatchRequest) -> None:
        """Drop the canceled request's queued samples and free them."""
        with self._changed:
            gone = [queued for queued in request.queued_samples if not queued.dequeued]
            self._scheduler.remove(gone)
            self._drop(gone, "cancelled")

    def _drop(self, samples: Sequence[RequestSample], why: str) -> None:
        self.counters[why] += len(samples)
        self._fail(
            samples, DeadlineExceeded("the deadline passed while the item was queued", remedy="allow more time, or send less")
        )

    def _run_batch(self, worker: int, batch: list[RequestSample]) -> None:
        """Compute a batch. One that does not fit in memory, or on which the encoder fails, is halved until it succeeds or until a
        single sample is to blame."""
        try:
            self._compute(worker, batch)
        except (MemoryError, PluginFault, _EncoderFailed) as error:
            if len(batch) == 1:
                self._fail(batch, error.error if isinstance(error, _EncoderFailed) else _single_sample_error(error))
                return
            with self._changed:
                self.counters["memory_splits"] += isinstance(error, MemoryError)
            self._run_batch(worker, batch[: len(batch) // 2])
            self._run_batch(worker, batch[len(batch) // 2 :])
        except TopworkError as error:
            self._fail(batch, error)

    def _compute(self, worker: int, batch: list[RequestSample]) -> None:
        started = time.monotonic()
        names = list({tap.name: None for queued in batch for tap in queued.request.taps})
        feeds = self._collate(batch)
        outputs = dict(zip(names, self._sessions.slot_for(batch[0].group[0], worker).run(names, feeds), strict=True))
        results = [self._extract_rows(queued, outputs, i) for i, queued in enumerate(batch)]
        seconds, costs = time.monotonic() - started, [queued.cost for queued in batch]
        cost, padded_cost = sum(costs), max(costs) * len(costs)
        with self._changed:
            self.counters["batches"] += 1
            self.counters["samples"] += len(batch)
            self.counters["cost"] += cost
            self.counters["padded_cost"] += padded_cost if self._encoder.pads else cost
            self._deadlines.record_batch(batch[0].group[0], cost, padded_cost, started, time.monotonic())
            for request in {queued.request for queued in batch}:
                request.queue_seconds = max(request.queue_seconds, started - request.created)
                request.compute_seconds += seconds
        self._settle(batch, results)

    def _collate(self, batch: Sequence[RequestSample]) -> dict[str, Array]:
        try:
            return self._encoder.collate([queued.sample for queued in batch])
        except (TopworkError, MemoryError):
            raise
        except BaseException as error:
            raise _EncoderFailed(self._encoder_failure(contained(error))) from error

    def _extract_rows(self, queued: RequestSample, outputs: dict[str, Array], i: int) -> Rows | TopworkError:
        """Copy one sample's rows: a view would keep the whole batch's output alive as long as a caller keeps a row."""
        try:
            return tuple([_copied(rows_of(tap, outputs[tap.name][i], queued.sample)) for tap in queued.request.taps])
        except Exception as error:
            return self._encoder_failure(error)

    def _encoder_failure(self, error: Exception) -> TopworkError:
        log.error("%s failed on a batch", self._encoder.spec.name, exc_info=error)
        return TopworkError(
            f"the encoder failed on this item's batch: {type(error).__name__}: {error}",
            remedy="report it to the encoder's author",
        )

    def _settle(self, samples: Sequence[RequestSample], results: Sequence[Rows | TopworkError]) -> None:
        with self._changed:
            done = [queued.request for queued, result in zip(samples, results, strict=True) if queued.settle(result)]
        wake_callers(done)

    def _fail(self, samples: Sequence[RequestSample], error: TopworkError) -> None:
        self._settle(samples, [error] * len(samples))

    def _on_crash(self, worker: int, batch: Sequence[RequestSample], error: BaseException) -> None:
        """Fail the batch of a dead session. The first worker that meets it reopens it once the others have finished."""
        with self._changed:
            first, self.serving = self.serving, False
        if first:
            self._on_health(False)
        self._fail([queued for queued in batch if not queued.settled], self._unavailable(error))
        with self._changed:
            self._finish(worker)
            if first:
                self._changed.wait_for(lambda: self._closed or not self._in_flight)
        if first:
            self._reopen(batch[0].group[0], error)

    def _reopen(self, backend: int, error: BaseException) -> None:
        for attempt in itertools.count():
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, timeout=REOPEN[min(attempt, len(REOPEN) - 1)]):
                    return
            try:
                self._sessions.reopen(backend)
                break
            except Exception:
                log.exception("the session of %s cannot be reopened yet", self._encoder.spec.name)
                self._fail(self._drain(), self._unavailable(error))
        with self._changed:
            self.counters["restarts"] += 1
            self.serving = True
            self._changed.notify_all()
        self._on_health(True)

    def _drain(self) -> list[RequestSample]:
        with self._changed:
            return [_request_sample(queued) for queued in self._scheduler.drain()]

    def _unavailable(self, error: BaseException | None = None) -> Unavailable:
        why = f": {type(error).__name__}: {error}" if error else ""
        return Unavailable(f"the worker of {self._encoder.spec.name} is being restarted{why}", remedy="try again in a second")


def _request_sample(queued: QueuedSample) -> RequestSample:
    assert isinstance(queued, RequestSample)
    return queued


def _copied(rows: Array) -> Array:
    return rows if rows.base is None else np.array(rows)


def _single_sample_error(error: MemoryError | PluginFault) -> TopworkError:
    """Error of a batch of one sample."""
    if isinstance(error, PluginFault):
        return PluginFault(error.message, remedy=error.remedy)
    return TooLarge(
        "the item does not fit in the device's memory", remedy="send a smaller item, or serve on a device with more memory"
    )
