"""One request that many replies answer."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message

from topwork._ops.calls import ClientState
from topwork._transport.retry import StreamRetries


class DownloadStream(StreamRetries[None]):
    """`ask()` is the request for what has not come yet, None where all has: it is asked anew after a break."""

    def __init__(
        self, session: ClientState, ask: Callable[[], Message | None], timeout: float | None, *, in_all: bool = False
    ) -> None:
        super().__init__(session, timeout, in_all=in_all)
        self._ask = ask

    def requests(self) -> Message | None:
        return self._ask()

    def answered(self) -> None:
        with self._changed:
            self._progressed()

    def finish(self) -> None:
        if self.failure:
            raise self.failure
