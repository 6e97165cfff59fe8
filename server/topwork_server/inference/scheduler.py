"""Fair queue of samples, and the choice of those that share a batch. Pure bookkeeping: no threads, no clock of its own.

Three choices are made, in this order. Priority: the highest of all samples in the queue, strictly. Client: clients take turns by
what they have cost so far (start-time fair queuing: Goyal, Vin and Cheng, SIGCOMM 1996), so that a stream of a million items
and a caller with one each get their share. Sample: of one client, samples of like size take turns, so that a short text
does not wait for all the long ones before it. That sample's batch is grown by nearest length within a budget: each place goes to
the client that has had least, and lower priorities get the places that are left. Of the batches that grow in this way, the one is
taken that spends the largest share of its time on samples instead of padding.

While deadlines are urgent (deadline_admission.py finds the samples that go `first`), clients with deadlines share their turns:
each turn goes to the first of those samples, and its batch is grown by nearest length among them alone, since any other sample
would make it slower. Clients without deadlines keep the turns that they would have had.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import TypeAlias

from topwork_server.inference.client_queues import ClientQueue, PriorityClass, QueuedSample
from topwork_server.types import Priority

#: Cost of a batch beyond its samples, as a share of its budget: it decides how much padding a fuller batch is worth. The time
#: of a graph over (batch, length) was fitted on 2 cores: 21 tokens in fp32 and 49 in bf16, of a budget of 1024. The server's own
#: share comes on top: of 1/32, 1/16, 1/8 and 1/4, this was the fastest at 64 callers, both in fp32 and in bf16.
OVERHEAD = 1 / 16

#: Samples of less than one part in so many of a budget are of one size; beyond that each doubling makes another.
SIZE_CLASSES = 8

#: A client that is further ahead than this part of a batch fills only the places that others leave, without being charged. Within
#: it, length alone decides: taking turns place by place would cost a third of the throughput in padding.
SLACK = 0.5

#: Farther than any sample.
INFINITELY_FAR = 1 << 62

#: Extent of an offer: its range of entries, and how many of those passed had expired.
_Edge: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class TakenSamples:
    """A batch, and the expired samples that were met while it was chosen."""

    batch: list[QueuedSample]
    dropped: list[QueuedSample]


class _GrowingBatch:
    """A batch under construction. A single sample may exceed the budget."""

    def __init__(self, head: QueuedSample, budget: int) -> None:
        self.head, self.budget = head, budget
        self._overhead = budget * OVERHEAD
        self.longest = self.total = head.cost
        self.count = 1

    def add(self, cost: int) -> bool:
        """Add a sample of this cost; False where it does not fit."""
        longest, count = max(self.longest, cost), self.count + 1
        if longest * count > self.budget:
            return False
        self.longest, self.count = longest, count
        self.total += cost
        return True

    @property
    def useful_share(self) -> float:
        """Share of the batch's time that is spent on samples instead of padding and overhead."""
        return self.total / (self._overhead + self.longest * self.count)


class _Offer:
    """One client's samples for a batch: a range around the length of the batch's head, which widens to the nearest sample."""

    def __init__(self, queue: ClientQueue, batch: _GrowingBatch) -> None:
        head = batch.head
        self.queue, self._origin = queue, head.cost
        self._entries = queue.groups[head.group]
        self.low = self.high = bisect_left(self._entries, (head.cost, head.order if head.queue is queue else 0))
        self._lowest, self._highest = 0, len(self._entries)
        self.samples: list[QueuedSample] = []
        self.dropped: list[QueuedSample] = []
        self.cost, self._right = 0, False
        if head.queue is queue:
            self._add(head, right=True)

    def undo(self, edge: _Edge) -> None:
        """Put the sample that was added last back into the queue."""
        self.low, self.high, dropped = edge
        self.cost -= self.samples.pop().cost
        del self.dropped[dropped:]

    def distance(self) -> int:
        """Difference in length to the nearest sample outside the range; INFINITELY_FAR where there is none."""
        entries, low, high = self._entries, self.low, self.high
        left = self._origin - entries[low - 1][0] if low > self._lowest else INFINITELY_FAR
        right = entries[high][0] - self._origin if high < self._highest else INFINITELY_FAR
        self._right = right < left
        return right if self._right else left

    def widen(self, batch: _GrowingBatch, is_expired: Callable[[QueuedSample], bool]) -> bool:
        """Widen to the nearest sample, as `distance` found it; True if it joined the batch. Beyond one that does not fit, none
        fits."""
        cost, _, sample = self._entries[self.high if self._right else self.low - 1]
        if is_expired(sample):
            self.dropped.append(sample)
            self._advance(self._right)
        elif batch.add(cost):
            self._add(sample, self._right)
            return True
        elif self._right:
            self._highest = self.high
        else:
            self._lowest = self.low
        return False

    def _add(self, sample: QueuedSample, right: bool) -> None:
        self.samples.append(sample)
        self.cost += sample.cost
        self._advance(right)

    def _advance(self, right: bool) -> None:
        if right:
            self.high += 1
        else:
            self.low -= 1


class FairBatchScheduler:
    """Fair queue of samples. `budgets` (one a backend) bound count x longest of a batch."""

    def __init__(self, budgets: Sequence[int]) -> None:
        self._budgets = budgets
        self._slack = budgets[0] * SLACK
        self._classes = {priority: PriorityClass(priority) for priority in sorted(Priority, reverse=True)}
        self._arrivals = 0
        self._size = 0
        self.cost = 0  # of all samples in the queue

    def __len__(self) -> int:
        return self._size

    def push(self, samples: Sequence[QueuedSample], client: Hashable = None, priority: Priority = Priority.NORMAL) -> None:
        """Add one request's samples."""
        if not samples:
            return
        queue = self._classes[priority].queue_of(client, self._arrivals)
        for sample in samples:
            self._arrivals += 1
            sample.order = self._arrivals
            queue.push(sample, (sample.cost * SIZE_CLASSES // self._budgets[sample.group[0]]).bit_length())
        self._size += len(samples)
        self.cost += sum([sample.cost for sample in samples])

    def cost_above(self, priority: Priority) -> int:
        """Cost of the samples that wait at higher priorities."""
        return sum([level.cost for other, level in self._classes.items() if other > priority])

    def count_queues(self, priority: Priority) -> tuple[int, int]:
        """Count the clients with deadlines, and those without."""
        timed = [queue.timed > 0 for queue in self._classes[priority].queues.values()]
        return sum(timed), len(timed) - sum(timed)

    def take_batch(self, is_expired: Callable[[QueuedSample], bool], first: Sequence[QueuedSample] = ()) -> TakenSamples:
        """Take the next batch out of the queue, with the expired samples that were met on the way. `first` are samples in the
        queue, of one priority, whose deadlines are urgent, by deadline."""
        dropped: list[QueuedSample] = []
        for level in self._classes.values():
            urgent = bool(first) and first[0].queue in level.queues.values()
            if not urgent:
                level.end_urgency()
            elif level.is_turn_of_timed():
                return self._take_urgent(level, first)
            while any(not queue.timed for queue in level.queues.values()) if urgent else level.queues:
                head = level.next_queue(self._slack, timed=not urgent).next_sample(self._arrivals)
                if not is_expired(head):
                    return self._fill_batch(head, is_expired, dropped)
                self.remove([head])
                dropped.append(head)
        return TakenSamples([], dropped)

    def _take_urgent(self, level: PriorityClass, first: Sequence[QueuedSample]) -> TakenSamples:
        """Take a batch around the first of the urgent samples."""
        samples = _nearest_of(first, self._budgets[first[0].group[0]])
        cost = sum([sample.cost for sample in samples])
        level.charge_timed(cost)
        for sample in samples:
            queue = sample.queue
            assert queue is not None
            queue.remove(sample)
            level.charge(queue, sample.cost)
        self._size -= len(samples)
        self.cost -= cost
        return TakenSamples(samples, [])

    def remove(self, samples: Iterable[QueuedSample]) -> None:
        """Remove those of the samples that are still in the queue."""
        for sample in samples:
            if queue := sample.queue:
                queue.remove(sample)
                self._classes[queue.priority].drop_if_empty(queue)
                self._size -= 1
                self.cost -= sample.cost

    def drain(self) -> list[QueuedSample]:
        """Remove and return all samples, in the order of arrival."""
        queues = [queue for level in self._classes.values() for queue in level.queues.values()]
        samples = [sample for queue in queues for entries in queue.groups.values() for _, _, sample in entries]
        self.remove(samples)
        return sorted(samples, key=lambda sample: sample.order)

    def _fill_batch(
        self, head: QueuedSample, is_expired: Callable[[QueuedSample], bool], dropped: list[QueuedSample]
    ) -> TakenSamples:
        batch, samples = _GrowingBatch(head, self._budgets[head.group[0]]), list[QueuedSample]()
        sending: list[tuple[PriorityClass, bool, _Offer]] = []
        for level in self._classes.values():
            queues = [queue for queue in level.queues.values() if head.group in queue.groups]
            for due in (True, False):
                offers = [_Offer(queue, batch) for queue in queues if (queue.virtual_start <= level.now + self._slack) is due]
                _grow(batch, offers, is_expired)
                sending += [(level, due, offer) for offer in offers if offer.high > offer.low]
        for level, due, offer in sending:
            self.cost -= offer.queue.cost
            offer.queue.remove_range(head.group, offer.low, offer.high)
            self.cost += offer.queue.cost
            level.charge(offer.queue, offer.cost if due else 0)
            samples += offer.samples
            dropped += offer.dropped
            self._size -= offer.high - offer.low
        return TakenSamples(samples, dropped)


def _nearest_of(first: Sequence[QueuedSample], budget: int) -> list[QueuedSample]:
    """Return the first sample and those nearest to it in length (in the order given where equal), as long as the useful share
    grows."""
    head = first[0]
    batch, samples = _GrowingBatch(head, budget), [head]
    best, kept = batch.useful_share, 1
    for one in sorted([one for one in first[1:] if one.group == head.group], key=lambda one: abs(one.cost - head.cost)):
        if batch.add(one.cost):
            samples.append(one)
            if batch.useful_share >= best:
                best, kept = batch.useful_share, batch.count
    return samples[:kept]


def _grow(batch: _GrowingBatch, offers: Sequence[_Offer], is_expired: Callable[[QueuedSample], bool]) -> None:
    """Add samples by nearest length up to the budget, then cut back to where the useful share was largest."""
    heap = [(distance, i, offer) for i, offer in enumerate(offers) if (distance := offer.distance()) < INFINITELY_FAR]
    heapify(heap)
    best, kept, log = batch.useful_share, (batch.longest, batch.total, batch.count), []
    while heap:
        _, i, offer = heap[0]
        edge = offer.low, offer.high, len(offer.dropped)
        if offer.widen(batch, is_expired):
            log.append((offer, edge))
            if (share := batch.useful_share) >= best:
                best, kept = share, (batch.longest, batch.total, batch.count)
                log.clear()
        if (distance := offer.distance()) < INFINITELY_FAR:
            heapreplace(heap, (distance, i, offer))
        else:
            heappop(heap)
    batch.longest, batch.total, batch.count = kept
    for offer, edge in reversed(log):
        offer.undo(edge)
