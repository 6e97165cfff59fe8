"""Requests with deadlines in a line, by a clock of the test's own: an encoder whose batches cost what they weigh."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import pytest
from topwork_server.errors import DeadlineExceeded, Overloaded, TopworkError
from topwork_server.inference.batch_requests import BatchRequest, RequestSample
from topwork_server.inference.client_queues import QueuedSample
from topwork_server.inference.deadline_admission import TimedRequest
from topwork_server.inference.deadline_queue import DeadlineQueue
from topwork_server.inference.scheduler import OVERHEAD, FairBatchScheduler
from topwork_server.types import Array, Priority, Sample

BUDGET = 1024
#: What the session gets done in a second.
RATE = 5000.0


@dataclass(eq=False)
class Asked:
    """One request: samples of these costs, when it comes, and how long it may take."""

    flow: Hashable
    costs: Sequence[int]
    at: float = 0.0
    within: float = math.inf
    priority: Priority = Priority.NORMAL
    ended: float = math.nan
    error: TopworkError | None = None
    request: TimedRequest | None = None
    ticket: BatchRequest | None = None

    @property
    def done(self) -> bool:
        return self.error is None and self.ended <= self.at + self.within


@dataclass
class Simulation:
    """A line, the deadlines in it, and a session that takes its time."""

    rate: float = RATE
    now: float = 100.0
    served: Counter[Hashable] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.line = FairBatchScheduler([BUDGET])
        self.due = DeadlineQueue(self.line, [BUDGET])
        self.owner: dict[BatchRequest, Asked] = {}

    def run(self, asked: Sequence[Asked], until: float = math.inf) -> None:
        """All that is asked, to its end; times count from now on."""
        coming, began = sorted(asked, key=lambda one: one.at), self.now
        while True:
            while coming and began + coming[0].at <= self.now:
                self._come(coming.pop(0), began)
            self._give_up(self.due.find_late(self.now))
            batch = self.line.take_batch(self._is_dead, self.due.urgent_samples(self.now)).batch
            if batch:
                self._compute(batch, began)
            elif coming:
                self.now = max(self.now, began + coming[0].at)
            else:
                return
            if self.now - began > until:
                return

    def _come(self, one: Asked, began: float) -> None:
        if one.within < math.inf:
            one.request = TimedRequest(began + one.at + one.within, len(one.costs))
        ticket = one.ticket = BatchRequest([Sample({}) for _ in one.costs], (), began + one.at + one.within, one.request)
        self.owner[ticket] = one
        timed = one.request is not None
        ticket.queued_samples = [RequestSample(cost, (0, None), ticket, i, timed=timed) for i, cost in enumerate(one.costs)]
        ticket.cost = sum(one.costs)
        try:
            if one.request:
                self._give_up(self.due.register(one.request, ticket, len(one.costs), 0, one.flow, one.priority, self.now))
        except TopworkError as error:
            one.error, one.ended = error, self.now - began
            return
        self.line.push(ticket.queued_samples, one.flow, one.priority)

    def _give_up(self, requests: Sequence[TimedRequest]) -> None:
        for request in requests:
            waiting = self.due.waiting_samples(request)
            self.due.unregister(request, self.now)
            self.line.remove(waiting)
            for one in self.owner.values():
                if one.request is request:
                    one.error = request.error

    def _is_dead(self, waiting: QueuedSample) -> bool:
        assert isinstance(waiting, RequestSample)
        return waiting.request.expires <= self.now

    def _compute(self, batch: Sequence[QueuedSample], began: float) -> None:
        riders = [rider for rider in batch if isinstance(rider, RequestSample)]
        self.due.mark_begun(riders)
        started = self.now
        costs = [rider.cost for rider in riders]
        padded_cost = max(costs) * len(costs)
        self.now += (OVERHEAD * BUDGET + padded_cost) / self.rate
        self.due.record_batch(0, sum(costs), padded_cost, started, self.now)
        for rider in riders:
            one = self.owner[rider.request]
            self.served[one.flow] += rider.cost
            if rider.settle(ROWS):
                one.ended = self.now - began
                if one.request:
                    self.due.unregister(one.request, self.now)


ROWS: tuple[Array, ...] = ()


def warm(simulation: Simulation) -> Simulation:
    """The pace is known."""
    simulation.run([Asked("before", [200] * 20)])
    return simulation


def in_loop(test: object) -> None:
    """Tickets belong to an event loop."""

    async def go() -> None:
        test()  # type: ignore[operator]

    asyncio.run(go())


def what_fits(costs: Sequence[int], seconds: float) -> int:
    """How many requests of such samples the session gets done, in full batches, one after another."""
    simulation = Simulation()
    asked = [Asked(i, costs) for i in range(100)]
    simulation.run(asked)
    return int(seconds * len(asked) / (simulation.now - 100))


@pytest.mark.parametrize(("callers", "within"), [(50, 15.0), (200, 30.0), (50, 5.0)])
@pytest.mark.parametrize("known", [True, False], ids=["pace known", "pace not known"])
def test_of_too_many_requests_at_once_as_many_are_done_in_time_as_fit(callers: int, within: float, known: bool) -> None:
    def test() -> None:
        simulation = warm(Simulation()) if known else Simulation()
        asked = [Asked(i, [200] * 8, within=within) for i in range(callers)]
        simulation.run(asked)
        fits = min(callers, what_fits([200] * 8, within))
        assert fits < callers
        assert sum(one.done for one in asked) >= 0.9 * fits
        refused = [one for one in asked if not one.done]
        assert all(isinstance(one.error, Overloaded) and one.error.retry_after for one in refused)
        if known:
            assert all(one.ended < 0.1 for one in refused)  # at once

    in_loop(test)


def test_what_was_kept_free_for_one_rush_is_not_for_the_next() -> None:
    """Rushes of twice what fits, with pauses in which nothing waits."""

    def test() -> None:
        simulation = warm(Simulation())
        fits = what_fits([200] * 8, 5.0)
        asked = [Asked(i, [200] * 8, at=10.0 * rush, within=5.0) for rush in range(6) for i in range(2 * fits)]
        simulation.run(asked)
        for rush in range(6):
            assert sum(one.done for one in asked if one.at == 10.0 * rush) >= 0.85 * fits

    in_loop(test)


@pytest.mark.parametrize("seed", range(3))
def test_deadlines_sizes_and_arrivals_of_all_sorts(seed: int) -> None:
    """Twice as much as fits for a minute: little of what is computed is for nothing."""

    def test() -> None:
        dice = random.Random(seed)
        asked = []
        at = 0.0
        while at < 60:
            costs = [min(256, int(dice.lognormvariate(4, 0.7)) + 1) for _ in range(dice.choice([1, 2, 8, 30]))]
            asked.append(Asked(dice.randrange(40), costs, at, dice.choice([2.0, 5.0, 15.0])))
            at += sum(costs) / RATE / 2
        simulation = warm(Simulation())
        before = sum(simulation.served.values())
        started = simulation.now
        simulation.run(asked)
        took, served = simulation.now - started, sum(simulation.served.values()) - before
        done = sum(sum(one.costs) for one in asked if one.done)
        assert done >= 0.9 * served
        without = Simulation()
        without.run([Asked(one.flow, one.costs) for one in asked])
        fits = sum(without.served.values()) / (without.now - 100)
        assert done / took >= 0.86 * fits

    in_loop(test)


def test_a_session_that_slows_down_answers_fewer_but_still_answers() -> None:
    def test() -> None:
        simulation = warm(Simulation())
        simulation.rate = RATE / 2
        asked = [Asked(i, [200] * 8, at=i * 0.2, within=10.0) for i in range(200)]
        simulation.run(asked)
        assert sum(one.done for one in asked) * 1600 / (simulation.now - 100) >= 0.8 * RATE / 2

    in_loop(test)


def test_flows_without_deadlines_keep_their_turns() -> None:
    """Five streams beside 20 callers whose deadlines are always urgent."""

    def test() -> None:
        simulation = warm(Simulation())
        streams = [Asked(f"stream {i}", [200] * 400) for i in range(5)]
        callers = [Asked(i, [200] * 8, at=turn * 1.0, within=6.0) for turn in range(30) for i in range(20)]
        simulation.run([*streams, *callers], until=25)
        shares = {flow: cost / sum(simulation.served.values()) for flow, cost in simulation.served.items() if flow != "before"}
        for one in streams:
            assert shares[one.flow] == pytest.approx(shares["stream 0"], rel=0.2)
            assert shares[one.flow] > 0.8 / 25
        of_callers = sum(simulation.served[i] for i in range(20))
        assert sum(one.done for one in callers) * 1600 >= 0.8 * of_callers > 0.25 * sum(simulation.served.values())

    in_loop(test)


def test_a_caller_that_asks_for_much_gives_way_to_one_that_asks_for_little() -> None:
    def test() -> None:
        simulation = warm(Simulation())
        greedy = [Asked("greedy", [200] * 8, within=10.0) for _ in range(60)]
        modest = [Asked(i, [200] * 2, at=0.5, within=10.0) for i in range(5)]
        simulation.run([*greedy, *modest])
        assert all(one.done for one in modest)
        assert sum(one.done for one in greedy) >= 0.8 * what_fits([200] * 8, 10.0) - 2

    in_loop(test)


def test_a_higher_priority_is_served_before_deadlines_of_a_lower() -> None:
    def test() -> None:
        simulation = warm(Simulation())
        low = [Asked(i, [200] * 8, within=10.0, priority=Priority.LOW) for i in range(40)]
        high = [Asked("high", [200] * 8, at=i * 1.0, within=2.0, priority=Priority.HIGH) for i in range(10)]
        simulation.run([*low, *high])
        assert all(one.done for one in high)
        assert sum(one.done for one in low) >= 0.8 * (what_fits([200] * 8, 10.0) - len(high))

    in_loop(test)


def test_with_time_to_spare_flows_take_turns_with_any_deadlines() -> None:
    def test() -> None:
        simulation = warm(Simulation())
        large, small = Asked("large", [200] * 64, within=60.0), Asked("small", [200], at=0.1, within=120.0)
        simulation.run([large, small])
        assert small.ended < 1
        assert large.done

    in_loop(test)


def test_what_takes_longer_by_itself_than_it_may_is_refused_at_once() -> None:
    def test() -> None:
        simulation = warm(Simulation())
        asked = Asked("a", [200] * 100, within=1.0)
        simulation.run([asked])
        assert isinstance(asked.error, DeadlineExceeded)
        assert "by itself" in asked.error.message
        assert not simulation.served["a"]

    in_loop(test)
