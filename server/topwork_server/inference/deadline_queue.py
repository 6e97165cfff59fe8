"""The deadlines of what waits in one batcher's line: which samples go first, and which requests are not done at all."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from topwork_server.errors import TopworkError
from topwork_server.inference.batch_requests import BatchRequest, RequestSample
from topwork_server.inference.client_queues import QueuedSample
from topwork_server.inference.request_deadlines import GUARD, CompetingWork, DeadlineAdmission, ServiceRate, TimedRequest
from topwork_server.inference.scheduler import FairBatchScheduler
from topwork_server.types import Priority

#: Samples that go first are looked for in so many batches' worth: enough of like lengths, of no more requests than are soon done.
#: In more than that, up to so many samples, where all of them are done before the earliest deadline, with so many batches to
#: spare: in whatever order then. Of what fits without deadlines, 2 batches got 0.84 done in time, and these get 0.89.
AHEAD, MOST, SPARE_BATCHES = 3, 2048, 2


class DeadlineQueue:
    """The batcher's lock guards it."""

    def __init__(self, line: FairBatchScheduler, budgets: Sequence[int]) -> None:
        self._line, self._budgets = line, budgets
        self._paces = [ServiceRate(budget) for budget in budgets]
        self._deadlines = {priority: DeadlineAdmission(self._paces) for priority in sorted(Priority, reverse=True)}
        self._tickets: dict[TimedRequest, list[BatchRequest]] = {}
        self._partial: set[TimedRequest] = set()  # of whose items some have not come
        self._ended = 0.0
        self._chained = False

    def join(
        self, request: TimedRequest, ticket: BatchRequest, items: int, lane: int, flow: Hashable, priority: Priority, now: float
    ) -> list[TimedRequest]:
        """A ticket of a request is about to join the line: the requests that give way to it, with their errors. Overloaded or
        DeadlineExceeded where it is not to be done."""
        if request.error is not None:
            raise request.error.at(None)
        cost = sum([rider.cost for rider in ticket.riders])
        request.submitted += items
        request.cost += cost
        request.left += cost
        request.lane, request.flow, request.priority = lane, flow, priority
        (self._partial.add if request.submitted < request.items else self._partial.discard)(request)
        known = self._tickets.get(request)
        if known is not None:
            known.append(ticket)
            return []
        try:
            put_out = self._admitted(request, now, priority)
        except TopworkError:
            self._partial.discard(request)
            raise
        self._deadlines[priority].add(request)
        self._tickets[request] = [ticket]
        return put_out

    def _admitted(self, request: TimedRequest, now: float, priority: Priority) -> list[TimedRequest]:
        deadlines = self._deadlines[priority]
        deadlines.check_alone(request, now)
        if deadlines.is_calm(now, self._waiting_cost() + request.left, request.deadline):
            deadlines.keep_less_free(idle=not len(self._line))
            return []
        return deadlines.make_room(request, now, self._beside(priority, one_more=True))

    def forget(self, request: TimedRequest, now: float) -> None:
        """Nothing of it will come any more."""
        self._partial.discard(request)
        if self._tickets.pop(request, None) is not None:
            self._deadlines[request.priority].forget(request, now)

    def waiting(self, request: TimedRequest) -> list[QueuedSample]:
        """Its samples that are in line."""
        return [rider for ticket in self._tickets.get(request, ()) for rider in ticket.riders if not rider.gone]

    def late(self, now: float) -> list[TimedRequest]:
        """Requests that cannot be done in time any more, with their errors."""
        waiting = self._waiting_cost()
        return [
            request
            for priority, deadlines in self._deadlines.items()
            if not deadlines.is_calm(now, waiting)
            for request in deadlines.late(now, self._beside(priority))
        ]

    def first(self, now: float) -> list[QueuedSample]:
        """Samples whose deadlines are urgent, in the order of these, of the highest priority that has any."""
        waiting = self._waiting_cost()
        for priority, deadlines in self._deadlines.items():
            if deadlines.is_calm(now, waiting):
                continue
            if found := self._first_of(deadlines.urgent(now, self._beside(priority)), now):
                return found
        return []

    def _first_of(self, requests: Sequence[TimedRequest], now: float) -> list[QueuedSample]:
        """The longest of the first request leads."""
        found, cost = list[QueuedSample](), 0
        for request in requests:
            waiting = self.waiting(request)
            if waiting and not found:
                waiting.sort(key=lambda one: -one.cost)
            found += waiting
            cost += sum([one.cost for one in waiting])
            pace = self._paces[request.lane]
            spare = requests[0].deadline - now - (1 + GUARD) * pace.seconds(cost) - SPARE_BATCHES * pace.batch
            if found and (len(found) >= MOST or (cost >= AHEAD * self._budgets[request.lane] and spare < 0)):
                break
        return found[:MOST]

    def began(self, batch: Sequence[QueuedSample]) -> None:
        for rider in batch:
            assert isinstance(rider, RequestSample)
            if rider.ticket.request is not None:
                rider.ticket.request.begun = True

    def measure(self, batch: Sequence[RequestSample], started: float, now: float) -> None:
        """How long a batch kept the session: since the one before it, where it waited for that."""
        since = self._ended if self._chained or started < self._ended else started
        self._ended, self._chained = now, bool(len(self._line))
        costs = [rider.cost for rider in batch]
        self._paces[batch[0].group[0]].measured(sum(costs), max(costs) * len(costs), now - since)

    def _waiting_cost(self) -> float:
        """Of what waits in line, and of what requests with deadlines are still to bring."""
        return self._line.cost + sum([request.work - request.left for request in self._partial])

    def _beside(self, priority: Priority, *, one_more: bool = False) -> CompetingWork:
        timed, others = self._line.flows(priority)
        timed = max(1, timed + one_more)
        return CompetingWork(self._line.cost_above(priority), timed / (timed + others))
