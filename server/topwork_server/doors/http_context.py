"""The context that a service's method is given of a request over HTTP, in the place of grpc's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any


class HttpContext:
    """One call: its client, and its `deadline` in time.monotonic(). Replies of a method that streams are written here and read
    from `replies`, one at a time, so that a slow reader holds the method back."""

    def __init__(self, client: str, deadline: float | None = None) -> None:
        self._client, self._deadline = client, deadline
        self._written: asyncio.Queue[Any] = asyncio.Queue()
        self._room = asyncio.Semaphore(1)

    def peer(self) -> str:
        """The client's address; requests of one connection are one client's."""
        return self._client

    def time_remaining(self) -> float | None:
        """Seconds until the caller's time is over; None where it never is."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    async def write(self, reply: Any) -> None:
        await self._room.acquire()
        self._written.put_nowait(reply)

    async def replies(self, work: Coroutine[Any, Any, Any]) -> AsyncIterator[Any]:
        """Run a method in a task of its own, and pass on what it writes. It is cancelled where its reader leaves."""
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._written.put_nowait(_END))
        try:
            while (reply := await self._written.get()) is not _END:
                yield reply
                self._room.release()
            await task
        finally:
            task.cancel()
            await asyncio.wait({task})


_END = object()
