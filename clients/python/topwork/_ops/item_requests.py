"""Items on their way to a server: chunks that fit into messages, read from their source only as they are asked for, and what is
answered to each. What fits into one message is one, all else a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from itertools import chain
from math import prod
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from topwork._codec import items as _items
from topwork._codec import messages
from topwork._codec.items import LongFile, Packed
from topwork._ops.progress_bar import Advance, Progress, reporting
from topwork._transport.calls import ClientState, Method, Steps, StreamCall, unary, work
from topwork._transport.methods import GET_ENCODER
from topwork._transport.threads import AsyncBridge
from topwork._transport.upload_stream import UploadStream
from topwork.encoders import EncoderInfo, TapInfo
from topwork.errors import DeadlineExceeded, TopworkError
from topwork.v1 import encoders_pb2, types_pb2

#: What a chunk may hold: items, bytes on their way out, and (as far as that is known) bytes on their way back.
ITEMS, REQUEST, REPLY = 64, 4 * _items.MIB, 16 * _items.MIB
#: Bytes of one number of a row.
WIDTHS: Mapping[int, float] = {types_pb2.DTYPE_FLOAT16: 2.0, types_pb2.DTYPE_INT8: 1.0, types_pb2.DTYPE_BINARY: 1 / 8}
#: No encoder of texts reads more tokens at once, as far as the size of a reply is known beforehand.
MOST_TOKENS = 512
#: Characters of a chunk of a text, of short sentences.
CHARACTERS_A_CHUNK = 32


@dataclass(frozen=True)
class Chunk:
    """Consecutive items, or one long file. `failures` are items that could not be read here: they are sent without content."""

    start: int
    items: tuple[types_pb2.Item, ...]
    file: LongFile | None = None
    failures: Mapping[int, TopworkError] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def messages(self) -> Iterator[encoders_pb2.EmbedStreamRequest]:
        if self.file:
            yield from (encoders_pb2.EmbedStreamRequest(chunk=chunk) for chunk in self.file.chunks())
        yield encoders_pb2.EmbedStreamRequest(items=encoders_pb2.Items(items=self.items))


@dataclass
class MessageSizes:
    """Estimates the bytes of an item's rows from the server's description of the requested taps."""

    taps: list[TapInfo]
    width: float

    @classmethod
    def of(cls, encoder: EncoderInfo, taps: Iterable[str], dtype: int) -> MessageSizes:
        wanted = [encoder.tap(tap) for tap in taps] or [encoder.tap()]
        return cls([tap for tap in wanted if tap], WIDTHS.get(dtype, 4.0))

    def reply(self, item: types_pb2.Item) -> int:
        return int(sum(tap.dim * self.width * _rows(tap, item) for tap in self.taps))


def _rows(tap: TapInfo, item: types_pb2.Item) -> int:
    if tap.granularity == "cell":
        return prod(tap.grid)
    if tap.granularity == "token":
        return min(MOST_TOKENS, len(item.text or item.text_pair.text + item.text_pair.pair) + 2)
    if tap.granularity == "chunk":
        return len(item.divided_text.chunks) or len(item.text) // CHARACTERS_A_CHUNK + 1
    return 1


@dataclass
class _Batch:
    start: int
    items: list[types_pb2.Item] = field(default_factory=list)
    failures: dict[int, TopworkError] = field(default_factory=dict)
    request: int = 0
    reply: int = 0

    def add(self, item: types_pb2.Item, reply: int, failure: TopworkError | None) -> None:
        if failure:
            self.failures[len(self.items)] = failure
        self.items.append(item)
        self.request += item.ByteSize()
        self.reply += reply

    def has_room(self, item: types_pb2.Item, reply: int) -> bool:
        return self.request + item.ByteSize() <= REQUEST and self.reply + reply <= REPLY

    def chunk(self) -> Chunk:
        return Chunk(self.start, tuple(self.items), failures=self.failures)


def chunks(
    items: Iterable[object], modality: str, sizes: MessageSizes, *, limit: int | Callable[[], int] = ITEMS, skip: bool = False
) -> Iterator[Chunk]:
    """Chunks of at most `limit` items, a function where that changes. With `skip` an unreadable item becomes a failure.

    Without, it ends the chunks, but only after the chunk of those before it: they are not to blame.
    """
    batch = _Batch(0)
    for position, packed, error in _packed(items, modality):
        final = error is not None and not skip
        reply = 0 if isinstance(packed, LongFile) else sizes.reply(packed)
        if batch.items and (final or isinstance(packed, LongFile) or not batch.has_room(packed, reply)):
            yield batch.chunk()
            batch = _Batch(position)
        if error and final:
            raise error
        if isinstance(packed, LongFile):
            yield Chunk(position, (packed.item,), packed)
        else:
            batch.add(packed, reply, error)
            if len(batch.items) < (limit() if callable(limit) else limit):
                continue
            yield batch.chunk()
        batch = _Batch(position + 1)
    if batch.items:
        yield batch.chunk()


def _packed(items: Iterable[object], modality: str) -> Iterator[tuple[int, Packed, TopworkError | None]]:
    """Pack items. One that cannot be read stands as one without content, which the server counts and answers with no rows."""
    for position, value in enumerate(items):
        try:
            yield position, _items.pack(value, modality, position), None
        except TopworkError as error:
            yield position, types_pb2.Item(), error


#: Seconds that the server is given to say what it does.
SOON = 2.0
IDLE = ("ready", "loaded")


def explained(session: ClientState, encoder: str, error: DeadlineExceeded) -> Steps[DeadlineExceeded]:
    """The error with what the encoder was doing: its first use exports, measures and loads it."""
    if not encoder:
        return error
    try:
        reply = yield from unary(GET_ENCODER, encoders_pb2.GetEncoderRequest(name=encoder), SOON)
    except TopworkError:
        return error
    info = messages.encoder(reply)
    if info.state not in IDLE or info.detail:
        error.message += f"; {encoder} is {info.state}" + (f": {info.detail}" if info.detail else "")
    return error


T = TypeVar("T")


@dataclass(frozen=True)
class StreamedRequest(Generic[T]):
    """A request over items, in both forms: `request` makes the one message, `opening` begins a stream. `read` takes a reply; the
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
        return UploadStream(session, self.opening, chunks, timeout, release, encoder=self.encoder)


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
    """Collect the answer to each chunk of the source. Without any item the server is asked all the same.

    `brief` as in `_items.is_brief`: the first chunks are made at once.
    """
    total = len(source) if isinstance(source, Sized) else None
    try:
        first, second = _first_two(chunks) if brief else (yield from work(lambda: _first_two(chunks)))
        with reporting(progress, total, label) as advance:
            if second is None and (first is None or first.file is None):
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
