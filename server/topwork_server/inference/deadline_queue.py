"""Deadlines of the requests in one batcher's queue: the samples that go first, and the requests that cannot be done."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from topwork_server.errors import TopworkError
from topwork_server.inference.batch_requests import BatchRequest, RequestSample
from topwork_server.inference.client_queues import QueuedSample
from topwork_server.inference.deadline_admission import GUARD, CompetingWork, DeadlineAdmission, ServiceRate, TimedRequest
from topwork_server.inference.scheduler import FairBatchScheduler
from topwork_server.types import Priority

#: Urgent samples are sought in AHEAD batches' worth: enough of like lengths, from no more requests than are soon done. Up to MOST
#: samples are taken where all of them are done, in any order, SPARE_BATCHES batches before the earliest deadline. With AHEAD at
#: 2, 0.84 of the load that fits without deadlines was done in time; with these values 0.89.
AHEAD, MOST, SPARE_BATCHES = 3, 2048, 2


class DeadlineQueue:
    """Orders requests by deadline, and refuses those that cannot be done. Guarded by the batcher's lock."""

    def __init__(self, scheduler: FairBatchScheduler, budgets: Sequence[int]) -> None:
        self._scheduler, self._budgets = scheduler, budgets
        self._rates = [ServiceRate(budget) for budget in budgets]
        self._deadlines = {priority: DeadlineAdmission(self._rates) for priority in sorted(Priority, reverse=True)}
        self._requests: dict[TimedRequest, list[BatchRequest]] = {}
        self._partial: set[TimedRequest] = set()  # requests some of whose items have not come yet
        self._ended = 0.0
        self._chained = False

    def register(
        self,
        request: TimedRequest,
        batch_request: BatchRequest,
        items: int,
        backend: int,
        client: Hashable,
        priority: Priority,
        now: float,
    ) -> list[TimedRequest]:
        """Add a batch request that is about to be queued; returns the requests that give way to it, with their errors. Overloaded
        or DeadlineExceeded where it cannot be done."""
        if request.error is not None:
            raise request.error.at(None)
        request.submitted += items
        request.cost += batch_request.cost
        request.cost_left += batch_request.cost
        request.backend, request.client, request.priority = backend, client, priority
        (self._partial.add if request.submitted < request.items else self._partial.discard)(request)
        known = self._requests.get(request)
        if known is not None:
            known.append(batch_request)
            return []
        try:
            evicted = self._admit(request, now, priority)
        except TopworkError:
            self._partial.discard(request)
            raise
        self._deadlines[priority].add(request)
        self._requests[request] = [batch_request]
        return evicted

    def _admit(self, request: TimedRequest, now: float, priority: Priority) -> list[TimedRequest]:
        deadlines = self._deadlines[priority]
        deadlines.check_alone(request, now)
        if deadlines.is_calm(now, self._waiting_cost() + request.cost_left, request.deadline):
            deadlines.keep_less_free(idle=not len(self._scheduler))
            return []
        return deadlines.make_room(request, now, self._competing_work(priority, one_more=True))

    def unregister(self, request: TimedRequest, now: float) -> None:
        """Forget a request, of which no more samples will come."""
        self._partial.discard(request)
        if self._requests.pop(request, None) is not None:
            self._deadlines[request.priority].remove(request, now)

    def waiting_samples(self, request: TimedRequest) -> list[QueuedSample]:
        """The request's samples that are still in the queue."""
        return [
            sample
            for batch_request in self._requests.get(request, ())
            for sample in batch_request.queued_samples
            if not sample.dequeued
        ]

    def find_late(self, now: float) -> list[TimedRequest]:
        """Find requests that cannot be done in time any more; their errors are set."""
        waiting = self._waiting_cost()
        return [
            request
            for priority, deadlines in self._deadlines.items()
            if not deadlines.is_calm(now, waiting)
            for request in deadlines.find_late(now, self._competing_work(priority))
        ]

    def urgent_samples(self, now: float) -> list[QueuedSample]:
        """Samples with urgent deadlines, by deadline, of the highest priority that has any."""
        waiting = self._waiting_cost()
        for priority, deadlines in self._deadlines.items():
            if deadlines.is_calm(now, waiting):
                continue
            if found := self._ordered_samples(deadlines.find_urgent(now, self._competing_work(priority)), now):
                return found
        return []

    def _ordered_samples(self, requests: Sequence[TimedRequest], now: float) -> list[QueuedSample]:
        """Samples of the requests in order; those of the first are sorted, the longest first."""
        found, cost = list[QueuedSample](), 0
        for request in requests:
            waiting = self.waiting_samples(request)
            if waiting and not found:
                waiting.sort(key=lambda one: -one.cost)
            found += waiting
            cost += sum([one.cost for one in waiting])
            rate = self._rates[request.backend]
            spare = requests[0].deadline - now - (1 + GUARD) * rate.seconds_for(cost) - SPARE_BATCHES * rate.batch_seconds
            if found and (len(found) >= MOST or (cost >= AHEAD * self._budgets[request.backend] and spare < 0)):
                break
        return found[:MOST]

    def mark_begun(self, batch: Sequence[QueuedSample]) -> None:
        for sample in batch:
            assert isinstance(sample, RequestSample)
            if sample.request.timed_request is not None:
                sample.request.timed_request.begun = True

    def record_batch(self, backend: int, cost: int, padded_cost: int, started: float, now: float) -> None:
        """Record how long a batch kept the session: since the end of the previous batch, if it waited for that."""
        since = self._ended if self._chained or started < self._ended else started
        self._ended, self._chained = now, bool(len(self._scheduler))
        self._rates[backend].record_batch(cost, padded_cost, now - since)

    def _waiting_cost(self) -> float:
        """Cost of all queued samples, and of those that requests with deadlines are still to bring."""
        return self._scheduler.cost + sum([request.remaining_cost - request.cost_left for request in self._partial])

    def _competing_work(self, priority: Priority, *, one_more: bool = False) -> CompetingWork:
        timed, others = self._scheduler.count_queues(priority)
        timed = max(1, timed + one_more)
        return CompetingWork(self._scheduler.cost_above(priority), timed / (timed + others))
