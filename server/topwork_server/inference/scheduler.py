"""Who waits for a session, and who rides together. Pure bookkeeping: no threads, no clock of its own.

Three questions, asked in this order. Which priority: the highest that anybody has, strictly. Which flow: flows take turns by
what they have cost so far (start-time fair queuing: Goyal, Vin and Cheng, SIGCOMM 1996), so that a stream of a million items
and a caller with one each get their share. Which sample: within a flow, samples of like size take turns, so that a short text
does not wait for all the long ones before it. That sample's batch is grown by nearest length within a budget: each place goes to
the flow that has had least, and lower priorities get what places are left. Of the batches on that way the one is taken that
spends the largest share of its time on what is not padding.

While deadlines are urgent (deadlines.py says which samples go `first`), flows with deadlines share their turns: each goes to the
first of those samples, and its batch is grown by nearest length among them alone: whoever else rode along would make it slower.
Flows without deadlines have the turns that they would have had.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import TypeAlias

from topwork_server.inference.client_queues import ClientQueue, PriorityClass, QueuedSample
from topwork_server.types import Priority

#: What a batch costs beyond its samples, as a share of its budget: it decides how much padding a fuller batch is worth. The time
#: of a graph over (batch, length) was fitted on 2 cores: 21 tokens in fp32 and 49 in bf16, of a budget of 1024. The server's own
#: share comes on top: of 1/32, 1/16, 1/8 and 1/4, this was the fastest at 64 callers, both in fp32 and in bf16.
OVERHEAD = 1 / 16

#: Samples of less than one part in so many of a budget are of one size; beyond that each doubling makes another.
SIZES = 8

#: A flow that is further ahead than this part of a batch fills only what places the others leave, for nothing. Nearer than that,
#: length alone decides: to take turns place by place would cost a third of the throughput in padding.
SLACK = 0.5

#: Farther than any sample.
FAR = 1 << 62

#: How far an offer reaches: from, to, and how many of those met had left.
_Edge: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class TakenSamples:
    batch: list[QueuedSample]
    dropped: list[QueuedSample]


class _GrowingBatch:
    """A batch that grows, and how much of the time that it takes is its samples' own. One sample may exceed the budget alone."""

    def __init__(self, head: QueuedSample, budget: int) -> None:
        self.head, self.budget = head, budget
        self._overhead = budget * OVERHEAD
        self.longest = self.total = head.cost
        self.count = 1

    def board(self, cost: int) -> bool:
        """False where no sample of this cost fits."""
        longest, count = max(self.longest, cost), self.count + 1
        if longest * count > self.budget:
            return False
        self.longest, self.count = longest, count
        self.total += cost
        return True

    @property
    def share(self) -> float:
        return self.total / (self._overhead + self.longest * self.count)


class _Offer:
    """What one flow sends into a batch: the range of its samples around the head's length, which widens to the nearest."""

    def __init__(self, flow: ClientQueue, batch: _GrowingBatch) -> None:
        head = batch.head
        self.flow, self._origin = flow, head.cost
        self._entries = flow.groups[head.group]
        self.low = self.high = bisect_left(self._entries, (head.cost, head.order if head.flow is flow else 0))
        self._lowest, self._highest = 0, len(self._entries)
        self.riders: list[QueuedSample] = []
        self.dropped: list[QueuedSample] = []
        self.spent, self._right = 0, False
        if head.flow is flow:
            self._board(head, right=True)

    def undo(self, edge: _Edge) -> None:
        """The one who boarded last stays in line."""
        self.low, self.high, dropped = edge
        self.spent -= self.riders.pop().cost
        del self.dropped[dropped:]

    def distance(self) -> int:
        """In length, of the nearest who is not aboard; FAR where there is no more."""
        entries, low, high = self._entries, self.low, self.high
        left = self._origin - entries[low - 1][0] if low > self._lowest else FAR
        right = entries[high][0] - self._origin if high < self._highest else FAR
        self._right = right < left
        return right if self._right else left

    def widen(self, batch: _GrowingBatch, dead: Callable[[QueuedSample], bool]) -> bool:
        """To the nearest, whose distance was just asked for: whether he boards. Beyond one who does not fit nobody does."""
        cost, _, waiting = self._entries[self.high if self._right else self.low - 1]
        if dead(waiting):
            self.dropped.append(waiting)
            self._pass(self._right)
        elif batch.board(cost):
            self._board(waiting, self._right)
            return True
        elif self._right:
            self._highest = self.high
        else:
            self._lowest = self.low
        return False

    def _board(self, waiting: QueuedSample, right: bool) -> None:
        self.riders.append(waiting)
        self.spent += waiting.cost
        self._pass(right)

    def _pass(self, right: bool) -> None:
        if right:
            self.high += 1
        else:
            self.low -= 1


class FairBatchScheduler:
    """`budgets` (one a lane) bound count x longest of a batch."""

    def __init__(self, budgets: Sequence[int]) -> None:
        self._budgets = budgets
        self._slack = budgets[0] * SLACK
        self._levels = {priority: PriorityClass(priority) for priority in sorted(Priority, reverse=True)}
        self._next = 0
        self._size = 0
        self.cost = 0  # of all that waits

    def __len__(self) -> int:
        return self._size

    def push(self, people: Sequence[QueuedSample], flow: Hashable = None, priority: Priority = Priority.NORMAL) -> None:
        """One request's samples."""
        if not people:
            return
        sharers = self._levels[priority].flow(flow, self._next)
        for waiting in people:
            self._next += 1
            waiting.order = self._next
            sharers.push(waiting, (waiting.cost * SIZES // self._budgets[waiting.group[0]]).bit_length())
        self._size += len(people)
        self.cost += sum([waiting.cost for waiting in people])

    def cost_above(self, priority: Priority) -> int:
        """Of all that waits at higher priorities."""
        return sum([level.cost for other, level in self._levels.items() if other > priority])

    def flows(self, priority: Priority) -> tuple[int, int]:
        """How many flows have samples with deadlines, and how many have none."""
        timed = [flow.timed > 0 for flow in self._levels[priority].flows.values()]
        return sum(timed), len(timed) - sum(timed)

    def take(self, dead: Callable[[QueuedSample], bool], first: Sequence[QueuedSample] = ()) -> TakenSamples:
        """The next batch, and those met on the way whose callers have left. Both are out of the line.
        `first` are samples in line, of one priority, whose deadlines are urgent, by deadline."""
        dropped: list[QueuedSample] = []
        for level in self._levels.values():
            urgent = bool(first) and first[0].flow in level.flows.values()
            if not urgent:
                level.end_urgency()
            elif level.is_turn_of_timed():
                return self._urgent(level, first)
            while any(not flow.timed for flow in level.flows.values()) if urgent else level.flows:
                head = level.next(self._slack, timed=not urgent).first(self._next)
                if not dead(head):
                    return self._filled(head, dead, dropped)
                self.remove([head])
                dropped.append(head)
        return TakenSamples([], dropped)

    def _urgent(self, level: PriorityClass, first: Sequence[QueuedSample]) -> TakenSamples:
        """A batch around the first of those samples."""
        riders = _nearest_of(first, self._budgets[first[0].group[0]])
        spent = sum([rider.cost for rider in riders])
        level.charge_timed(spent)
        for rider in riders:
            flow = rider.flow
            assert flow is not None
            flow.remove(rider)
            level.charge(flow, rider.cost)
        self._size -= len(riders)
        self.cost -= spent
        return TakenSamples(riders, [])

    def remove(self, people: Iterable[QueuedSample]) -> None:
        """Their callers left: those that are still in line leave it."""
        for waiting in people:
            if flow := waiting.flow:
                flow.remove(waiting)
                self._levels[flow.priority].forget_if_empty(flow)
                self._size -= 1
                self.cost -= waiting.cost

    def drain(self) -> list[QueuedSample]:
        """Everybody, in the order of arrival."""
        flows = [flow for level in self._levels.values() for flow in level.flows.values()]
        everybody = [waiting for flow in flows for entries in flow.groups.values() for _, _, waiting in entries]
        self.remove(everybody)
        return sorted(everybody, key=lambda waiting: waiting.order)

    def _filled(self, head: QueuedSample, dead: Callable[[QueuedSample], bool], dropped: list[QueuedSample]) -> TakenSamples:
        batch, riders = _GrowingBatch(head, self._budgets[head.group[0]]), list[QueuedSample]()
        sending: list[tuple[PriorityClass, bool, _Offer]] = []
        for level in self._levels.values():
            flows = [flow for flow in level.flows.values() if head.group in flow.groups]
            for due in (True, False):
                offers = [_Offer(flow, batch) for flow in flows if (flow.start <= level.now + self._slack) is due]
                _grow(batch, offers, dead)
                sending += [(level, due, offer) for offer in offers if offer.high > offer.low]
        for level, due, offer in sending:
            self.cost -= offer.flow.cost
            offer.flow.take(head.group, offer.low, offer.high)
            self.cost += offer.flow.cost
            level.charge(offer.flow, offer.spent if due else 0)
            riders += offer.riders
            dropped += offer.dropped
            self._size -= offer.high - offer.low
        return TakenSamples(riders, dropped)


def _nearest_of(first: Sequence[QueuedSample], budget: int) -> list[QueuedSample]:
    """The first, and those nearest to it in length, in the order given where they are equal, as far as the batch's own share
    grows."""
    head = first[0]
    batch, riders = _GrowingBatch(head, budget), [head]
    best, kept = batch.share, 1
    for one in sorted([one for one in first[1:] if one.group == head.group], key=lambda one: abs(one.cost - head.cost)):
        if batch.board(one.cost):
            riders.append(one)
            if batch.share >= best:
                best, kept = batch.share, batch.count
    return riders[:kept]


def _grow(batch: _GrowingBatch, offers: Sequence[_Offer], dead: Callable[[QueuedSample], bool]) -> None:
    """By nearest length to the budget, and cut back to where the batch's own share was largest."""
    heap = [(distance, i, offer) for i, offer in enumerate(offers) if (distance := offer.distance()) < FAR]
    heapify(heap)
    best, kept, log = batch.share, (batch.longest, batch.total, batch.count), []
    while heap:
        _, i, offer = heap[0]
        edge = offer.low, offer.high, len(offer.dropped)
        if offer.widen(batch, dead):
            log.append((offer, edge))
            if (share := batch.share) >= best:
                best, kept = share, (batch.longest, batch.total, batch.count)
                log.clear()
        if (distance := offer.distance()) < FAR:
            heapreplace(heap, (distance, i, offer))
        else:
            heappop(heap)
    batch.longest, batch.total, batch.count = kept
    for offer, edge in reversed(log):
        offer.undo(edge)
