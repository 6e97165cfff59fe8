"""Calls that are streams of items, such as EmbedStream and Write: settings first, then items, some of which come in chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeVar

from topwork.v1 import types_pb2

from topwork_server.errors import InvalidInput, Unavailable
from topwork_server.services.answer_stream import MESSAGES, WHOLE, AnswerStream, cancel_all, done_with
from topwork_server.services.uploads import Upload, UploadStore


class OneofMessage(Protocol):
    """A message of a stream, whose oneof is `settings`, or what follows those."""

    def WhichOneof(self, oneof_group: Any) -> Any: ...  # noqa: N802


class StreamMessage(OneofMessage, Protocol):
    """A message of a stream of items, whose oneof is `settings`, `chunk` (of a large video or recording), or a body of items."""

    @property
    def chunk(self) -> bytes: ...
    def ByteSize(self) -> int: ...  # noqa: N802


M = TypeVar("M", bound=OneofMessage)
Q = TypeVar("Q", bound=StreamMessage)
R = TypeVar("R")
T = TypeVar("T")

#: Of one stream in work: items, bytes, and videos or recordings.
ITEMS, BYTES, VIDEOS = 2048, 64 << 20, 4
#: An item that is no text counts as so many: a picture takes a megabyte once it is decoded. Of texts a window holds enough to
#: find for each one others of its length.
OTHER = 4


class RequestStream(Generic[Q, R]):
    """Answers as `AnswerStream` does. `answer` replies to one message with a body; the upload is the video or recording that came
    in chunks before it. `load` says what a message takes of ITEMS: what goes through the encoder.
    """

    def __init__(
        self,
        body: str,
        answer: Callable[[Q, Upload | None], Coroutine[Any, Any, R]],
        load: Callable[[Q], float],
        spool: UploadStore,
        stopping: asyncio.Event,
    ) -> None:
        self._body, self._answer, self._load, self._spool, self._stopping = body, answer, load, spool, stopping
        self._upload: Upload | None = None

    async def run(self, requests: AsyncIterator[Q], write: Callable[[R], Awaitable[None]]) -> None:
        done = done_with(requests)
        stream = AnswerStream(self._begin, self._stopping, self._share, self._count)
        try:
            async with aclosing(self._with_bodies(requests, done)) as messages:
                await stream.run(messages, write, done)
        finally:
            if self._upload:
                await self._upload.abandon()

    async def _with_bodies(self, requests: AsyncIterator[Q], done: Callable[[Q], None]) -> AsyncGenerator[Q, None]:
        """The messages with a body; the chunks before one are its upload, until `_begin` takes it."""
        async for message in requests:
            kind = message.WhichOneof("message")
            if kind == "chunk":
                self._upload = self._upload or self._spool.open()
                await self._upload.write(message.chunk)
                done(message)
            elif kind == self._body:
                yield message
            elif kind == "settings":
                raise InvalidInput("settings came twice", remedy="open another stream for other settings")
            else:
                raise InvalidInput("a message of the stream is empty", remedy=f"send {self._body}")
            del message  # while the next is awaited, nothing holds this one
        if self._upload:
            raise InvalidInput(
                "the stream ended before the item that its chunks belong to",
                remedy="send an item with `chunked_video` or `chunked_audio`",
            )

    def _begin(self, message: Q) -> asyncio.Task[R]:
        upload, self._upload = self._upload, None
        reply = asyncio.create_task(self._answer(message, upload))
        if upload:
            # Not a `finally` of the task: one that is cancelled before its first step never runs it.
            reply.add_done_callback(lambda _: upload.discard())
        return reply

    def _share(self, message: Q) -> int:
        """Return the share of the window, by whichever bound is nearest: ready vectors, which no encoder sees, go by their
        bytes."""
        parts = self._load(message) / ITEMS, message.ByteSize() / BYTES, bool(self._upload) / VIDEOS
        return int(WHOLE * min(1.0, max(1 / MESSAGES, *parts)))

    def _count(self, message: Q) -> int:
        """Items of a message: of ready features there are ids alone."""
        body = getattr(message, self._body)
        return len(body.items) or len(getattr(body, "ids", ()))


def load_of(items: Iterable[types_pb2.Item]) -> float:
    """Return how much of ITEMS a message of these items takes."""
    return sum(1 if item.WhichOneof("content") in ("text", "text_pair", "divided_text") else OTHER for item in items)


async def settings_of(requests: AsyncIterator[M], what: str, stopping: asyncio.Event) -> M:
    """Read the first message, which holds the settings; `what` names those that follow it. Unavailable when `stopping` is set."""
    first = await _unless(stopping, _first(requests))
    if first is None or first.WhichOneof("message") != "settings":
        raise InvalidInput("the stream begins without settings", remedy=f"send a message of settings first, then {what}")
    return first


async def until_stopped(requests: AsyncIterator[M], stopping: asyncio.Event) -> AsyncIterator[M]:
    """The rest of the messages; each counts as answered when the next is asked for. Unavailable once `stopping` is set."""
    done = done_with(requests)
    while (message := await _unless(stopping, _first(requests))) is not None:
        yield message
        done(message)


async def _first(requests: AsyncIterator[M]) -> M | None:
    return await anext(aiter(requests), None)


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, or Unavailable where the server stops meanwhile."""
    task, stop = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Unavailable("the server is stopping", remedy="try again in a moment, or at another address")
        return task.result()
    finally:
        await cancel_all({task, stop})
