"""One caller's samples on their way through a session, and how their results come back to the caller's event loop."""

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
from topwork_server.inference.request_deadlines import TimedRequest
from topwork_server.types import Array, Sample, Tap

UNSETTLED = Unavailable("not settled yet")

#: One sample's rows (n, dim) for each tap of its ticket.
Rows: TypeAlias = tuple[Array, ...]


class BatchRequest:
    """One caller's samples and, in the end, a result for each: rows, or the error that this sample met.

    Made on the caller's event loop; settled by the workers' threads; `done` wakes the caller once, when all are settled.
    Failure travels on the ticket that carries the results, so that no caller waits for ever.
    """

    def __init__(
        self, samples: Sequence[Sample], taps: Sequence[Tap], deadline: float | None, request: TimedRequest | None = None
    ) -> None:
        self.samples, self.taps, self.request = samples, tuple(taps), request
        self.expires = math.inf if deadline is None else deadline
        self.results: list[Rows | TopworkError] = [UNSETTLED] * len(samples)
        self.riders: list[RequestSample] = []
        self.queued = self.computed = 0.0
        self.made = time.monotonic()
        self.remaining = len(samples)
        self.on_cancel: Callable[[BatchRequest], None] = lambda ticket: None
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()
        if not samples:
            self.done.set_result(None)

    def cancel(self) -> None:
        """The caller left: samples that still wait never reach the session."""
        if self.remaining:
            self.on_cancel(self)


@dataclass(eq=False, slots=True)
class RequestSample(QueuedSample):
    """A ticket's sample in line."""

    ticket: BatchRequest
    index: int

    @property
    def sample(self) -> Sample:
        return self.ticket.samples[self.index]

    @property
    def settled(self) -> bool:
        return self.ticket.results[self.index] is not UNSETTLED

    def settle(self, result: Rows | TopworkError) -> bool:
        """Whether its ticket is done. One thread at a time."""
        self.ticket.results[self.index] = result
        self.ticket.remaining -= 1
        if self.ticket.request:
            self.ticket.request.left -= self.cost
        return not self.ticket.remaining


def wake(tickets: Sequence[BatchRequest]) -> None:
    """Tell the callers of those that are done: an event loop is woken once for all of them."""
    for loop in {ticket.loop for ticket in tickets}:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
            loop.call_soon_threadsafe(_finish, [ticket for ticket in tickets if ticket.loop is loop])


def _finish(tickets: Sequence[BatchRequest]) -> None:
    for ticket in tickets:
        ticket.riders = []  # they hold the ticket, and it all samples: a cycle would keep those until Python looks for cycles
        if not ticket.done.done():
            ticket.done.set_result(None)
