"""Admission and order of requests with deadlines. Pure bookkeeping, with the clock passed in.

Shared turn by turn, too many requests with deadlines would all be begun and none be done in time. So each is admitted only
where it, and those admitted before it, can be done (the test of earliest deadline first: Liu and Layland, JACM 20(1), 1973), by
the measured throughput of the session. While all have time to spare, their clients take turns as ever; when time gets short, the
earliest deadline is finished first. A client that asks for more than others gives way: its last requests that are not begun are
evicted for one of a client that would still have less.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from topwork_server.errors import DeadlineExceeded, Overloaded, TopworkError
from topwork_server.types import Priority

#: Reserve beyond the predicted time: GUARD of it, and between LEAST_GUARD and MOST_GUARD batches: more with each request that is
#: begun and not done in time, less with each that is. Samples of unlike lengths take turns with those of later requests.
GUARD, LEAST_GUARD, MOST_GUARD, MORE_GUARD, LESS_GUARD = 0.02, 1.0, 8.0, 1.0, 0.003
#: Further reserve under overload: CROWDED batches more with each request that is refused, CALM less with each that comes while
#: there is time to spare, none once the queue is empty. Under overload other requests fill the reserve, and batches, chosen from
#: more requests, have less padding. The reserve is never more than GUARD_SHARE of a request's own time.
CROWDED, CALM, MOST_CROWDED, GUARD_SHARE = 0.2, 0.5, 8.0, 0.5
#: Deadlines are urgent where the time to spare is less than SPARE times the work before them, or than SPARE_BATCHES batches.
SPARE, SPARE_BATCHES = 1.0, 12.0
#: A request is hopeless where it alone would take so many times the time that it has left.
HOPELESS = 1.25
#: Weight of past measurements with each full batch.
KEEP = 0.9


@dataclass(eq=False, slots=True)
class TimedRequest:
    """A caller's request with a deadline, in seconds of the clock. It has `items` items, of which `submitted` have known samples;
    those cost `cost`, of which `cost_left` is not done. `error` is set once the request is refused."""

    deadline: float
    items: int
    submitted: int = 0
    cost: int = 0
    cost_left: int = 0
    backend: int = 0
    client: Hashable = None
    priority: Priority = Priority.NORMAL
    begun: bool = False
    error: TopworkError | None = None

    @property
    def remaining_cost(self) -> float:
        """Cost that is not done; items that are not submitted yet are taken to cost as much as those before them."""
        return self.cost_left + self.cost / max(self.submitted, 1) * max(self.items - self.submitted, 0)


class ServiceRate:
    """Measured throughput of a busy session, in cost a second; unknown (0 seconds) before its first full batch."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._cost = self._seconds = self._batches = 0.0

    def record_batch(self, cost: int, filled: int, seconds: float) -> None:
        """Record a batch that filled so much of its budget, padding included; one below half a budget is ignored."""
        if 2 * filled >= self._budget:
            self._cost = KEEP * self._cost + cost
            self._seconds = KEEP * self._seconds + seconds
            self._batches = KEEP * self._batches + 1

    @property
    def batch_seconds(self) -> float:
        """Seconds of a full batch."""
        return self._seconds / self._batches if self._batches else 0.0

    def seconds_for(self, cost: float) -> float:
        return cost * self._seconds / self._cost if self._cost else 0.0


@dataclass(frozen=True, slots=True)
class CompetingWork:
    """Other work in the queue: `ahead` is the cost of higher priorities, `share` the part of the session that clients without
    deadlines leave to those with deadlines."""

    ahead: float = 0.0
    share: float = 1.0


_Entry: TypeAlias = tuple[float, int, TimedRequest]


class DeadlineAdmission:
    """Requests with deadlines of one priority. `rates` holds one a backend. One thread at a time."""

    def __init__(self, rates: Sequence[ServiceRate]) -> None:
        self._rates = rates
        self._entries: list[_Entry] = []  # by deadline, then by arrival
        self._count = 0
        self._guard, self._crowded = LEAST_GUARD, 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def is_calm(self, now: float, waiting: float, until: float = math.inf) -> bool:
        """True if all waiting work is done well before the earliest deadline, and before `until`, in any order."""
        earliest = min(until, self._entries[0][0] if self._entries else math.inf)
        if earliest == math.inf:
            return True
        longest = max([rate.seconds_for(waiting) * (1 + SPARE) + rate.batch_seconds * SPARE_BATCHES for rate in self._rates])
        return now + longest < earliest

    def add(self, new: TimedRequest) -> None:
        self._count += 1
        insort(self._entries, (new.deadline, self._count, new))

    def remove(self, request: TimedRequest, now: float) -> None:
        """Remove a request that is done or refused, and adapt the reserve."""
        late = request.begun and (request.error is not None or now > request.deadline)
        guard = self._guard + MORE_GUARD if late else self._guard - LESS_GUARD
        self._guard = min(max(guard, LEAST_GUARD), MOST_GUARD)
        for at in range(bisect_left(self._entries, request.deadline, key=lambda entry: entry[0]), len(self._entries)):
            if self._entries[at][2] is request:
                del self._entries[at]
                return

    def keep_less_free(self, *, idle: bool) -> None:
        """Lower the reserve, as a request came while there was time to spare. `idle`: nothing waits, so a reserve would be
        wasted."""
        self._crowded = 0.0 if idle else max(self._crowded - CALM, 0.0)

    def check_alone(self, new: TimedRequest, now: float) -> None:
        """DeadlineExceeded where the request alone takes longer than it has."""
        if (alone := self._seconds(new)) > HOPELESS * (new.deadline - now):
            raise _hopeless(alone)

    def make_room(self, new: TimedRequest, now: float, competing: CompetingWork) -> list[TimedRequest]:
        """Choose the requests that must give way so that the new one and the others are done in time; their errors are set.
        Overloaded where that is not possible."""
        lateness = self._lateness(new, now, competing)
        if lateness <= 0:
            return []
        evicted = self._evictable(new, lateness * competing.share)
        if not evicted or self._lateness(new, now, competing, frozenset(evicted)) > 0:
            self._crowded = min(self._crowded + CROWDED, MOST_CROWDED)
            raise _overloaded(lateness)
        for request in evicted:
            request.error = _overloaded(self._seconds(request))
        return evicted

    def find_late(self, now: float, competing: CompetingWork) -> list[TimedRequest]:
        """Find requests that cannot be done in time any more, and set their errors: begun ones where they alone take too long,
        others also where too much goes before them."""
        late, at = list[TimedRequest](), now + self._seconds_ahead(competing)
        for deadline, _, request in self._entries:
            alone = self._seconds(request)
            end = at + alone / competing.share
            if alone > HOPELESS * max(deadline - now, 0):
                request.error = _hopeless(alone)
            elif not request.begun and end - now > HOPELESS * (deadline - now):
                request.error = _overloaded(end - deadline)
            else:
                at = end
                continue
            late.append(request)
        return late

    def find_urgent(self, now: float, competing: CompetingWork) -> list[TimedRequest]:
        """Find requests to be finished first, by deadline, up to the last one that has little time to spare."""
        found, at, urgent = list[TimedRequest](), now + self._seconds_ahead(competing), 0
        for deadline, _, request in self._entries:
            at += self._seconds(request) / competing.share
            found.append(request)
            if at + max(SPARE * (at - now), SPARE_BATCHES * self._rates[request.backend].batch_seconds) >= deadline:
                urgent = len(found)
        return found[:urgent]

    def _seconds(self, request: TimedRequest) -> float:
        return self._rates[request.backend].seconds_for(request.remaining_cost)

    def _seconds_ahead(self, competing: CompetingWork) -> float:
        return self._rates[0].seconds_for(competing.ahead)

    def _lateness(
        self, new: TimedRequest, now: float, competing: CompetingWork, without: frozenset[TimedRequest] = frozenset()
    ) -> float:
        """Seconds by which the new request would be late, or would make another late that is in time without it."""
        own, at, worst, came = self._seconds(new) / competing.share, now + self._seconds_ahead(competing), -math.inf, False
        for deadline, _, request in [*self._entries, (math.inf, 0, new)]:
            if not came and (request is new or new.deadline < deadline):
                came, at = True, at + own
                worst = max(worst, self._excess_seconds(new, at - now, new.deadline - now))
            if request is not new and request not in without:
                at += self._seconds(request) / competing.share
                over = self._excess_seconds(request, at - now, deadline - now)
                if came and over < own:  # else it is too late without the new one, too
                    worst = max(worst, over)
        return worst

    def _excess_seconds(self, request: TimedRequest, taken: float, left: float) -> float:
        """Seconds by which `taken`, with the reserve, exceeds the time that is `left`."""
        batch = self._rates[request.backend].batch_seconds
        guard = max(min((self._guard + self._crowded) * batch, GUARD_SHARE * left), LEAST_GUARD * batch)
        return taken * (1 + GUARD) + guard - left

    def _evictable(self, new: TimedRequest, seconds: float) -> list[TimedRequest]:
        """The last requests, not begun, of the client that has most, which free so many seconds; none where it would then have
        less than the new one's client."""
        held: dict[Hashable, float] = {}
        for _, _, request in self._entries:
            held[request.client] = held.get(request.client, 0.0) + request.remaining_cost
        cost_of_new = held.pop(new.client, 0.0) + new.remaining_cost
        heaviest = max(held, key=lambda client: held[client], default=None)
        left, evicted = held.get(heaviest, 0.0), list[TimedRequest]()
        for _, _, request in reversed(self._entries):
            if seconds <= 0:
                return evicted
            if request.client == heaviest and not request.begun and left - request.remaining_cost >= cost_of_new:
                left -= request.remaining_cost
                seconds -= self._seconds(request)
                evicted.append(request)
        return evicted if seconds <= 0 else []


def _overloaded(seconds: float) -> Overloaded:
    wait = max(seconds, 0.1)
    return Overloaded(
        "there is too much to do to finish this request within its deadline",
        remedy=f"try again in about {wait:.1f} s, or allow more time",
        retry_after=wait,
    )


def _hopeless(seconds: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the request takes about {seconds:.1f} s by itself, which is more than its deadline leaves",
        remedy="allow more time, or send less at once",
    )
