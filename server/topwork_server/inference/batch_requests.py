"""One caller's samples on their way through a session, and the delivery of their results to the caller's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from topwork_server.errors import TopworkError, Unavailable
from topwork_server.inference.client_queues import QueuedSample
from topwork_server.inference.deadline_admission import TimedRequest
from topwork_server.types import Array, Sample, Tap

UNSETTLED = Unavailable("not settled yet")

#: One sample's rows (n, dim) for each tap of its request.
Rows: TypeAlias = tuple[Array, ...]


class BatchRequest:
    """One caller's samples and, in the end, a result for each: rows, or an error.

    Created on the caller's event loop and settled by the workers' threads; `done` wakes the caller once, when all are settled.
    Failures travel on the request that carries the results, so that no caller waits forever.
    """

    def __init__(
        self, samples: Sequence[Sample], taps: Sequence[Tap], deadline: float | None, timed_request: TimedRequest | None = None
    ) -> None:
        self.samples, self.taps, self.timed_request = samples, tuple(taps), timed_request
        self.expires = math.inf if deadline is None else deadline
        self.results: list[Rows | TopworkError] = [UNSETTLED] * len(samples)
        self.queued_samples: list[RequestSample] = []
        self.cost = 0  # of all samples, in the encoder's unit
        self.queue_seconds = self.compute_seconds = 0.0
        self.created = time.monotonic()
        self.remaining = len(samples)
        self.on_cancel: Callable[[BatchRequest], None] = lambda request: None
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()
        if not samples:
            self.done.set_result(None)

    def cancel(self) -> None:
        """Remove the samples that still wait, so that they never reach the session."""
        if self.remaining:
            self.on_cancel(self)


@dataclass(eq=False, slots=True)
class RequestSample(QueuedSample):
    """A request's sample in the queue."""

    request: BatchRequest
    index: int

    @property
    def sample(self) -> Sample:
        return self.request.samples[self.index]

    @property
    def settled(self) -> bool:
        return self.request.results[self.index] is not UNSETTLED

    def settle(self, result: Rows | TopworkError) -> bool:
        """Store the sample's result; True if its request is now done. One thread at a time."""
        self.request.results[self.index] = result
        self.request.remaining -= 1
        if self.request.timed_request:
            self.request.timed_request.cost_left -= self.cost
        return not self.request.remaining


def wake_callers(requests: Sequence[BatchRequest]) -> None:
    """Wake the callers of requests that are done, each event loop once for all of its requests."""
    for loop in {request.loop for request in requests}:
        with contextlib.suppress(RuntimeError):  # the loop is closed: no caller is left
            loop.call_soon_threadsafe(_resolve, [request for request in requests if request.loop is loop])


def _resolve(requests: Sequence[BatchRequest]) -> None:
    for request in requests:
        request.queued_samples = []  # breaks a reference cycle, which would keep all samples in memory until a collection
        if not request.done.done():
            request.done.set_result(None)
