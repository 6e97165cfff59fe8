"""Requests that have to be done by a time: which can be, and which go first. Bookkeeping, with the clock passed in.

Shared turn by turn, too many requests with deadlines would all be begun and none be done in time. So each is admitted only
where it, and those admitted before it, can be done (the test of earliest deadline first: Liu and Layland, JACM 20(1), 1973), by
what the session was seen to get done in a second. While all have time to spare, their flows take turns as ever; where time gets
short, the earliest deadline is finished first. A flow that asks for more than others gives way: its last requests that are not
begun are put out for one of a flow that would still have less.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from topwork_server.errors import DeadlineExceeded, Overloaded, TopworkError
from topwork_server.types import Priority

#: Of the time that is foreseen, so much more is kept free, and between so many batches: more with each request that is begun and
#: not done in time, less with each that is. Samples of unlike lengths take turns with those of later requests.
GUARD, LEAST_GUARD, MOST_GUARD, MORE_GUARD, LESS_GUARD = 0.02, 1.0, 8.0, 1.0, 0.003
#: So many batches more with each request that is refused, and less with each that comes while there is time to spare; none once
#: nothing waits. While more comes than can be done others fill what is kept free, and batches, chosen from more requests, have
#: less padding. In all never more than this share of a request's own time.
CROWDED, CALM, MOST_CROWDED, GUARD_SHARE = 0.2, 0.5, 8.0, 0.5
#: Deadlines are urgent where less time than so many times that of the work up to them is left to spare, or than so many batches.
SPARE, SPARE_BATCHES = 1.0, 12.0
#: A request is hopeless where by itself it would take so many times the time that it has left.
HOPELESS = 1.25
#: Of what was measured, so much is kept with each full batch.
KEEP = 0.9


@dataclass(eq=False, slots=True)
class TimedRequest:
    """One caller's request with a deadline, in seconds of the clock. `items` are in all, `submitted` those whose samples are
    known, which cost `cost`, of which `left` is not done. `error` says why it will not be done, once that is decided."""

    deadline: float
    items: int
    submitted: int = 0
    cost: int = 0
    left: int = 0
    lane: int = 0
    flow: Hashable = None
    priority: Priority = Priority.NORMAL
    begun: bool = False
    error: TopworkError | None = None

    @property
    def work(self) -> float:
        """The cost of what is not done; items that are not submitted yet cost what those before them did."""
        return self.left + self.cost / max(self.submitted, 1) * max(self.items - self.submitted, 0)


class ServiceRate:
    """How much cost a session gets done in a second where it is kept busy; nothing is known before its first full batch."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._cost = self._seconds = self._batches = 0.0

    def measured(self, cost: int, filled: int, seconds: float) -> None:
        """A batch that filled so much of its budget, padding included. One of less than half a budget says little."""
        if 2 * filled >= self._budget:
            self._cost = KEEP * self._cost + cost
            self._seconds = KEEP * self._seconds + seconds
            self._batches = KEEP * self._batches + 1

    @property
    def batch(self) -> float:
        """Seconds that a full batch takes."""
        return self._seconds / self._batches if self._batches else 0.0

    def seconds(self, cost: float) -> float:
        return cost * self._seconds / self._cost if self._cost else 0.0


@dataclass(frozen=True, slots=True)
class CompetingWork:
    """What else waits: `ahead` is the cost of higher priorities, and `share` the part of the session that flows without deadlines
    leave to those with."""

    ahead: float = 0.0
    share: float = 1.0


_Entry: TypeAlias = tuple[float, int, TimedRequest]


class DeadlineAdmission:
    """The requests with deadlines of one priority. `paces` are those of the lanes. One thread at a time."""

    def __init__(self, paces: Sequence[ServiceRate]) -> None:
        self._paces = paces
        self._entries: list[_Entry] = []  # by deadline, then by arrival
        self._count = 0
        self._guard, self._crowded = LEAST_GUARD, 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def is_calm(self, now: float, waiting: float, until: float = math.inf) -> bool:
        """Whether all that waits is done well before the earliest deadline, and before `until`, in whatever order."""
        earliest = min(until, self._entries[0][0] if self._entries else math.inf)
        if earliest == math.inf:
            return True
        longest = max([pace.seconds(waiting) * (1 + SPARE) + pace.batch * SPARE_BATCHES for pace in self._paces])
        return now + longest < earliest

    def add(self, new: TimedRequest) -> None:
        self._count += 1
        insort(self._entries, (new.deadline, self._count, new))

    def forget(self, request: TimedRequest, now: float) -> None:
        """It is done, or given up."""
        late = request.begun and (request.error is not None or now > request.deadline)
        guard = self._guard + MORE_GUARD if late else self._guard - LESS_GUARD
        self._guard = min(max(guard, LEAST_GUARD), MOST_GUARD)
        for at in range(bisect_left(self._entries, request.deadline, key=lambda entry: entry[0]), len(self._entries)):
            if self._entries[at][2] is request:
                del self._entries[at]
                return

    def keep_less_free(self, *, idle: bool) -> None:
        """A request has come for which no room is to be made. `idle`: nothing waits, so that time kept free would be lost."""
        self._crowded = 0.0 if idle else max(self._crowded - CALM, 0.0)

    def check_alone(self, new: TimedRequest, now: float) -> None:
        """DeadlineExceeded where the request takes longer by itself than it has."""
        if (alone := self._seconds(new)) > HOPELESS * (new.deadline - now):
            raise _hopeless(alone)

    def make_room(self, new: TimedRequest, now: float, beside: CompetingWork) -> list[TimedRequest]:
        """The requests that have to give way so that the new one and the others are done in time, each with its error. Overloaded
        where none can."""
        lateness = self._lateness(new, now, beside)
        if lateness <= 0:
            return []
        put_out = self._victims(new, lateness * beside.share)
        if not put_out or self._lateness(new, now, beside, frozenset(put_out)) > 0:
            self._crowded = min(self._crowded + CROWDED, MOST_CROWDED)
            raise _overloaded(lateness)
        for victim in put_out:
            victim.error = _overloaded(self._seconds(victim))
        return put_out

    def late(self, now: float, beside: CompetingWork) -> list[TimedRequest]:
        """Those that cannot be done in time any more, with their errors: begun ones where they alone take too long, others also
        where too much goes before them."""
        late, at = list[TimedRequest](), now + self._ahead(beside)
        for deadline, _, request in self._entries:
            alone = self._seconds(request)
            end = at + alone / beside.share
            if alone > HOPELESS * max(deadline - now, 0):
                request.error = _hopeless(alone)
            elif not request.begun and end - now > HOPELESS * (deadline - now):
                request.error = _overloaded(end - deadline)
            else:
                at = end
                continue
            late.append(request)
        return late

    def urgent(self, now: float, beside: CompetingWork) -> list[TimedRequest]:
        """Those to be finished first, earliest deadline first: up to the last one that has little time to spare."""
        found, at, urgent = list[TimedRequest](), now + self._ahead(beside), 0
        for deadline, _, request in self._entries:
            at += self._seconds(request) / beside.share
            found.append(request)
            if at + max(SPARE * (at - now), SPARE_BATCHES * self._paces[request.lane].batch) >= deadline:
                urgent = len(found)
        return found[:urgent]

    def _seconds(self, request: TimedRequest) -> float:
        return self._paces[request.lane].seconds(request.work)

    def _ahead(self, beside: CompetingWork) -> float:
        return self._paces[0].seconds(beside.ahead)

    def _lateness(
        self, new: TimedRequest, now: float, beside: CompetingWork, without: frozenset[TimedRequest] = frozenset()
    ) -> float:
        """How much too late the new request would be, or would make another that is in time without it."""
        own, at, worst, came = self._seconds(new) / beside.share, now + self._ahead(beside), -math.inf, False
        for deadline, _, request in [*self._entries, (math.inf, 0, new)]:
            if not came and (request is new or new.deadline < deadline):
                came, at = True, at + own
                worst = max(worst, self._over(new, at - now, new.deadline - now))
            if request is not new and request not in without:
                at += self._seconds(request) / beside.share
                over = self._over(request, at - now, deadline - now)
                if came and over < own:  # else it is too late without the new one, too
                    worst = max(worst, over)
        return worst

    def _over(self, request: TimedRequest, taken: float, left: float) -> float:
        """How much too late it is done after so much time, with what is to be kept free, where so much is left."""
        batch = self._paces[request.lane].batch
        guard = max(min((self._guard + self._crowded) * batch, GUARD_SHARE * left), LEAST_GUARD * batch)
        return taken * (1 + GUARD) + guard - left

    def _victims(self, new: TimedRequest, seconds: float) -> list[TimedRequest]:
        """The last requests, not begun, of the flow that has most, which take so long: none where it would then have less than
        the new one's flow."""
        held: dict[Hashable, float] = {}
        for _, _, request in self._entries:
            held[request.flow] = held.get(request.flow, 0.0) + request.work
        of_new = held.pop(new.flow, 0.0) + new.work
        most = max(held, key=lambda flow: held[flow], default=None)
        left, victims = held.get(most, 0.0), list[TimedRequest]()
        for _, _, request in reversed(self._entries):
            if seconds <= 0:
                return victims
            if request.flow == most and not request.begun and left - request.work >= of_new:
                left -= request.work
                seconds -= self._seconds(request)
                victims.append(request)
        return victims if seconds <= 0 else []


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
