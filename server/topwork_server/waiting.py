"""Who waits for a session, and who rides together: oldest first, the batch grown by nearest length under a budget and a
padding cap. Pure bookkeeping: no threads, no clock of its own."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, slots=True)
class Waiting:
    """One sample in line. `group`: only members of one group can share a batch. `rider` is the caller's own business."""

    cost: int
    group: Hashable
    rider: Any
    order: int = field(default=0, init=False)
    gone: bool = field(default=False, init=False)


@dataclass(frozen=True, slots=True)
class Taken:
    batch: list[Waiting]
    dropped: list[Waiting]


class Line:
    """`budget` bounds count x longest of a batch (one sample may exceed it alone); `padding` bounds the share of that product
    which is padding, 0 to 1."""

    def __init__(self, budget: int, padding: float) -> None:
        self._budget, self._padding = budget, padding
        self._arrivals: deque[Waiting] = deque()
        self._groups: dict[Hashable, list[tuple[int, int, Waiting]]] = {}
        self._next = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, waiting: Waiting) -> None:
        waiting.order = self._next
        self._next += 1
        self._size += 1
        self._arrivals.append(waiting)
        insort(self._groups.setdefault(waiting.group, []), (waiting.cost, waiting.order, waiting))

    def take(self, dead: Callable[[Waiting], bool]) -> Taken:
        """The next batch, and those met on the way whose callers have left. Both are out of the line."""
        dropped: list[Waiting] = []
        while self._arrivals:
            oldest = self._arrivals.popleft()
            if oldest.gone:
                continue
            group = self._groups[oldest.group]
            at = bisect_left(group, (oldest.cost, oldest.order))
            if dead(oldest):
                dropped += self._remove(oldest.group, at, at + 1)
                continue
            low, high = self._grow(group, at, dead)
            batch: list[Waiting] = []
            for waiting in self._remove(oldest.group, low, high):
                (dropped if waiting is not oldest and dead(waiting) else batch).append(waiting)
            return Taken(batch, dropped)
        return Taken([], dropped)

    def drain(self) -> list[Waiting]:
        """Everybody, in the order of arrival."""
        everybody = [waiting for waiting in self._arrivals if not waiting.gone]
        self._arrivals.clear()
        self._groups.clear()
        self._size = 0
        return everybody

    def _grow(self, group: list[tuple[int, int, Waiting]], at: int, dead: Callable[[Waiting], bool]) -> tuple[int, int]:
        """The range of `group` around `at` that rides: at each step the neighbour of the nearest cost, until none fits."""
        origin = longest = total = group[at][0]
        low, high, count = at, at + 1, 1
        left_open, right_open = True, True
        while (left_open and low > 0) or (right_open and high < len(group)):
            left = origin - group[low - 1][0] if left_open and low > 0 else None
            right = group[high][0] - origin if right_open and high < len(group) else None
            go_left = right is None or (left is not None and left <= right)
            candidate = group[low - 1 if go_left else high]
            if not dead(candidate[2]):
                if not self._fits(max(longest, candidate[0]), total + candidate[0], count + 1):
                    left_open, right_open = left_open and not go_left, right_open and go_left
                    continue
                longest, total, count = max(longest, candidate[0]), total + candidate[0], count + 1
            low, high = (low - 1, high) if go_left else (low, high + 1)
        return low, high

    def _fits(self, longest: int, total: int, count: int) -> bool:
        return longest * count <= self._budget and 1 - total / (longest * count) <= self._padding

    def _remove(self, name: Hashable, low: int, high: int) -> list[Waiting]:
        group = self._groups[name]
        taken = [waiting for _, _, waiting in group[low:high]]
        del group[low:high]
        if not group:
            del self._groups[name]
        for waiting in taken:
            waiting.gone = True
        self._size -= len(taken)
        return taken
