"""Retries of failed calls, for both clients and for streams. gRPC's own retries end after five tries, some seconds;
a server with a large home takes longer to come back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from topwork._transport import status
from topwork._transport.calls import ClientState, UnaryCall
from topwork.errors import Overloaded, TopworkError, Unavailable

#: Seconds that a call may take where the client names none: the first use of an encoder exports and loads it.
TIMEOUT = 300.0
#: Seconds of tries where the client names none.
RETRY_FOR = 60.0
#: And those of connecting to a server that has never answered: the address is wrong, or no server runs.
CONNECT_FOR = 5.0
#: Seconds before the second try; each further pause is twice as long, up to LONGEST_PAUSE, give or take JITTER of it. No pause is
#: shorter than the server asks for: that of an overloaded one which knows no better is short, and the pauses grow all the same.
FIRST_PAUSE, LONGEST_PAUSE, JITTER = 0.1, 5.0, 0.2


class RetryPolicy:
    """Tries within `retry_for` seconds of the first failure, and before `deadline` (time.monotonic(); None for none). `retry_for`
    None is RETRY_FOR, and CONNECT_FOR where no connection can be made to a server that was never `reached`.

    `once`: the call must not be done twice, so it is made again only where the server certainly did not begin it.
    """

    def __init__(
        self,
        retry_for: float | None,
        deadline: float | None = None,
        once: bool = False,
        clock: Callable[[], float] = time.monotonic,
        reached: Callable[[], bool] = lambda: True,
    ) -> None:
        self._retry_for, self._deadline, self._once, self._clock = retry_for, deadline, once, clock
        self._reached = reached
        self.reset()

    def reset(self) -> None:
        """Count time from zero, as after each reply."""
        self._until: float | None = None
        self._began = 0.0
        self._pause = FIRST_PAUSE

    def pause(self, error: TopworkError) -> float | None:
        """Seconds to wait before the next try; None where there is none, and the error is the caller's."""
        if not isinstance(error, Overloaded | Unavailable) or error.lasting or (self._once and not error.untouched):
            return None
        now = self._clock()
        if self._until is None:
            self._began = now
            ends = now + (RETRY_FOR if self._retry_for is None else self._retry_for)
            self._until = ends if self._deadline is None else min(ends, self._deadline)
        left = self._until - now
        if self._retry_for is None and error.unconnected and not self._reached():
            left = min(left, self._began + CONNECT_FOR - now)
        least = error.retry_after or 0.0
        pause = max(least * random.uniform(1, 1 + JITTER), self._pause * random.uniform(1 - JITTER, 1 + JITTER))
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        if left <= 0 or least >= left:
            return None
        return min(pause, left)


class UnaryRetries:
    """The timeout is of all tries together."""

    def __init__(self, session: ClientState, call: UnaryCall) -> None:
        self._session, self._call = session, call
        self._timeout = session.timeout if call.timeout is None else call.timeout
        self._deadline = None if self._timeout is None else time.monotonic() + self._timeout
        self._patience = RetryPolicy(session.retry_for, self._deadline, call.method.once, reached=lambda: session.reached)

    def left(self) -> float | None:
        """The seconds that the next try may take."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def answered(self) -> None:
        self._session.heard()

    def failed(self, error: Any) -> float:
        """Seconds until the next try; raises what a grpc.RpcError means where there is none."""
        method = status.named(self._call.method.name, self._call.request)
        found = status.translate(error, self._session.target, self._timeout, method)
        self._session.heard(found)
        pause = self._patience.pause(found)
        if pause is None:
            try:
                raise found.shifted(self._call.start) from None
            finally:  # else the error and this frame hold each other, and what all callers hold, until garbage is collected
                del found
        return pause
