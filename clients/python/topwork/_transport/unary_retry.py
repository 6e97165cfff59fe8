"""The tries of a call of one request and one reply, for both clients."""

from __future__ import annotations

import time
from typing import Any

from topwork._ops.calls import ClientState, UnaryCall
from topwork._transport import status
from topwork._transport.retry_policy import RetryPolicy


class UnaryRetries:
    """The timeout is of all tries together."""

    def __init__(self, session: ClientState, call: UnaryCall) -> None:
        self._session, self._call = session, call
        self._timeout = session.timeout if call.timeout is None else call.timeout
        self._deadline = None if self._timeout is None else time.monotonic() + self._timeout
        self._patience = RetryPolicy(session.retry_for, self._deadline, call.method.once, reached=lambda: session.reached)

    def left(self) -> float | None:
        """Seconds that the next try may take."""
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
            raise found.shifted(self._call.start) from None
        return pause
