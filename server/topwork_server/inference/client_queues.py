"""Who shares a session: flows, and each one's samples. Bookkeeping for the line (waiting.py)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TypeAlias

from topwork_server.types import Priority

#: Which of the line's budgets counts (the lane), and what else the members of one batch have in common.
Group: TypeAlias = tuple[int, Hashable]
#: (cost, order, who): sorted, so that the nearest in length are neighbours.
Entry: TypeAlias = "tuple[int, int, QueuedSample]"

#: Emptied flows whose costs are remembered.
REMEMBERED = 1000


@dataclass(eq=False, slots=True)
class QueuedSample:
    """One sample in line. `group`: only members of one group can share a batch. `timed`: of a request that has a deadline."""

    cost: int
    group: Group
    timed: bool = field(default=False, kw_only=True)
    order: int = field(default=0, init=False)
    flow: ClientQueue | None = field(default=None, init=False)
    size: int = field(default=0, init=False)

    @property
    def gone(self) -> bool:
        """Not in line: it has left, or has not come yet."""
        return self.flow is None


class ClientQueue:
    """Those of one sharer and one priority. `start` is what the flow has cost, in the line's virtual time; `since` is when it
    came, or last had a turn, in arrivals."""

    def __init__(self, name: Hashable, priority: Priority, start: float, since: int) -> None:
        self.name, self.priority, self.start, self.since = name, priority, start, since
        self.count = self.cost = self.timed = 0
        self.groups: dict[Group, list[Entry]] = {}
        self._turns: list[Entry] = []  # a heap of (turn, order, who); the gone lie in it until they come up
        self._now = 0
        self._ends: dict[int, int] = {}

    def push(self, waiting: QueuedSample, size: int) -> None:
        """Samples of one `size` stand in one row, and the rows take turns by cost."""
        turn = max(self._now, self._ends.get(size, 0))
        self._ends[size] = turn + waiting.cost
        waiting.flow, waiting.size = self, size
        heappush(self._turns, (turn, waiting.order, waiting))
        insort(self.groups.setdefault(waiting.group, []), (waiting.cost, waiting.order, waiting))
        self.count += 1
        self.cost += waiting.cost
        self.timed += waiting.timed

    def first(self, since: int) -> QueuedSample:
        """Whose turn it is now. The flow is not empty."""
        self.since = since
        while self._turns[0][2].flow is not self:
            heappop(self._turns)
        self._now = max(self._now, self._turns[0][0])
        return self._turns[0][2]

    def take(self, group: Group, low: int, high: int) -> None:
        entries = self.groups[group]
        for _, _, waiting in entries[low:high]:
            waiting.flow = None
            self.cost -= waiting.cost
            self.timed -= waiting.timed
        del entries[low:high]
        if not entries:
            del self.groups[group]
        self.count -= high - low
        if len(self._turns) > 2 * self.count + 64:  # amortised: the gone do not stay, with the samples that they hold
            self._turns = [entry for entry in self._turns if entry[2].flow is self]
            heapify(self._turns)

    def remove(self, waiting: QueuedSample) -> None:
        """Its caller left: its row is not charged for it."""
        at = bisect_left(self.groups[waiting.group], (waiting.cost, waiting.order))
        self._ends[waiting.size] -= waiting.cost
        self.take(waiting.group, at, at + 1)


class PriorityClass:
    """All flows of one priority."""

    def __init__(self, priority: Priority) -> None:
        self._priority = priority
        self.flows: dict[Hashable, ClientQueue] = {}
        self._emptied: dict[Hashable, float] = {}
        self._timed: float | None = None
        self.now = 0.0

    def flow(self, name: Hashable, since: int) -> ClientQueue:
        found = self.flows.get(name)
        if found is None:
            found = self.flows[name] = ClientQueue(name, self._priority, max(self.now, self._emptied.pop(name, 0.0)), since)
        return found

    @property
    def cost(self) -> int:
        """Of all that waits."""
        return sum([flow.cost for flow in self.flows.values()])

    def next(self, slack: float, *, timed: bool = True) -> ClientQueue:
        """Of those who have had least, give or take `slack`, the one that has waited longest for a turn. There is one. Without
        `timed`, of those that have no deadlines."""
        flows = [flow for flow in self.flows.values() if timed or not flow.timed]
        self.now = min([flow.start for flow in flows])
        return min([flow for flow in flows if flow.start <= self.now + slack], key=lambda flow: flow.since)

    def is_turn_of_timed(self) -> bool:
        """Whether flows with deadlines, which share their turns while these are urgent, come before those without."""
        others = [flow.start for flow in self.flows.values() if not flow.timed]
        if not others:
            self._timed = None
            return True
        if self._timed is None:
            self._timed = min(others)
        return self._timed <= min(others)

    def charge_timed(self, cost: int) -> None:
        """A turn that flows with deadlines shared."""
        if self._timed is not None:
            self._timed += cost / max(1, sum([flow.timed > 0 for flow in self.flows.values()]))

    def end_urgency(self) -> None:
        self._timed = None

    def charge(self, flow: ClientQueue, cost: int) -> None:
        flow.start += cost
        self.forget_if_empty(flow)

    def forget_if_empty(self, flow: ClientQueue) -> None:
        """What it has cost is kept for a while, so that nobody gains by coming anew."""
        if flow.count:
            return
        del self.flows[flow.name]
        if flow.start > self.now:
            if len(self._emptied) >= REMEMBERED:
                self._emptied.clear()
            self._emptied[flow.name] = flow.start
