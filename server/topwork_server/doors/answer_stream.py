"""Answers one stream of requests of another protocol in their order; a few are in work at a time, which fills batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from topwork_server.errors import Unavailable
from topwork_server.services.message_receiver import IncomingMessages

#: Requests of one stream that are in work: while there are so many, no more are read, and HTTP/2 holds the sender back.
WINDOW = 64

Q = TypeVar("Q")
R = TypeVar("R")


class AnswerStream(Generic[Q, R]):
    """`run` ends when the caller is done or gone, or with the error of the first answer that fails. Once `stopping` is set no
    request is taken any more: those that were are answered, and the stream ends with Unavailable."""

    def __init__(self, answer: Callable[[Q], Coroutine[Any, Any, R]], stopping: asyncio.Event) -> None:
        self._answer, self._stopping = answer, stopping
        self._room = asyncio.Semaphore(WINDOW)
        self._order: asyncio.Queue[tuple[Q, asyncio.Task[R]] | None] = asyncio.Queue()
        self._work: set[asyncio.Task[Any]] = set()

    async def run(self, requests: AsyncIterator[Q], write: Callable[[R], Awaitable[None]]) -> None:
        reader = self._start(self._read(requests))
        self._start(self._stop(reader))
        try:
            while pending := await self._order.get():
                request, reply = pending
                await write(await reply)
                if isinstance(requests, IncomingMessages):
                    requests.done(request)
                self._room.release()
                del pending, request, reply  # while the next is awaited, nothing holds this one
            await asyncio.wait({reader})
            if reader.cancelled():
                raise Unavailable("the server is stopping", remedy="send what has no reply again, in a moment")
            reader.result()
        finally:
            work = list(self._work)
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[Q]) -> None:
        try:
            async for request in requests:
                await self._room.acquire()
                self._order.put_nowait((request, self._start(self._answer(request))))
                del request
        finally:
            self._order.put_nowait(None)

    async def _stop(self, reader: asyncio.Task[None]) -> None:
        await self._stopping.wait()
        reader.cancel()

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            task.exception()  # which is told where the reply is awaited, or not at all behind one that failed before
