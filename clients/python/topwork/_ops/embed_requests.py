"""Items on their way to a server and what it answers: one message where they fit into one, else a stream of chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from topwork._ops.chunking import Chunk
from topwork._ops.progress_bar import Advance, Progress, reporting
from topwork._ops.timeout_message import explained
from topwork._transport.calls import ClientState, Method, Steps, StreamCall, unary, work
from topwork._transport.threads import AsyncBridge
from topwork._transport.upload_stream import UploadStream
from topwork.errors import DeadlineExceeded

T = TypeVar("T")


@dataclass(frozen=True)
class StreamedRequest(Generic[T]):
    """What is asked of items, both ways: `request` makes the one message, `opening` begins a stream. `read` takes a reply; the
    `encoder` reads the items."""

    encoder: str
    alone: Method[Any, Any]
    request: Callable[[Chunk], Message]
    stream: Method[Any, Any]
    opening: Message
    read: Callable[[Any, Chunk], T]

    def feed(
        self, session: ClientState, chunks: Iterator[Chunk], timeout: float | None, release: Callable[[], object] = bool
    ) -> UploadStream[Chunk]:
        feed = UploadStream(session, self.opening, chunks, timeout, release)
        feed.encoder = self.encoder
        return feed


def answered(
    session: ClientState,
    ask: StreamedRequest[T],
    source: Iterable[object],
    chunks: Iterator[Chunk],
    label: str,
    progress: Progress,
    timeout: float | None,
    *,
    brief: bool = False,
) -> Steps[list[T]]:
    """What was answered to each chunk of the source. No items at all are sent too: the server says what it thinks of that.

    `brief` as in `_items.is_brief`: the first chunks are made at once.
    """
    total = len(source) if isinstance(source, Sized) else None
    try:
        first, second = _first_two(chunks) if brief else (yield from work(lambda: _first_two(chunks)))
        with reporting(progress, total, label) as advance:
            if second is None and (first is None or first.video is None):
                return [(yield from _in_one_message(ask, first or Chunk(0, ()), timeout, advance))]
            sent = chain((chunk for chunk in (first, second) if chunk), chunks)
            return (yield from _collected(ask, ask.feed(session, sent, timeout), advance))
    except DeadlineExceeded as error:
        raise (yield from explained(session, ask.encoder, error)) from None
    finally:
        release(source)


def _first_two(chunks: Iterator[Chunk]) -> tuple[Chunk | None, Chunk | None]:
    return next(chunks, None), next(chunks, None)


def _in_one_message(ask: StreamedRequest[T], chunk: Chunk, timeout: float | None, advance: Advance) -> Steps[T]:
    reply = yield from unary(ask.alone, ask.request(chunk), timeout)
    advance(len(chunk))
    return ask.read(reply, chunk)


def _collected(ask: StreamedRequest[T], feed: UploadStream[Chunk], advance: Advance) -> Steps[list[T]]:
    pieces: list[T] = []

    def receive(reply: Message, chunk: Chunk) -> None:
        pieces.append(ask.read(reply, chunk))
        advance(len(chunk))

    yield StreamCall(ask.stream, feed, receive)
    return pieces


def release(source: object) -> None:
    """Stop waiting for an asynchronous source of the caller's."""
    if isinstance(source, AsyncBridge):
        source.cancel()
