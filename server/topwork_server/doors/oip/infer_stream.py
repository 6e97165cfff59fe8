"""Answers one stream of infer requests in their order; a few of them are in work at a time, which fills batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

from topwork_server.doors.protocols.oip_pb2 import ModelInferRequest, ModelStreamInferResponse
from topwork_server.errors import Unavailable
from topwork_server.services.message_receiver import IncomingMessages

#: Requests of one stream that are in work: while there are so many, no more are read, and HTTP/2 holds the sender back.
WINDOW = 64

Answer: TypeAlias = Callable[[ModelInferRequest], Coroutine[Any, Any, ModelStreamInferResponse]]


class InferStream:
    """`run` ends when the caller is done or gone. Once `stopping` is set no request is taken any more: those that were are
    answered, and the stream ends with Unavailable."""

    def __init__(self, answer: Answer, stopping: asyncio.Event) -> None:
        self._answer, self._stopping = answer, stopping
        self._room = asyncio.Semaphore(WINDOW)
        self._order: asyncio.Queue[tuple[ModelInferRequest, asyncio.Task[ModelStreamInferResponse]] | None] = asyncio.Queue()
        self._work: set[asyncio.Task[Any]] = set()

    async def run(
        self, requests: AsyncIterator[ModelInferRequest], write: Callable[[ModelStreamInferResponse], Awaitable[None]]
    ) -> None:
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

    async def _read(self, requests: AsyncIterator[ModelInferRequest]) -> None:
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
        task.add_done_callback(self._work.discard)
        return task
