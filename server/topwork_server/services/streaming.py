"""Serves one call that is a stream of items, EmbedStream or Write: reads ahead as far as its window allows, and answers in order.

Reading ahead is what fills batches; the window is what keeps a fast sender from filling memory: while it is full nothing is
read, and HTTP/2 flow control holds the sender back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from topwork._display.number_text import counted
from topwork.v1 import types_pb2

from topwork_server.errors import InvalidInput, Unavailable
from topwork_server.services.message_receiver import IncomingMessages
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

MESSAGES, ITEMS, BYTES, VIDEOS = 64, 2048, 64 << 20, 4
#: An item that is no text counts as so many: a picture takes a megabyte once it is decoded. Of texts a window holds enough to
#: find for each one others of its length.
OTHER = 4
WHOLE = 1 << 20


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
    share: int
    reply: asyncio.Future[R]
    message: Any = None


class RequestStream(Generic[Q, R]):
    """`run` ends when the caller is done or gone, or with the first error, after the replies that came before it. Once `stopping`
    is set no message is taken any more: those that were are answered, and the stream ends with UNAVAILABLE.

    `answer` replies to one message with a body; the upload is the video or recording that came in chunks before it. The first
    steps of the answers are taken in the order of the messages. `load` says what a message takes of ITEMS: what goes through the
    encoder.
    """

    def __init__(
        self,
        body: str,
        answer: Callable[[Q, Upload | None], Coroutine[Any, Any, R]],
        load: Callable[[Q], float],
        spool: UploadStore,
        stopping: asyncio.Event | None = None,
    ) -> None:
        self._body = body
        self._answer = answer
        self._load = load
        self._spool = spool
        self._stopping = stopping or asyncio.Event()
        self._taken = 0
        self._upload: Upload | None = None
        self._window = FlowWindow()
        self._order: asyncio.Queue[PendingReply[R] | None] = asyncio.Queue()
        self._work: set[asyncio.Future[R]] = set()
        self._done: Callable[[Any], None] = lambda message: None

    async def run(self, requests: AsyncIterator[Q], write: Callable[[R], Awaitable[None]]) -> None:
        if isinstance(requests, IncomingMessages):
            self._done = requests.done
        reader = asyncio.create_task(self._read(requests))
        stopper = asyncio.create_task(self._stop(reader))
        try:
            while pending := await self._order.get():
                await write(await pending.reply)
                self._work.discard(pending.reply)
                self._window.release(pending.share)
                self._done(pending.message)
                pending = None  # while the next is awaited, nothing holds this one's message
        finally:
            await _cancel({reader, stopper, *self._work})
            if self._upload:
                await self._upload.abandon()

    async def _read(self, requests: AsyncIterator[Q]) -> None:
        """Read the requests; an error here takes its place behind the replies to what came before."""
        try:
            async for message in requests:
                await self._take(message)
                del message
            if self._upload:
                raise InvalidInput(
                    "the stream ended before the item that its chunks belong to",
                    remedy="send an item with `chunked_video` or `chunked_audio`",
                )
            self._order.put_nowait(None)
        except Exception as error:
            self._fail(error)
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
            self._fail(self._stopped())

    def _stopped(self) -> Unavailable:
        """Return the error that comes behind the replies to all items that were taken."""
        taken = f"{counted(self._taken, 'item of the stream is', 'items of the stream are')} done; " if self._taken else ""
        return Unavailable("the server is stopping", remedy=f"{taken}send what has no reply again, in a moment")

    async def _stop(self, reader: asyncio.Task[None]) -> None:
        """Stop reading when the server stops: what was taken is answered, and nothing more is taken."""
        await self._stopping.wait()
        reader.cancel()

    def _fail(self, error: Exception) -> None:
        failed: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        failed.set_exception(error)
        self._enqueue(PendingReply(0, failed))

    async def _take(self, message: Q) -> None:
        if self._stopping.is_set():  # it came with the signal, before the reader was cancelled
            raise self._stopped()
        kind = message.WhichOneof("message")
        if kind == "chunk":
            self._upload = self._upload or self._spool.open()
            await self._upload.write(message.chunk)
            self._done(message)
        elif kind == self._body:
            await self._start(message)
        elif kind == "settings":
            raise InvalidInput("settings came twice", remedy="open another stream for other settings")
        else:
            raise InvalidInput("a message of the stream is empty", remedy=f"send {self._body}")

    async def _start(self, message: Q) -> None:
        share = _share(self._load(message), message.ByteSize(), self._upload is not None)
        await self._window.admit(share)
        if self._stopping.is_set():
            raise self._stopped()
        self._taken += _count(getattr(message, self._body))
        upload, self._upload = self._upload, None
        reply = asyncio.ensure_future(self._answer(message, upload))
        if upload:
            # Not a `finally` of the task: one that is cancelled before its first step never runs it.
            reply.add_done_callback(lambda _: upload.discard())
        self._enqueue(PendingReply(share, reply, message))

    def _enqueue(self, pending: PendingReply[R]) -> None:
        self._work.add(pending.reply)
        self._order.put_nowait(pending)


def _share(items: float, size: int, video: bool) -> int:
    """Return the share of the window, by whichever bound is nearest: ready vectors, which no encoder sees, go by their bytes."""
    return int(WHOLE * min(1.0, max(1 / MESSAGES, items / ITEMS, size / BYTES, video / VIDEOS)))


def _count(body: Any) -> int:
    """Items of a message: of ready features there are ids alone."""
    return len(body.items) or len(getattr(body, "ids", ()))


def load_of(items: Iterable[types_pb2.Item]) -> float:
    """Return how much of ITEMS a message of these items takes."""
    return sum(1 if item.WhichOneof("content") in ("text", "text_pair", "divided_text") else OTHER for item in items)


async def _cancel(work: set[asyncio.Future[Any]]) -> None:
    for task in work:
        task.cancel()
    # Gathered, so that asyncio does not report their errors as never retrieved.
    await asyncio.gather(*work, return_exceptions=True)


async def settings_of(requests: AsyncIterator[M], what: str, stopping: asyncio.Event | None = None) -> M:
    """Read the first message, which holds the settings; `what` names those that follow it. Unavailable when `stopping` is set."""
    first = await _unless(stopping or asyncio.Event(), _first(requests))
    if first is None or first.WhichOneof("message") != "settings":
        raise InvalidInput("the stream begins without settings", remedy=f"send a message of settings first, then {what}")
    return first


async def until_stopped(requests: AsyncIterator[M], stopping: asyncio.Event) -> AsyncIterator[M]:
    """The rest of the messages; each counts as answered when the next is asked for. Unavailable once `stopping` is set."""
    while (message := await _unless(stopping, _first(requests))) is not None:
        yield message
        if isinstance(requests, IncomingMessages):
            requests.done(message)


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
        await _cancel({task, stop})
