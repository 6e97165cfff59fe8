"""What a write asks for -> the feed of its chunks; their replies -> a report."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

from topwork._codec import items as _items
from topwork._codec.decode_sets import feature_set
from topwork._codec.metadata import ColumnTypes
from topwork._ops import embed_requests, embed_results, item_labels, ready_vectors, write_chunks
from topwork._ops.item_labels import IDS, PathIds
from topwork._ops.progress_bar import Progress, reporting
from topwork._ops.ready_vectors import VectorTarget
from topwork._ops.timeout_message import explained
from topwork._ops.write_chunks import ItemLabels, WriteChunk
from topwork._transport import status
from topwork._transport.calls import ClientState, Steps, StreamCall, unary, work
from topwork._transport.methods import GET_SET, WRITE
from topwork._transport.upload_stream import SendWindow, UploadStream
from topwork.errors import DeadlineExceeded, InvalidInput, NotFound, TopworkError
from topwork.sets import Acknowledged, SetInfo, WriteReport
from topwork.v1 import sets_pb2


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
        taps, keep, skip = list(self.taps or ()), self.keep_inputs, self.skip_bad_items
        return write_chunks.settings(self.set, self.encoder or "", taps, self.options, self.dtype, keep, skip, self.priority)

    def bridged(self, session: ClientState) -> WriteArguments:
        """With asynchronous sources turned into ones that a thread can read. Must be called where the event loop runs."""
        sources = {"items": self.items, "ids": self.ids, "metadata": self.metadata, "vectors": self.vectors}
        turned: dict[str, Any] = {
            name: session.blocking(source) for name, source in sources.items() if isinstance(source, AsyncIterable)
        }
        return replace(self, **turned)

    def release(self) -> None:
        """Nobody reads the sources any more."""
        for source in (self.items, self.ids, self.metadata, self.vectors):
            embed_requests.release(source)


@dataclass(frozen=True)
class WritePlan:
    """`total` is the number of items, where it is known; `encoder` reads them, none of ready vectors."""

    feed: UploadStream[WriteChunk]
    total: int | None
    encoder: str


def written(session: ClientState, asked: WriteArguments, progress: Progress, timeout: float | None) -> Steps[WriteReport]:
    """The whole write."""
    plan = yield from planned(session, asked, timeout)
    done: list[Acknowledged] = []
    with reporting(progress, plan.total, asked.set) as advance:

        def receive(reply: sets_pb2.WriteResponse, chunk: WriteChunk) -> None:
            done.append(acknowledged(reply, chunk))
            advance(len(chunk))

        try:
            yield StreamCall(WRITE, plan.feed, receive)
        except DeadlineExceeded as error:
            error.message += f"; {done[-1].watermark if done else 0:,} items are done"
            raise (yield from explained(session, plan.encoder, error)) from None
    return summed(done)


def planned(session: ClientState, asked: WriteArguments, timeout: float | None) -> Steps[WritePlan]:
    """Raises InvalidInput for what is wrong without a look at the items themselves."""
    if (asked.items is None) == (asked.vectors is None):
        raise InvalidInput("a write is of items or of vectors", remedy="pass one of the two")
    settings, asked = asked.settings(), asked.bridged(session)
    ids, metadata = yield from work(lambda: _read_labels(asked))
    info = yield from found(session, asked.set, timeout)
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
    feed = UploadStream(session, sets_pb2.WriteRequest(settings=settings), chunks, timeout, asked.release, pace)
    feed.encoder = encoder
    return WritePlan(feed, total, encoder)


def found(session: ClientState, name: str, timeout: float | None) -> Steps[SetInfo | None]:
    """The set as it stands now, or None."""
    try:
        info = feature_set((yield from unary(GET_SET, sets_pb2.GetSetRequest(set=name), timeout)))
    except NotFound:
        session.sets.pop(name, None)
        return None
    session.sets[name] = info
    return info


def acknowledged(reply: sets_pb2.WriteResponse, chunk: WriteChunk) -> Acknowledged:
    """What could not be read here has come back as a failure of an empty item: the true reason takes its place."""
    start = chunk.start
    failures: dict[int, TopworkError] = {
        start + f.item: status.failure(f.code, f.message, f.remedy, start + f.item) for f in reply.failures
    }
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


def summed(done: Sequence[Acknowledged]) -> WriteReport:
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
    """Whether the metadata is the one dict of the one item: no value of it is a column."""
    values = asked.metadata.values() if isinstance(asked.metadata, Mapping) else ()
    return isinstance(asked.ids, str | int) and bool(values) and not any(isinstance(value, list) for value in values)


def _modality(session: ClientState, asked: WriteArguments, info: SetInfo | None, timeout: float | None) -> Steps[str]:
    encoder = asked.encoder or (info.encoder if info else "")
    if not encoder and info is None:
        raise InvalidInput(f"there is no set {asked.set!r} yet", remedy="pass encoder= to make it")
    if not encoder:
        raise InvalidInput(f"the set {asked.set!r} is of no encoder", remedy="pass vectors= instead of items")
    if info and info.encoder == encoder:
        return info.modality
    return (yield from embed_results.known(session, encoder, timeout)).modality


def _paths(modality: str) -> PathIds:
    if modality not in ("image", "video"):
        raise InvalidInput("there are no ids", remedy=f"{IDS}; only pictures and videos that are paths have them as their ids")
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
