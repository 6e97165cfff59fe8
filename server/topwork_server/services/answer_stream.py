"""Answers the requests of one stream in their order: reads ahead as far as its window allows.

Reading ahead is what fills batches; the window is what keeps a fast sender from filling memory: while it is full nothing is
read, and HTTP/2 flow control holds the sender back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from topwork._display.number_text import counted

from topwork_server.errors import Unavailable
from topwork_server.services.message_receiver import IncomingMessages

Q = TypeVar("Q")
R = TypeVar("R")

#: The parts of a window.
WHOLE = 1 << 20
#: Requests of one stream that may be in work, whatever part of the window they take.
MESSAGES = 64


class FlowWindow:
    """The bound on what may be in flight of one stream, in parts of WHOLE. One message always may, of any size."""

    def __init__(self) -> None:
        self._used = 0
        self._freed = asyncio.Event()

    async def admit(self, share: int) -> None:
        while self._used and self._used + share > WHOLE:
            self._freed.clear()
            await self._freed.wait()
        self._used += share

    def release(self, share: int) -> None:
        self._used -= share
        self._freed.set()


@dataclass(frozen=True, slots=True)
class PendingReply(Generic[R]):
    """The reply to a request, which may still be in work, and the share of the window that it takes."""

    share: int
    reply: asyncio.Future[R]
    request: Any = None


class AnswerStream(Generic[Q, R]):
    """Answers one stream: `run` ends when the caller is done or gone, or with the first error, after the replies that came before
    it. Once `stopping` is set no request is taken any more: those that were are answered, and the stream ends with Unavailable.

    `answer` replies to one request. The first steps of the answers are taken in the order of the requests. `share` says what part
    of WHOLE a request takes of the window, and `items` how many items the caller is told to be done when the server stops.
    """

    def __init__(
        self,
        answer: Callable[[Q], Awaitable[R]],
        stopping: asyncio.Event,
        share: Callable[[Q], int] = lambda request: WHOLE // MESSAGES,
        items: Callable[[Q], int] = lambda request: 0,
    ) -> None:
        self._answer, self._stopping, self._share, self._items = answer, stopping, share, items
        self._taken = 0
        self._window = FlowWindow()
        self._order: asyncio.Queue[PendingReply[R] | None] = asyncio.Queue()
        self._work: set[asyncio.Future[R]] = set()

    async def run(
        self,
        requests: AsyncIterator[Q],
        write: Callable[[R], Awaitable[None]],
        done: Callable[[Q], None] | None = None,
    ) -> None:
        """Answer all requests. `done` is called with each that is answered, in the place of the messages' own."""
        done = done or done_with(requests)
        reader = asyncio.create_task(self._read(requests))
        stopper = asyncio.create_task(self._stop(reader))
        try:
            while pending := await self._order.get():
                await write(await pending.reply)
                self._work.discard(pending.reply)
                self._window.release(pending.share)
                done(pending.request)
                pending = None  # while the next is awaited, nothing holds this one's request
        finally:
            await cancel_all({reader, stopper, *self._work})

    async def _read(self, requests: AsyncIterator[Q]) -> None:
        """Read the requests; an error here takes its place behind the replies to what came before."""
        try:
            async for request in requests:
                await self._take(request)
                del request
            self._order.put_nowait(None)
        except Exception as error:
            self._fail(error)
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
            self._fail(self._stopped())

    async def _take(self, request: Q) -> None:
        share = self._share(request)
        await self._window.admit(share)
        if self._stopping.is_set():  # it came with the signal, before the reader was cancelled
            raise self._stopped()
        self._taken += self._items(request)
        self._enqueue(PendingReply(share, asyncio.ensure_future(self._answer(request)), request))

    async def _stop(self, reader: asyncio.Task[None]) -> None:
        """Stop reading when the server stops: what was taken is answered, and nothing more is taken."""
        await self._stopping.wait()
        reader.cancel()

    def _stopped(self) -> Unavailable:
        """Return the error that comes behind the replies to all items that were taken."""
        taken = f"{counted(self._taken, 'item of the stream is', 'items of the stream are')} done; " if self._taken else ""
        return Unavailable("the server is stopping", remedy=f"{taken}send what has no reply again, in a moment")

    def _fail(self, error: Exception) -> None:
        failed: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        failed.set_exception(error)
        self._enqueue(PendingReply(0, failed))

    def _enqueue(self, pending: PendingReply[R]) -> None:
        self._work.add(pending.reply)
        self._order.put_nowait(pending)


def done_with(requests: AsyncIterator[Any]) -> Callable[[Any], None]:
    """Return what to call with each message that is answered, or needs no answer, so that its bytes count no longer."""
    return requests.done if isinstance(requests, IncomingMessages) else lambda message: None


async def cancel_all(work: set[asyncio.Future[Any]]) -> None:
    for task in work:
        task.cancel()
    # Gathered, so that asyncio does not report their errors as never retrieved.
    await asyncio.gather(*work, return_exceptions=True)
