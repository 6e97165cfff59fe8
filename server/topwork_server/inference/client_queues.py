"""Queues of the clients that share a session, one a client and priority. Bookkeeping for the scheduler."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TypeAlias

from topwork_server.types import Priority

#: Index of the backend, whose budget counts, and the batch key that the members of one batch have in common.
Group: TypeAlias = tuple[int, Hashable]
#: (cost, order, sample): sorted, so that the nearest in length are neighbors.
Entry: TypeAlias = "tuple[int, int, QueuedSample]"

#: Emptied queues whose costs are remembered.
REMEMBERED = 1000


@dataclass(eq=False, slots=True)
class QueuedSample:
    """One sample that waits. Only members of one `group` can share a batch. `timed`: its request has a deadline."""

    cost: int
    group: Group
    timed: bool = field(default=False, kw_only=True)
    order: int = field(default=0, init=False)
    queue: ClientQueue | None = field(default=None, init=False)
    size_class: int = field(default=0, init=False)

    @property
    def dequeued(self) -> bool:
        """True while the sample is in no queue: already removed, or not yet added."""
        return self.queue is None


class ClientQueue:
    """Samples of one client and one priority. `virtual_start` is what the client has cost, in the scheduler's virtual time;
    `last_turn` is when it came or last had a turn, counted in arrivals."""

    def __init__(self, client: Hashable, priority: Priority, virtual_start: float, arrivals: int) -> None:
        self.client, self.priority, self.virtual_start, self.last_turn = client, priority, virtual_start, arrivals
        self.count = self.cost = self.timed = 0
        self.groups: dict[Group, list[Entry]] = {}
        self._turns: list[Entry] = []  # heap of (turn, order, sample); removed ones lie in it until they come up
        self._now = 0
        self._ends: dict[int, int] = {}

    def push(self, sample: QueuedSample, size: int) -> None:
        """Add a sample. Samples of one `size` stand in one row, and the rows take turns by cost."""
        turn = max(self._now, self._ends.get(size, 0))
        self._ends[size] = turn + sample.cost
        sample.queue, sample.size_class = self, size
        heappush(self._turns, (turn, sample.order, sample))
        insort(self.groups.setdefault(sample.group, []), (sample.cost, sample.order, sample))
        self.count += 1
        self.cost += sample.cost
        self.timed += sample.timed

    def next_sample(self, arrivals: int) -> QueuedSample:
        """The sample whose turn it is. The queue is not empty."""
        self.last_turn = arrivals
        while self._turns[0][2].queue is not self:
            heappop(self._turns)
        self._now = max(self._now, self._turns[0][0])
        return self._turns[0][2]

    def remove_range(self, group: Group, low: int, high: int) -> None:
        """Remove the group's entries low to high."""
        entries = self.groups[group]
        for _, _, sample in entries[low:high]:
            sample.queue = None
            self.cost -= sample.cost
            self.timed -= sample.timed
        del entries[low:high]
        if not entries:
            del self.groups[group]
        self.count -= high - low
        if len(self._turns) > 2 * self.count + 64:  # amortized: removed samples do not stay in memory
            self._turns = [entry for entry in self._turns if entry[2].queue is self]
            heapify(self._turns)

    def remove(self, sample: QueuedSample) -> None:
        """Remove a canceled sample, without charging its row."""
        at = bisect_left(self.groups[sample.group], (sample.cost, sample.order))
        self._ends[sample.size_class] -= sample.cost
        self.remove_range(sample.group, at, at + 1)


class PriorityClass:
    """All client queues of one priority."""

    def __init__(self, priority: Priority) -> None:
        self._priority = priority
        self.queues: dict[Hashable, ClientQueue] = {}
        self._past_starts: dict[Hashable, float] = {}
        self._timed: float | None = None
        self.now = 0.0

    def queue_of(self, client: Hashable, arrivals: int) -> ClientQueue:
        queue = self.queues.get(client)
        if queue is None:
            start = max(self.now, self._past_starts.pop(client, 0.0))
            queue = self.queues[client] = ClientQueue(client, self._priority, start, arrivals)
        return queue

    @property
    def cost(self) -> int:
        """Cost of all samples that wait."""
        return sum([queue.cost for queue in self.queues.values()])

    def next_queue(self, slack: float, *, timed: bool = True) -> ClientQueue:
        """Among the clients that have had least, give or take `slack`, the one that has waited longest for a turn; there must be
        one. With `timed=False`, only clients without deadlines count."""
        queues = [queue for queue in self.queues.values() if timed or not queue.timed]
        self.now = min([queue.virtual_start for queue in queues])
        return min([queue for queue in queues if queue.virtual_start <= self.now + slack], key=lambda queue: queue.last_turn)

    def is_turn_of_timed(self) -> bool:
        """True if the turn goes to clients with deadlines, which share their turns while these are urgent."""
        others = [queue.virtual_start for queue in self.queues.values() if not queue.timed]
        if not others:
            self._timed = None
            return True
        if self._timed is None:
            self._timed = min(others)
        return self._timed <= min(others)

    def charge_timed(self, cost: int) -> None:
        """Charge a turn that clients with deadlines shared."""
        if self._timed is not None:
            self._timed += cost / max(1, sum([queue.timed > 0 for queue in self.queues.values()]))

    def end_urgency(self) -> None:
        self._timed = None

    def charge(self, queue: ClientQueue, cost: int) -> None:
        queue.virtual_start += cost
        self.drop_if_empty(queue)

    def drop_if_empty(self, queue: ClientQueue) -> None:
        """Drop an empty queue. Its cost is remembered for a while, so that a client gains nothing by coming back."""
        if queue.count:
            return
        del self.queues[queue.client]
        if queue.virtual_start > self.now:
            if len(self._past_starts) >= REMEMBERED:
                self._past_starts.clear()
            self._past_starts[queue.client] = queue.virtual_start
