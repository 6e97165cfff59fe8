"""One EmbedStream call: reads ahead as far as its window allows, and answers in order.

Reading ahead is what fills batches; the window is what keeps a fast sender from filling memory: while it is full nothing is
read, and HTTP/2 flow control holds the sender back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

from topwork.v1 import encoders_pb2, types_pb2

from topwork_server.errors import InvalidInput
from topwork_server.services.spool import Spool, Upload

Request = encoders_pb2.EmbedStreamRequest
Response = encoders_pb2.EmbedResponse
#: Answers one message of items; the upload is the video that came in parts before it.
Answer = Callable[[Sequence[types_pb2.Item], Upload | None], Awaitable[Response]]

MESSAGES, ITEMS, BYTES, VIDEOS = 64, 512, 64 << 20, 4
WHOLE = 1 << 20


class Window:
    """What of one stream may be in flight, in parts of WHOLE. One message always may, whatever its size."""

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


class Pending(NamedTuple):
    share: int
    reply: asyncio.Future[Response]


class Stream:
    """`run` ends when the caller is done or gone, or with the first error, after the replies that came before it."""

    def __init__(self, answer: Answer, spool: Spool) -> None:
        self._answer = answer
        self._spool = spool
        self._upload: Upload | None = None
        self._window = Window()
        self._order: asyncio.Queue[Pending | None] = asyncio.Queue()
        self._work: set[asyncio.Future[Response]] = set()

    async def run(self, requests: AsyncIterator[Request], write: Callable[[Response], Awaitable[None]]) -> None:
        reader = asyncio.create_task(self._read(requests))
        try:
            while pending := await self._order.get():
                await write(await pending.reply)
                self._work.discard(pending.reply)
                self._window.release(pending.share)
        finally:
            await _cancel({reader, *self._work})
            if self._upload:
                await self._upload.abandon()

    async def _read(self, requests: AsyncIterator[Request]) -> None:
        """Whatever goes wrong here takes its place behind the replies to what came before."""
        try:
            async for message in requests:
                await self._take(message)
            if self._upload:
                raise InvalidInput(
                    "the stream ended before the item that its parts belong to", remedy="send an item with `parts`"
                )
            self._order.put_nowait(None)
        except Exception as error:
            failed: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            self._enqueue(Pending(0, failed))

    async def _take(self, message: Request) -> None:
        match message.WhichOneof("message"):
            case "part":
                self._upload = self._upload or self._spool.open()
                await self._upload.write(message.part)
            case "items":
                await self._start(message)
            case "settings":
                raise InvalidInput("settings came twice", remedy="open another stream for other settings")
            case _:
                raise InvalidInput("a message of the stream is empty", remedy="send items")

    async def _start(self, message: Request) -> None:
        share = _share(message, self._upload)
        await self._window.admit(share)
        upload, self._upload = self._upload, None
        reply = asyncio.ensure_future(self._answer(message.items.items, upload))
        if upload:
            # Not a `finally` of the task: one that is cancelled before its first step never runs it.
            reply.add_done_callback(lambda _: upload.discard())
        self._enqueue(Pending(share, reply))

    def _enqueue(self, pending: Pending) -> None:
        self._work.add(pending.reply)
        self._order.put_nowait(pending)


def _share(message: Request, upload: Upload | None) -> int:
    parts = [1 / MESSAGES, len(message.items.items) / ITEMS, message.ByteSize() / BYTES, (upload is not None) / VIDEOS]
    return int(WHOLE * min(1.0, max(parts)))


async def _cancel(work: set[asyncio.Future[Response] | asyncio.Task[None]]) -> None:
    for task in work:
        task.cancel()
    # Gathered, so that an error that nobody waits for any more is not reported as never retrieved.
    await asyncio.gather(*work, return_exceptions=True)
