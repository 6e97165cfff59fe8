"""Writes to feature sets: what is asked for becomes a stream of chunks, and the replies a report."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from topwork._codec import items as _items
from topwork._codec import messages
from topwork._codec.decode_sets import feature_set
from topwork._codec.items import Items
from topwork._codec.metadata import ColumnTypes
from topwork._display.number_text import counted
from topwork._ops import item_labels, item_requests, ready_vectors, write_chunks
from topwork._ops.embed import known_encoder
from topwork._ops.item_labels import IDS, PathIds
from topwork._ops.item_requests import explained
from topwork._ops.progress_bar import Progress, reporting
from topwork._ops.ready_vectors import VectorTarget
from topwork._ops.write_chunks import ItemLabels, WriteChunk
from topwork._transport.calls import ClientState, Steps, StreamCall, unary, work
from topwork._transport.methods import GET_SET, WRITE
from topwork._transport.upload_stream import SendWindow, UploadStream
from topwork.errors import DeadlineExceeded, InvalidInput, NotFound
from topwork.features import Features
from topwork.sets import Acknowledged, SetInfo, WriteReport
from topwork.v1 import sets_pb2, types_pb2

#: A str or int an item.
Ids: TypeAlias = str | int | Iterable[str | int] | AsyncIterable[str | int]
#: A dict an item; or a dict of columns, a data frame, an Arrow table.
Metadata: TypeAlias = Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]] | Mapping[str, Sequence[Any]] | Any
#: An array (n, dim); Features; a dict of either by tap; or an iterable of such.
Vectors: TypeAlias = Features | Mapping[str, Any] | Iterable[Any] | AsyncIterable[Any] | Any


def write(
    session: ClientState,
    set: str,
    items: Items | None = None,
    ids: Ids | None = None,
    metadata: Metadata | None = None,
    *,
    encoder: str | None = None,
    taps: Sequence[str] | None = None,
    vectors: Vectors | None = None,
    fingerprint: str | Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    keep_inputs: bool = False,
    skip_bad_items: bool = False,
    priority: str = "normal",
    progress: Progress = None,
    timeout: float | None = None,
) -> Steps[WriteReport]:
    """Upsert by id: items that the server embeds, or vectors that are ready. A set that is not there is made.

    What is acknowledged (see `progress`) survives the end of the server; one that restarts meanwhile is met with retries.

    items           as in `embed`. Paths of pictures, videos and recordings are their ids where no `ids` are passed
    ids             a str or int an item, none of them twice
    metadata        a dict an item; or a dict of columns, a data frame, an Arrow table. Values are bool, int, float, str,
                    datetime (or date; without a zone it is UTC) or lists of str; None, NaN and absent ones are missing. A column
                    keeps its type: that of the set, or of the values that are passed (of an iterator: the first ones)
    encoder, taps   what the set is made of; where the set is there, they may be left out
    vectors         instead of items: an array (n, dim), Features, a dict of either by tap, or an iterable of such
    fingerprint     of bare arrays (by tap, where there are several): a set of an encoder takes no vectors without it
    options         what the encoder declares, as in `embed`; part of the set
    dtype           "float32" (the default of a new set) or "float16", as stored
    keep_inputs     keep the items themselves, too
    skip_bad_items  a bad item is reported in `failures` and the rest goes on; without it the first one ends the write, after
                    what came before it
    priority        "low", "normal" or "high", as in `embed`
    progress        True for a bar on a terminal, or a function of (items done, items in all or None)
    timeout         seconds: the longest wait in which nothing moves, here or in the encoder; None is the client's

    Raises a TopworkError; its `item` is the position of the item to blame.
    """
    settings = encoder, taps, options, dtype, keep_inputs, skip_bad_items, priority
    asked = WriteArguments(set, items, ids, metadata, vectors, fingerprint, *settings)
    return (yield from _written(session, asked, progress, timeout))


def write_stream(
    session: ClientState,
    set: str,
    items: Items | None = None,
    ids: Ids | None = None,
    metadata: Metadata | None = None,
    *,
    encoder: str | None = None,
    taps: Sequence[str] | None = None,
    vectors: Vectors | None = None,
    fingerprint: str | Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    keep_inputs: bool = False,
    skip_bad_items: bool = False,
    priority: str = "normal",
    timeout: float | None = None,
) -> Steps[StreamCall[Acknowledged]]:
    """Write any number of items, even endless: an `Acknowledged` for each chunk, as soon as it is on disk. See `write`.

    `items`, `ids`, `metadata` and `vectors` may be iterators; they are read a few chunks ahead and no further.
    """
    settings = encoder, taps, options, dtype, keep_inputs, skip_bad_items, priority
    asked = WriteArguments(set, items, ids, metadata, vectors, fingerprint, *settings)
    feed, _ = yield from _planned(session, asked, timeout)
    return StreamCall(WRITE, feed, _acknowledged)


@dataclass(frozen=True)
class WriteArguments:
    """The arguments of `write`."""

    set: str
    items: Any
    ids: Any
    metadata: Any
    vectors: Any
    fingerprint: str | Mapping[str, str] | None
    encoder: str | None
    taps: Sequence[str] | None
    options: Mapping[str, Any] | None
    dtype: str | None
    keep_inputs: bool
    skip_bad_items: bool
    priority: str

    def settings(self) -> sets_pb2.WriteSettings:
        """Raises InvalidInput for what cannot be written down."""
        kinds = {None: types_pb2.DTYPE_UNSPECIFIED, "float32": types_pb2.DTYPE_FLOAT32, "float16": types_pb2.DTYPE_FLOAT16}
        if self.dtype not in kinds:
            raise InvalidInput(f"sets do not keep {self.dtype!r}", remedy="ask for float32 or float16")
        return sets_pb2.WriteSettings(
            set=self.set,
            encoder=self.encoder or "",
            taps=self.taps or (),
            options=messages.struct(self.options),
            dtype=kinds[self.dtype],
            keep_inputs=self.keep_inputs,
            skip_bad_items=self.skip_bad_items,
            priority=None if self.priority == "normal" else messages.priority_of(self.priority),
        )

    def bridged(self, session: ClientState) -> WriteArguments:
        """Turn asynchronous sources into ones that a thread can read. Must be called where the event loop runs."""
        sources = {"items": self.items, "ids": self.ids, "metadata": self.metadata, "vectors": self.vectors}
        turned: dict[str, Any] = {
            name: session.blocking(source) for name, source in sources.items() if isinstance(source, AsyncIterable)
        }
        return replace(self, **turned)

    def release(self) -> None:
        """Stop reading the sources."""
        for source in (self.items, self.ids, self.metadata, self.vectors):
            item_requests.release(source)


def _written(session: ClientState, asked: WriteArguments, progress: Progress, timeout: float | None) -> Steps[WriteReport]:
    """Run the whole write."""
    feed, total = yield from _planned(session, asked, timeout)
    done: list[Acknowledged] = []
    with reporting(progress, total, asked.set) as advance:

        def receive(reply: sets_pb2.WriteResponse, chunk: WriteChunk) -> None:
            done.append(_acknowledged(reply, chunk))
            advance(len(chunk))

        try:
            yield StreamCall(WRITE, feed, receive)
        except DeadlineExceeded as error:
            error.message += f"; {counted(done[-1].watermark if done else 0, 'item is', 'items are')} done"
            raise (yield from explained(session, feed.encoder, error)) from None
    return _summed(done)


def _planned(
    session: ClientState, asked: WriteArguments, timeout: float | None
) -> Steps[tuple[UploadStream[WriteChunk], int | None]]:
    """The stream, and the number of its items where that is known. Raises InvalidInput before any item is looked at."""
    if (asked.items is None) == (asked.vectors is None):
        raise InvalidInput("a write is of items or of vectors", remedy="pass one of the two")
    settings, asked = asked.settings(), asked.bridged(session)
    ids, metadata = yield from work(lambda: _read_labels(asked))
    info = yield from _found_set(session, asked.set, timeout)
    modality = "" if asked.items is None else (yield from _modality(session, asked, info, timeout))
    ids = ids or _paths(modality)
    labels = yield from work(lambda: ItemLabels(ids, metadata, ColumnTypes(info.columns if info else {})))
    if asked.items is None:
        pace = None
        chunks, total = _vector_chunks(asked, info, labels)
    else:
        pace = SendWindow(write_chunks.ITEMS)
        chunks, total = _item_chunks(asked, modality, labels, pace)
    encoder = "" if asked.items is None else asked.encoder or (info.encoder if info else "")
    opening = sets_pb2.WriteRequest(settings=settings)
    return UploadStream(session, opening, chunks, timeout, asked.release, pace, encoder=encoder), total


def _found_set(session: ClientState, name: str, timeout: float | None) -> Steps[SetInfo | None]:
    """The set as it stands now, or None."""
    try:
        info = feature_set((yield from unary(GET_SET, sets_pb2.GetSetRequest(set=name), timeout)))
    except NotFound:
        session.sets.pop(name, None)
        return None
    session.sets[name] = info
    return info


def _acknowledged(reply: sets_pb2.WriteResponse, chunk: WriteChunk) -> Acknowledged:
    """Read a reply. An item unreadable here came back as the failure of an empty one: its true error takes the place."""
    start = chunk.start
    failures = {start + item: error for item, error in messages.failures(reply.failures, start).items()}
    failures = dict(sorted({**failures, **chunk.failures}.items()))
    return Acknowledged(
        watermark=start + len(chunk),
        start=start,
        version=reply.version,
        inserted=reply.inserted,
        updated=reply.updated,
        unchanged=reply.unchanged,
        encoded=reply.encoded,
        failures=failures,
        failed_ids={position: chunk.ids[position - start] for position in failures},
    )


def _summed(done: Sequence[Acknowledged]) -> WriteReport:
    return WriteReport(
        items=done[-1].watermark if done else 0,
        inserted=sum(one.inserted for one in done),
        updated=sum(one.updated for one in done),
        unchanged=sum(one.unchanged for one in done),
        encoded=sum(one.encoded for one in done),
        version=max((one.version for one in done), default=0),
        failures={position: error for one in done for position, error in one.failures.items()},
        failed_ids={position: id for one in done for position, id in one.failed_ids.items()},
    )


def _read_labels(asked: WriteArguments) -> tuple[item_labels.IdSource | None, item_labels.MetadataSource]:
    """Ids that come twice are found here, before anything is sent."""
    ids = None if asked.ids is None else item_labels.ids_of(asked.ids)
    lone = [asked.metadata] if _is_lone_row(asked) else asked.metadata
    return ids, item_labels.metadata_of(lone)


def _is_lone_row(asked: WriteArguments) -> bool:
    """Tell whether the metadata is the one dict of the one item: no value of it is a column."""
    values = asked.metadata.values() if isinstance(asked.metadata, Mapping) else ()
    return isinstance(asked.ids, str | int) and bool(values) and not any(isinstance(value, list) for value in values)


def _modality(session: ClientState, asked: WriteArguments, info: SetInfo | None, timeout: float | None) -> Steps[str]:
    encoder = asked.encoder or (info.encoder if info else "")
    if not encoder and info is None:
        raise InvalidInput(f"there is no set {asked.set!r} yet", remedy="pass encoder= to make it")
    if not encoder:
        raise InvalidInput(f"the set {asked.set!r} is of no encoder", remedy="pass vectors= instead of items")
    if info and info.encoder == encoder:
        return info.reads
    return (yield from known_encoder(session, encoder, timeout)).reads


def _paths(modality: str) -> PathIds:
    if modality not in ("image", "video", "audio", _items.IMAGES_AND_TEXTS):
        raise InvalidInput(
            "there are no ids", remedy=f"{IDS}; only pictures, videos and recordings that are paths have them as their ids"
        )
    return PathIds()


def _target(asked: WriteArguments, info: SetInfo | None) -> VectorTarget:
    taps = asked.taps or [tap.name for tap in (info.taps if info else ())]
    fingerprint = asked.fingerprint or {}
    return VectorTarget(
        tap=taps[0] if len(taps) == 1 else "",
        fingerprints={"": fingerprint} if isinstance(fingerprint, str) else fingerprint,
        granularities={tap.name: tap.granularity for tap in (info.taps if info else ())},
        of_encoder=bool(asked.encoder or (info and info.encoder)),
    )


def _item_chunks(
    asked: WriteArguments, modality: str, labels: ItemLabels, pace: SendWindow
) -> tuple[Iterator[WriteChunk], int | None]:
    source = _items.listed(asked.items, modality)
    total = len(source) if isinstance(source, Sized) else None
    labels.check(total)
    return write_chunks.item_chunks(source, modality, labels, asked.skip_bad_items, pace), total


def _vector_chunks(asked: WriteArguments, info: SetInfo | None, labels: ItemLabels) -> tuple[Iterator[WriteChunk], int | None]:
    total = ready_vectors.total(asked.vectors)
    labels.check(total)
    pieces = ready_vectors.pieces(asked.vectors, _target(asked, info))
    return write_chunks.vector_chunks(pieces, labels), total
