"""Items or ready vectors, with their ids and metadata -> chunks of a write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from topwork._codec import items as _items
from topwork._codec.items import LongFile
from topwork._codec.metadata import ColumnTypes
from topwork._ops import item_requests
from topwork._ops.item_labels import IDS, IdSource, KnownIds, KnownMetadata, MetadataSource, PathIds
from topwork._ops.item_requests import MessageSizes
from topwork._ops.ready_vectors import ReadyVectors
from topwork._transport.upload_stream import SendWindow
from topwork.errors import InvalidInput, TopworkError
from topwork.features import Numerics
from topwork.v1 import sets_pb2, types_pb2

#: What a chunk may hold: items to be embedded, ready vectors and their bytes, and bytes in all before it is cut in two.
ITEMS, VECTORS, VECTOR_BYTES, MOST_BYTES = 128, 8192, 4 * _items.MIB, 48 * _items.MIB


@dataclass(frozen=True)
class ItemBody:
    items: tuple[types_pb2.Item, ...]

    def __len__(self) -> int:
        return len(self.items)

    def cut(self, start: int, end: int) -> ItemBody:
        return ItemBody(self.items[start:end])

    def fill(self, rows: sets_pb2.WriteRows) -> None:
        rows.items.extend(self.items)


@dataclass(frozen=True)
class VectorBody:
    taps: tuple[ReadyVectors, ...]

    def __len__(self) -> int:
        return len(self.taps[0])

    def cut(self, start: int, end: int) -> VectorBody:
        return VectorBody(tuple(tap.cut(start, end) for tap in self.taps))

    def fill(self, rows: sets_pb2.WriteRows) -> None:
        rows.features.extend(tap.message() for tap in self.taps)
        weakest = min((tap.numerics for tap in self.taps if tap.numerics), key=lambda record: record.parity, default=None)
        if weakest:
            rows.numerics.CopyFrom(numerics(weakest))

    @property
    def item_bytes(self) -> float:
        return sum(tap.item_bytes for tap in self.taps)


@dataclass(frozen=True)
class WriteChunk:
    """One message of rows, or a long file and its message. `failures` are items that could not be read here."""

    start: int
    ids: list[str]
    rows: sets_pb2.WriteRows
    file: LongFile | None = None
    failures: Mapping[int, TopworkError] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def messages(self) -> Iterator[sets_pb2.WriteRequest]:
        if self.file:
            yield from (sets_pb2.WriteRequest(chunk=chunk) for chunk in self.file.chunks())
        yield sets_pb2.WriteRequest(rows=self.rows)


@dataclass
class ItemLabels:
    """Ids and metadata of all items. Raises InvalidInput where they are fewer or more than the items."""

    ids: IdSource
    metadata: MetadataSource
    types: ColumnTypes

    def __post_init__(self) -> None:
        if isinstance(self.metadata, KnownMetadata):
            self.types.survey(self.metadata.columns)

    def check(self, items: int | None) -> None:
        """Check that ids and metadata are as many as the items, before anything is sent."""
        found = {"items": items, "ids": self.ids.total, "rows of metadata": self.metadata.total}
        known = {name: count for name, count in found.items() if count is not None}
        if len(set(known.values())) > 1:
            counts = ", ".join(f"{count} {name}" for name, count in known.items())
            raise InvalidInput(f"they do not go together: {counts}", remedy="pass one id, and one row of metadata, an item")

    def take(self, start: int, count: int) -> tuple[list[str], dict[str, list[Any]]]:
        ids = self.ids.take(start, count)
        if len(ids) < count:
            raise InvalidInput("it has no id: the ids end here", remedy=IDS, item=start + len(ids))
        return ids, self.metadata.take(start, count)

    def finish(self, count: int) -> None:
        """Check that no id is left once all items have been taken."""
        if isinstance(self.ids, KnownIds) and (more := self.ids.take(count, 1)):
            raise InvalidInput(f"there are more ids than the {count} items, from {more[0]!r} on", remedy=IDS)


@dataclass(frozen=True)
class _Part:
    start: int
    ids: list[str]
    metadata: dict[str, list[Any]]
    body: ItemBody | VectorBody

    def half(self, start: int, end: int) -> _Part:
        metadata = {name: values[start:end] for name, values in self.metadata.items()}
        return _Part(self.start + start, self.ids[start:end], metadata, self.body.cut(start, end))


def item_chunks(source: Iterable[Any], modality: str, labels: ItemLabels, skip: bool, pace: SendWindow) -> Iterator[WriteChunk]:
    """Chunks of items that the server embeds, as large as their pace allows."""
    items = labels.ids.noting(source) if isinstance(labels.ids, PathIds) else source
    count = 0
    for chunk in item_requests.chunks(items, modality, MessageSizes([], 4.0), limit=pace.limit, skip=skip):
        count += len(chunk)
        part = _Part(chunk.start, *labels.take(chunk.start, len(chunk)), ItemBody(chunk.items))
        failures = {chunk.start + i: error for i, error in chunk.failures.items()}
        yield from _fitting(part, labels.types, chunk.file, failures)
    labels.finish(count)


def vector_chunks(pieces: Iterable[tuple[ReadyVectors, ...]], labels: ItemLabels) -> Iterator[WriteChunk]:
    """Chunks of ready vectors."""
    count = 0
    for taps in pieces:
        body = VectorBody(taps)
        step = max(1, min(VECTORS, int(VECTOR_BYTES / max(body.item_bytes, 1))))
        for start in range(0, len(body), step):
            cut = body.cut(start, min(start + step, len(body)))
            yield from _fitting(_Part(count, *labels.take(count, len(cut)), cut), labels.types, None, {})
            count += len(cut)
    labels.finish(count)


def _fitting(
    part: _Part, types: ColumnTypes, file: LongFile | None, failures: Mapping[int, TopworkError]
) -> Iterator[WriteChunk]:
    """One chunk, or, where its metadata makes it too large for a message, its halves."""
    rows = sets_pb2.WriteRows(ids=part.ids, metadata=types.pack(part.metadata, part.start))
    part.body.fill(rows)
    count = len(part.ids)
    if count > 1 and rows.ByteSize() > MOST_BYTES:
        yield from _fitting(part.half(0, count // 2), types, None, failures)
        yield from _fitting(part.half(count // 2, count), types, None, failures)
    else:
        mine = {position: error for position, error in failures.items() if part.start <= position < part.start + count}
        yield WriteChunk(part.start, part.ids, rows, file, mine)


def numerics(record: Numerics) -> types_pb2.Numerics:
    return types_pb2.Numerics(
        provider=record.provider, precision=record.precision, parity=record.parity, max_abs_error=record.max_abs_error
    )
