"""Writes of items and ready features to sets, without encoding again what is known.

For each message the pipeline asks the set, then the cache, then the encoder for the rest, in one call. Its write follows that of
the message before it. Several messages of a stream are in progress at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from topwork_server.access.passes import encoder_pass
from topwork_server.errors import AlreadyExists, InvalidInput, NotFound, TopworkError
from topwork_server.feature_sets.set_types import ItemBatch, SetDefinition, WriteResult
from topwork_server.features import TapRows
from topwork_server.inference.engine import Engine, choose_taps
from topwork_server.inference.roles import options_of_documents
from topwork_server.ingest import deduplication, validation
from topwork_server.ingest.deduplication import DeduplicatedItems
from topwork_server.ingest.encoding import EncodeParams, MessageEncoder, map_item_positions
from topwork_server.ingest.feature_cache import FeatureCache
from topwork_server.ingest.validation import IncomingItems, WriteSettings
from topwork_server.models.catalog import Catalog
from topwork_server.names import check_name
from topwork_server.types import Item, Numerics

if TYPE_CHECKING:
    from topwork_server.feature_sets.feature_set import FeatureSet
    from topwork_server.feature_sets.set_registry import FeatureSets

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class IngestOutcome:
    """The result of one message. `failures` go by position in the message; `encoded` went through the encoder."""

    written: WriteResult
    encoded: int = 0
    failures: Mapping[int, TopworkError] = field(default_factory=dict)


class IngestPipeline:
    """The pipeline of all writes to sets. Coroutines on one event loop; blocking work in a few threads of its own."""

    def __init__(self, sets: FeatureSets, engine: Engine, catalog: Catalog, cache: FeatureCache) -> None:
        self.sets, self.engine, self.catalog, self.cache = sets, engine, catalog, cache
        self._pool = ThreadPoolExecutor(8, "sets")
        self.encoding = MessageEncoder(engine, cache, self.in_thread)

    async def open(self, settings: WriteSettings, deadline: float | None = None) -> WriteSession:
        """A stream of writes. NotReady where the set is there and is something else than the settings say.

        `deadline` is in time.monotonic(), for work that waits in the encoder's queue.
        """
        return WriteSession(self, settings, deadline, await self.in_thread(self._existing_set, settings))

    async def in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *arguments))

    async def close(self) -> None:
        """Streams must have ended before."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.cache.close)

    def _existing_set(self, settings: WriteSettings) -> FeatureSet | None:
        check_name(settings.set, "a feature set")
        try:
            found = self.sets.get(settings.set)
        except NotFound:
            if settings.encoder:
                validation.full_options(self.catalog.spec(settings.encoder), settings.options)
            return None
        validation.check_settings(settings, found.definition, self.catalog)
        return found


class WriteSession:
    """A write stream. `next_slot` is called as a message comes, in order; `write` may then be awaited for many at a time."""

    def __init__(
        self, ingest: IngestPipeline, settings: WriteSettings, deadline: float | None, feature_set: FeatureSet | None
    ) -> None:
        self.settings = settings
        self._ingest = ingest
        self._deadline = deadline
        self._set = feature_set
        self._definition = feature_set.definition if feature_set else None
        self._sequencer = Sequencer()
        self._definition_lock = asyncio.Lock()
        self.next_slot = self._sequencer.next_slot

    async def write(self, place: SequencerSlot, incoming: IncomingItems) -> IngestOutcome:
        """Upsert one message. Raises TopworkError, with the position in the message where one item is to blame; then nothing of
        it, nor of the messages behind it, is written."""
        try:
            definition = await self._resolve_definition(incoming)
            if incoming.features:
                return await self._write_features(place, incoming, definition)
            return await self._write_items(place, incoming, definition)
        finally:
            place.release()

    async def _resolve_definition(self, incoming: IncomingItems) -> SetDefinition:
        """Return what the set is, or will be; the first message of the stream resolves it."""
        async with self._definition_lock:
            if self._definition is None:
                self._definition = await self._new_definition(incoming)
            return self._definition

    async def _new_definition(self, incoming: IncomingItems) -> SetDefinition:
        settings, engine = self.settings, self._ingest.engine
        if not settings.encoder:
            if incoming.features:
                return validation.definition_from_features(settings, incoming.features)
            raise NotFound(f"there is no set {settings.set!r}", remedy="to make it, name the encoder of its items")
        async with engine.acquire(encoder_pass(settings.encoder)) as loaded:
            taps, spec = choose_taps(loaded, settings.taps), loaded.spec
            options = validation.full_options(spec, options_of_documents(loaded, settings.options))
        dtype = settings.dtype or "float32"
        return SetDefinition(settings.set, taps, settings.encoder, options, spec.modalities, dtype, settings.keep_inputs)

    async def _write_features(self, place: SequencerSlot, incoming: IncomingItems, definition: SetDefinition) -> IngestOutcome:
        features = validation.match_features(incoming.features, definition)
        batch = replace(incoming.good_items(), taps=features)
        with map_item_positions(incoming.positions):
            return IngestOutcome(await self._submit(place, batch, incoming.numerics), 0, incoming.failures)

    async def _write_items(self, place: SequencerSlot, incoming: IncomingItems, definition: SetDefinition) -> IngestOutcome:
        if not definition.encoder:
            raise InvalidInput(
                f"the set {definition.name} is of ready vectors: it has no encoder", remedy="send features, not items"
            )
        await place.wait_for_earlier_ids()
        batch, items, ingest = incoming.good_items(), incoming.items, self._ingest
        with map_item_positions(incoming.positions):
            deduplicated = await ingest.in_thread(deduplication.deduplicate, items, batch, definition, self._set, ingest.cache)
            params = EncodeParams(
                definition, self._deadline, self.settings.skip_bad_items, client=self, priority=self.settings.priority
            )
            encoded, failures = await ingest.encoding.encode(items, deduplicated, params)
            positions = [i for i in range(len(items)) if i in deduplicated.features]
            with map_item_positions(positions):
                written = await self._submit(
                    place, _batch_to_write(batch, items, deduplicated, positions, definition), _numerics(deduplicated)
                )
        failures = {incoming.positions[i]: error for i, error in failures.items()}
        written = replace(written, unchanged=len(deduplicated.unchanged))
        return IngestOutcome(written, encoded, {**incoming.failures, **failures})

    async def _submit(self, place: SequencerSlot, batch: ItemBatch, numerics: Numerics | None) -> WriteResult:
        """Submit a batch in its turn, then wait until it is on disk."""
        await place.wait_for_turn()
        if not batch.ids:
            place.submitted.set()
            return WriteResult(self._set.version if self._set else 0, 0, 0)
        future = await self._ingest.in_thread(self._write_now, batch, numerics)
        place.submitted.set()
        return await asyncio.wrap_future(future)

    def _write_now(self, batch: ItemBatch, numerics: Numerics | None) -> Future[WriteResult]:
        """Write in a thread, one message of the stream at a time."""
        if self._set is None and (written := self._create_set(batch, numerics)):
            return written
        assert self._set is not None
        return self._set.write(batch, numerics=numerics)

    def _create_set(self, batch: ItemBatch, numerics: Numerics | None) -> Future[WriteResult] | None:
        """The set with its first rows, in one step; None where another stream was faster: then it is written to as any other."""
        assert self._definition is not None
        try:
            self._set, written = self._ingest.sets.create_with(self._definition, batch, numerics)
        except AlreadyExists:
            self._set = self._ingest.sets.get(self.settings.set)
            validation.check_same_definition(self._definition, self._set.definition)
            self._definition = self._set.definition
            return None
        done: Future[WriteResult] = Future()
        done.set_result(written)
        return done


def _batch_to_write(
    batch: ItemBatch, items: Sequence[Item], deduplicated: DeduplicatedItems, positions: Sequence[int], definition: SetDefinition
) -> ItemBatch:
    """Build the batch to write: the items at those positions, with features, digests and, where they are kept, themselves."""
    columns = zip(*(deduplicated.features[i] for i in positions), strict=True)
    return replace(
        batch.take(positions),
        taps=tuple(TapRows.join(info, pieces) for info, pieces in zip(definition.taps, columns, strict=bool(positions))),
        content_hashes=[deduplicated.content_hashes[i] for i in positions],
        inputs=[items[i] for i in positions] if definition.keep_inputs else (),
    )


def _numerics(deduplicated: DeduplicatedItems) -> Numerics | None:
    """Return the numerics of the rows; of several those farthest from the reference."""
    return min(deduplicated.numerics, key=lambda numerics: numerics.parity, default=None)


class Sequencer:
    """Hands out slots in order. On the event loop."""

    def __init__(self) -> None:
        self._last: asyncio.Event | None = None
        self._claims: dict[str, SequencerSlot] = {}
        self.items = 0

    def next_slot(self, ids: Sequence[str]) -> SequencerSlot:
        """Take the next slot, before anything is awaited."""
        self.items += len(ids)
        place = SequencerSlot(self._claims, ids, self._last, self.items)
        self._last = place.submitted
        return place


class SequencerSlot:
    """The slot of one message. `watermark` counts the items of the stream up to and with it.

    A message that fails never says `submitted`: those behind it wait until their stream is cancelled, and write nothing.
    """

    def __init__(
        self, claims: dict[str, SequencerSlot], ids: Sequence[str], before: asyncio.Event | None, watermark: int
    ) -> None:
        self.watermark = watermark
        self.submitted = asyncio.Event()
        self._before = before
        self._done = asyncio.Event()
        self._claims, self._ids = claims, ids
        self._earlier = {claims[id] for id in ids if id in claims}
        claims.update(dict.fromkeys(ids, self))

    async def wait_for_earlier_ids(self) -> None:
        """Wait until earlier messages with any of these ids are done: only then does the set know what these ids hold."""
        for place in self._earlier:
            await place._done.wait()

    async def wait_for_turn(self) -> None:
        """Wait until the write of the message before was submitted."""
        if self._before:
            await self._before.wait()

    def release(self) -> None:
        """Release the slot of a message that is done or given up."""
        self._done.set()
        for id in self._ids:
            if self._claims.get(id) is self:
                del self._claims[id]
