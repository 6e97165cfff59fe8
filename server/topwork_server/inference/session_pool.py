"""The ways in which a batcher computes its graph, and the sessions that they stand on: opened on first use, and anew after one
died."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from topwork_server.errors import TopworkError, Unavailable
from topwork_server.runtime.session import RunnableSession
from topwork_server.types import Array, Numerics


@dataclass(frozen=True)
class Backend:
    """One device's way of computing the graph, and how near it is to the reference. `open` gives one session, or one a GPU."""

    numerics: Numerics
    open: Callable[[], Sequence[RunnableSession]]


class SessionSlot:
    """A session, and a gate for as many threads as it takes at once."""

    def __init__(self, session: RunnableSession) -> None:
        self.session = session
        self._gate = threading.Semaphore(session.workers)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        with self._gate:
            return self.session.run(outputs, feeds)


class SessionPool:
    """Lane 0 is opened at once, the others when they are first needed. From any thread."""

    def __init__(self, lanes: Sequence[Backend]) -> None:
        self._lanes = lanes
        self._opening = threading.Lock()
        self._seats: dict[int, list[SessionSlot]] = {}
        self.workers = len(self._open(0))

    def seat(self, lane: int, worker: int) -> SessionSlot:
        """Where a worker computes: each session has as many as it takes at once. Unavailable where the lane cannot be opened: the
        others go on."""
        seats = self._seats.get(lane) or self._opened(lane)
        return seats[worker % len(seats)]

    @property
    def open_count(self) -> int:
        """Of the lanes: each holds the weights once more."""
        return len(self._seats)

    def reopen(self, lane: int) -> None:
        """Nobody runs on it any more. What cannot be opened is tried again by the next call."""
        self._close(lane)
        self._open(lane)

    def close(self) -> None:
        for lane in list(self._seats):
            self._close(lane)

    def _opened(self, lane: int) -> list[SessionSlot]:
        try:
            return self._open(lane)
        except TopworkError:
            raise
        except Exception as error:
            asked = self._lanes[lane].numerics
            raise Unavailable(
                f"no session could be opened on {asked.provider} {asked.precision}: {type(error).__name__}: {error}",
                remedy="try again later, or ask for other taps",
            ) from error

    def _open(self, lane: int) -> list[SessionSlot]:
        with self._opening:
            if lane not in self._seats:
                once = [SessionSlot(session) for session in self._lanes[lane].open()]
                self._seats[lane] = [seat for seat in once for _ in range(seat.session.workers)]
            return self._seats[lane]

    def _close(self, lane: int) -> None:
        with self._opening:
            for session in {seat.session for seat in self._seats.pop(lane, [])}:
                session.close()
