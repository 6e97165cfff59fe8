"""Any number of items -> chunks that fit into messages, read from their source only as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

from topwork._codec import items as _items
from topwork._codec.items import LongVideo, Packed
from topwork.encoders import EncoderInfo, TapInfo
from topwork.errors import TopworkError
from topwork.v1 import encoders_pb2, types_pb2

#: What a chunk may hold: items, bytes on their way out, and (as far as it can be told) bytes on their way back.
ITEMS, REQUEST, REPLY = 64, 4 * _items.MIB, 16 * _items.MIB
#: Bytes of one number of a row.
WIDTHS: Mapping[int, float] = {types_pb2.DTYPE_FLOAT16: 2.0, types_pb2.DTYPE_INT8: 1.0, types_pb2.DTYPE_BINARY: 1 / 8}
#: No encoder of texts reads more tokens at once, as far as the size of a reply can be told beforehand.
MOST_TOKENS = 512


@dataclass(frozen=True)
class Chunk:
    """Consecutive items, or one long video. `failures` are items that could not be read here: they are sent without content."""

    start: int
    items: tuple[types_pb2.Item, ...]
    video: LongVideo | None = None
    failures: Mapping[int, TopworkError] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def messages(self) -> Iterator[encoders_pb2.EmbedStreamRequest]:
        if self.video:
            yield from (encoders_pb2.EmbedStreamRequest(part=part) for part in self.video.parts())
        yield encoders_pb2.EmbedStreamRequest(items=encoders_pb2.Items(items=self.items))


@dataclass
class MessageSizes:
    """How many bytes an item's rows will take, guessed from what the server says of the taps that were asked for."""

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
        reply = 0 if isinstance(packed, LongVideo) else sizes.reply(packed)
        if batch.items and (final or isinstance(packed, LongVideo) or not batch.has_room(packed, reply)):
            yield batch.chunk()
            batch = _Batch(position)
        if error and final:
            raise error
        if isinstance(packed, LongVideo):
            yield Chunk(position, (types_pb2.Item(parts=True),), packed)
        else:
            batch.add(packed, reply, error)
            if len(batch.items) < (limit() if callable(limit) else limit):
                continue
            yield batch.chunk()
        batch = _Batch(position + 1)
    if batch.items:
        yield batch.chunk()


def _packed(items: Iterable[object], modality: str) -> Iterator[tuple[int, Packed, TopworkError | None]]:
    """An item that cannot be read stands as one without content, which the server counts and answers with no rows."""
    for position, value in enumerate(items):
        try:
            yield position, _items.pack(value, modality, position), None
        except TopworkError as error:
            yield position, types_pb2.Item(), error
