"""The FeatureSets service: writes, reads, changes and lists feature sets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from topwork.v1 import sets_pb2, sets_pb2_grpc

from topwork_server.access.passes import SetPass, set_pass, visible_sets
from topwork_server.blocking_calls import BlockingCaller, Check, in_thread
from topwork_server.errors import InvalidInput, NotFound, TooLarge, TopworkError
from topwork_server.feature_sets.set_types import ItemBatch, ReadResult, Selection
from topwork_server.heads.version_pins import RESERVED_PREFIXES
from topwork_server.ingest import validation
from topwork_server.ingest.pipeline import IngestPipeline
from topwork_server.ingest.validation import IncomingItems
from topwork_server.services.convert import item_messages, set_messages
from topwork_server.services.message_budget import MAX_MESSAGE
from topwork_server.services.request_checks import Context, check_set_name, deadline
from topwork_server.services.streaming import RequestStream, load_of, settings_of
from topwork_server.services.uploads import Upload, UploadStore

if TYPE_CHECKING:
    from topwork_server.feature_sets.feature_set import FeatureSet

#: So many texts take the room of one in the window of a stream: while a write waits for the disk the encoder must not run dry.
TEXTS = 2

log = logging.getLogger(__name__)


DropSet: TypeAlias = Callable[[SetPass, Callable[[SetPass], None]], Awaitable[None]]


class FeatureSetsService(sets_pb2_grpc.FeatureSetsServicer):
    """`indexes_of` lists the names of a set's indexes; `drop_set` deletes them, then the set by what it is given."""

    def __init__(
        self,
        ingest: IngestPipeline,
        spool: UploadStore,
        max_items: int,
        indexes_of: Callable[[str], Sequence[str]],
        drop_set: DropSet,
        stopping: asyncio.Event,
    ) -> None:
        self._ingest, self._sets = ingest, ingest.sets
        self._spool = spool
        self._max_items = max_items
        self._indexes_of = indexes_of
        self._drop_set, self._stopping = drop_set, stopping

    async def ListSets(self, request: sets_pb2.ListSetsRequest, context: Context) -> sets_pb2.ListSetsResponse:  # noqa: N802
        return sets_pb2.ListSetsResponse(sets=await asyncio.to_thread(self._all))

    async def GetSet(self, request: sets_pb2.GetSetRequest, context: Context) -> sets_pb2.FeatureSet:  # noqa: N802
        return await asyncio.to_thread(self._describe, check_set_name(request.set))

    async def DropSet(self, request: sets_pb2.DropSetRequest, context: Context) -> sets_pb2.DropSetResponse:  # noqa: N802
        await self._drop_set(check_set_name(request.set), self._sets.drop)
        return sets_pb2.DropSetResponse()

    async def Write(self, requests: AsyncIterator[sets_pb2.WriteRequest], context: Context) -> None:  # noqa: N802
        first = await settings_of(requests, "rows", self._stopping)
        writing = await self._ingest.open(set_messages.settings(first.settings), deadline(context))
        skip = writing.settings.skip_bad_items

        async def answer(message: sets_pb2.WriteRequest, upload: Upload | None) -> sets_pb2.WriteResponse:
            rows = message.rows
            place = writing.next_slot(rows.ids)  # before anything is awaited: the order of the stream
            if len(rows.items) > self._max_items:
                raise InvalidInput(
                    f"{len(rows.items)} items in one message, which may have {self._max_items}", remedy="send smaller messages"
                )
            found = await self._ingest.in_thread(_incoming, rows, upload, skip)
            return set_messages.write_response(await writing.write(place, found), place.watermark)

        await RequestStream("rows", answer, _load, self._spool, self._stopping).run(requests, context.write)

    async def Read(self, request: sets_pb2.ReadRequest, context: Context) -> None:  # noqa: N802
        feature_set = await self._get(request.set)
        caller = BlockingCaller(deadline(context))
        messages = _messages(feature_set, set_messages.selection(request), caller.check)
        ahead = _next(messages)
        try:
            while message := await asyncio.shield(ahead):
                ahead = _next(messages)
                await context.write(message)
        finally:
            caller.leave()
            await asyncio.wait({ahead})  # a generator that runs cannot be closed
            _ = ahead.cancelled() or ahead.exception()  # else asyncio reports it as never retrieved
            await asyncio.to_thread(messages.close)

    async def DeleteRows(self, request: sets_pb2.DeleteRowsRequest, context: Context) -> sets_pb2.DeleteRowsResponse:  # noqa: N802
        if bool(request.ids) == bool(request.where):
            raise InvalidInput("give ids or a filter to delete by, one of them", remedy="to delete all, drop the set")
        feature_set = await self._get(request.set)
        with BlockingCaller(deadline(context)) as caller:
            future = await asyncio.to_thread(feature_set.delete, list(request.ids) or None, request.where, caller.check)
            deleted, version = await asyncio.wrap_future(future)
        return sets_pb2.DeleteRowsResponse(deleted=deleted, version=version)

    async def CountRows(self, request: sets_pb2.CountRowsRequest, context: Context) -> sets_pb2.CountRowsResponse:  # noqa: N802
        feature_set = await self._get(request.set)
        count = partial(feature_set.count, request.where, request.version)
        found, version = await in_thread(lambda check: count(check=check), deadline(context))
        return sets_pb2.CountRowsResponse(count=found, version=version)

    async def UpdateRows(self, request: sets_pb2.UpdateRowsRequest, context: Context) -> sets_pb2.UpdateRowsResponse:  # noqa: N802
        feature_set = await self._get(request.set)
        columns = set_messages.columns(request.metadata, 1 if request.where else len(request.ids))
        update = partial(feature_set.update, columns, list(request.ids), request.where)
        updated = await in_thread(lambda check: update(check=check), deadline(context))
        return sets_pb2.UpdateRowsResponse(updated=updated.items, missing=updated.missing, version=updated.version)

    async def ChangeColumn(self, request: sets_pb2.ChangeColumnRequest, context: Context) -> sets_pb2.FeatureSet:  # noqa: N802
        feature_set = await self._get(request.set)
        await asyncio.to_thread(set_messages.column_change(request), feature_set)
        return await asyncio.to_thread(self._describe, check_set_name(request.set))

    async def ListVersions(self, request: sets_pb2.ListVersionsRequest, context: Context) -> sets_pb2.ListVersionsResponse:  # noqa: N802
        feature_set = await self._get(request.set)
        found = await asyncio.to_thread(feature_set.versions)
        damaged = await asyncio.to_thread(feature_set.damaged_pins)
        return set_messages.versions(found, damaged)

    async def PinVersion(self, request: sets_pb2.PinVersionRequest, context: Context) -> sets_pb2.Version:  # noqa: N802
        if request.pin.startswith(RESERVED_PREFIXES):
            raise InvalidInput(
                f"{request.pin!r} is a name of the server's own pins: heads keep versions so", remedy="choose another name"
            )
        feature_set = await self._get(request.set)
        return set_messages.version(await asyncio.to_thread(feature_set.pin, request.pin, request.version))

    async def UnpinVersion(self, request: sets_pb2.UnpinVersionRequest, context: Context) -> sets_pb2.UnpinVersionResponse:  # noqa: N802
        feature_set = await self._get(request.set)
        await asyncio.to_thread(feature_set.unpin, request.pin)
        return sets_pb2.UnpinVersionResponse()

    async def PruneVersions(  # noqa: N802
        self, request: sets_pb2.PruneVersionsRequest, context: Context
    ) -> sets_pb2.PruneVersionsResponse:
        if not request.older_than >= 0:
            raise InvalidInput(f"versions older than {request.older_than} seconds", remedy="give 0 or more")
        feature_set = await self._get(request.set)
        removed, size = await asyncio.to_thread(feature_set.prune, request.older_than)
        return sets_pb2.PruneVersionsResponse(removed=removed, bytes=size)

    async def _get(self, name: str) -> FeatureSet:
        return await asyncio.to_thread(self._sets.get, check_set_name(name))

    def _describe(self, name: SetPass) -> sets_pb2.FeatureSet:
        return set_messages.feature_set(self._sets.get(name).describe(), self._indexes_of(name))

    def _all(self) -> list[sets_pb2.FeatureSet]:
        """Describe all sets that the caller may use; one that cannot be opened must not hide the others."""
        found = []
        for name in map(set_pass, visible_sets(self._sets.names())):
            try:
                found.append(self._describe(name))
            except NotFound:  # it was dropped meanwhile
                continue
            except TopworkError as error:
                found.append(sets_pb2.FeatureSet(name=name, damage=error.message))
            except Exception as error:
                log.exception("set=%s cannot be described", name)
                found.append(sets_pb2.FeatureSet(name=name, damage=f"it cannot be read: {type(error).__name__}"))
        return found


def _load(message: sets_pb2.WriteRequest) -> float:
    """Return how many items the encoder is to hold at a time for a message."""
    load = load_of(message.rows.items)
    return load / TEXTS if load == len(message.rows.items) else load


def _incoming(rows: sets_pb2.WriteRows, upload: Upload | None, skip: bool) -> IncomingItems:
    """Convert the rows of a message, in a thread: 4 MB of features take a few milliseconds."""
    validation.check_message_ids(rows.ids)
    if bool(rows.items) == bool(rows.features):
        raise InvalidInput(
            "a message of rows has items or features, one of them", remedy="send items, or features that are ready"
        )
    metadata = set_messages.columns(rows.metadata, len(rows.ids))
    path = upload.path if upload else None
    if rows.features:
        item_messages.items((), path, skip=skip)  # refuses chunks of a video that no item takes
        features = set_messages.features(rows.features, len(rows.ids))
        return validation.incoming_features(list(rows.ids), features, metadata, set_messages.numerics(rows), skip_bad_items=skip)
    validation.check_count(rows.ids, len(rows.items), "items")
    items, positions, failures = item_messages.items(rows.items, path, skip=skip)
    return IncomingItems(list(rows.ids), items, positions, failures, metadata=metadata)


def _next(messages: Iterator[sets_pb2.ReadResponse]) -> asyncio.Future[sets_pb2.ReadResponse | None]:
    """The next message, made in a thread while the one before is sent; None at the end."""
    return asyncio.ensure_future(asyncio.to_thread(next, messages, None))


def _messages(feature_set: FeatureSet, selection: Selection, check: Check) -> Generator[sets_pb2.ReadResponse]:
    """Yield at least one message: where no item is selected, it says so, and which taps and columns there would be."""
    reading = feature_set.read(selection, check)
    sent = False
    try:
        for block in reading.batches:
            for message in _within_bounds(block, reading):
                sent = True
                yield message
    finally:
        close = getattr(reading.batches, "close", bool)  # else its version is held until it is collected
        close()
    if not sent:
        taps = [info.tap.name for info in feature_set.definition.taps] if selection.taps is None else selection.taps
        block = feature_set.fetch(np.zeros(0, np.int64), taps=taps, columns=selection.columns, inputs=selection.inputs)
        yield set_messages.read_response(block, reading)


def _within_bounds(block: ItemBatch, reading: ReadResult) -> Iterator[sets_pb2.ReadResponse]:
    """Yield one message of the block, or as many as it takes. TooLarge where one item alone is larger than a message may be."""
    message = set_messages.read_response(block, reading)
    if message.ByteSize() <= MAX_MESSAGE:
        yield message
        return
    half = len(block.ids) // 2
    if not half:
        raise TooLarge(
            f"the item {block.ids[0]!r} has {message.ByteSize()} bytes, and a message may have {MAX_MESSAGE}",
            remedy="read fewer taps, or no inputs",
        )
    del message
    yield from _within_bounds(block.take(range(half)), reading)
    yield from _within_bounds(block.take(range(half, len(block.ids))), reading)
