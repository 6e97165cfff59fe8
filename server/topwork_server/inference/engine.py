"""Embeds items: preprocess them, run them through the encoder's batcher, gather the rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from topwork._display.excerpts import excerpt, listed

from topwork_server.access.passes import EncoderPass, require
from topwork_server.blocking_calls import together
from topwork_server.config import Config
from topwork_server.errors import DeadlineExceeded, InvalidInput, NotFound, Overloaded, TopworkError, Unavailable
from topwork_server.features import EmbedResult, TapRows, chunk_features, spans_of
from topwork_server.inference import tower_routing
from topwork_server.inference.batcher import BatchRequest, Rows
from topwork_server.inference.chunking import Chunker, check_chunking
from topwork_server.inference.deadline_admission import TimedRequest
from topwork_server.inference.embed_statistics import EmbedStatistics
from topwork_server.inference.model_cache import LoadedEncoder, LoadedTower, ModelCache
from topwork_server.inference.preprocessing import PreparedItem, PreprocessPool, RequestPreprocessor
from topwork_server.inference.roles import options_in_role
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import CatalogEntry
from topwork_server.models.chunk_taps import computed_tap
from topwork_server.plugin_api import options as request_options
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.runtime.device_selection import PlanSet
from topwork_server.telemetry import OFF, Telemetry
from topwork_server.types import FingerprintedTap, Granularity, Item, Modality, Priority, Role, Sample, Timings

T = TypeVar("T")


@dataclass(frozen=True)
class EmbedParams:
    """Parameters of a request. `deadline` is in time.monotonic(); `wait` waits for room in the queue (streams), instead of
    raising Overloaded at once; `skip_bad_items` gives a bad item no rows and a failure, instead of refusing the request. Clients,
    told apart by `client`, take turns. `role` is what the items are for, where that changes how the encoder prompts them."""

    encoder: EncoderPass
    taps: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    deadline: float | None = None
    wait: bool = False
    skip_bad_items: bool = False
    client: Hashable = None
    priority: Priority = Priority.NORMAL
    role: Role | None = None

    def __post_init__(self) -> None:
        require(self.encoder, EncoderPass)


@dataclass(slots=True)
class ItemResult:
    """One item's rows, a tuple a sample; its samples (without their inputs) where rows have spans; the sums of its notes; or its
    error."""

    rows: list[Rows] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    error: TopworkError | None = None

    def add_sample(self, sample: Sample, rows: Rows, *, spans: bool) -> None:
        self.rows.append(rows)
        if spans:  # without the inputs: an image's are 600 KB, its rows 4
            self.samples.append(Sample({}, sample.tokens, sample.window, sample.box, chunks=sample.chunks))
        for name, count in sample.notes.items():
            self.notes[name] = self.notes.get(name, 0) + count


class Engine:
    """Runs all encoders of one server. Coroutines run on one event loop."""

    def __init__(
        self,
        catalog: Catalog,
        config: Config,
        on_health: Callable[[str, bool], None] | None = None,
        telemetry: Telemetry = OFF,
    ) -> None:
        self._telemetry = telemetry
        self._threads = PreprocessPool(config.threads)
        self._model_cache = ModelCache(catalog, config, on_health or (lambda name, serving: None))
        #: By name, of the encoders that were used since the server began.
        self.statistics: dict[str, EmbedStatistics] = {}

    @property
    def provider_names(self) -> str:
        """Providers that may compute here, likely fastest first: "openvino or cpu"."""
        return self._model_cache.provider_names

    def is_busy(self) -> bool:
        """True if any encoder computes now; from any thread."""
        return self._model_cache.is_busy()

    def encoder_status(self, name: str) -> tuple[str, str] | None:
        """State and detail of an encoder, where this process knows more than the disk does."""
        return self._model_cache.status(name)

    def loaded_encoder(self, name: str) -> LoadedEncoder | None:
        """The encoder, if it is in memory."""
        return self._model_cache.get(name)

    def plans_of(self, entry: CatalogEntry) -> PlanSet | None:
        """The devices that compute a tower of an encoder here; None where that is not measured yet, no plans where no device does
        it."""
        return self._model_cache.plans_of(entry)

    @property
    def loaded_encoders(self) -> list[LoadedEncoder]:
        """The encoders in memory now."""
        return self._model_cache.loaded

    def acquire(self, name: EncoderPass) -> AbstractAsyncContextManager[LoadedEncoder]:
        """The encoder, loaded if need be, and kept in memory for as long as the context lasts."""
        return self._model_cache.acquire(require(name, EncoderPass))

    def unload(self, name: str) -> bool:
        """Drop an encoder from memory; False while it is in use."""
        return self._model_cache.unload(name)

    async def embed(self, params: EmbedParams, items: Sequence[Item]) -> EmbedResult:
        """Rows of every item, in order. Raises TopworkError; its `item` is set where one item is to blame."""
        async with self._model_cache.acquire(params.encoder) as loaded:
            started, statistics = time.monotonic(), self.statistics.setdefault(params.encoder, EmbedStatistics())
            with statistics.request():
                result = await self._embed_with(loaded, params, items)
            statistics.add(result, len(items), time.monotonic() - started)
            self._telemetry.steps(params.encoder, result.timings)
            return result

    async def _embed_with(self, loaded: LoadedEncoder, params: EmbedParams, items: Sequence[Item]) -> EmbedResult:
        taps = choose_taps(loaded, params.taps)
        params = _in_role(loaded, params)
        chosen = request_options.parse(request_options.declared_by(loaded.spec), params.options)
        check_chunking(chosen, params.role, taps, items, params.encoder)
        if len(loaded.towers) == 1:
            return await self._embed_in(loaded.towers[0], taps, params, chosen, items)
        routed = tower_routing.route_items(loaded, taps, items, skip=params.skip_bad_items)
        return await routed.embed(
            lambda tower, mine: self._embed_in(
                tower, taps, params, request_options.parse_own(tower.encoder.options, params.options), mine
            )
        )

    async def _embed_in(
        self, tower: LoadedTower, taps: tuple[FingerprintedTap, ...], params: EmbedParams, chosen: Any, items: Sequence[Item]
    ) -> EmbedResult:
        """Embed items in one tower, which reads all of them, with the options chosen."""
        async with tower.admission.reserve(len(items), wait=params.wait, client=params.client, priority=params.priority):
            preprocessor = RequestPreprocessor(
                tower.encoder,
                chosen,
                self._threads,
                skip=params.skip_bad_items,
                deadline=params.deadline,
                chunker=Chunker.of(tower.encoder, taps),
            )
            return await _Request(tower, taps, params, preprocessor).run(items)

    async def ask_encoder(self, params: EmbedParams, places: int, work: Callable[[Encoder, Any], T]) -> T:
        """Return what `work` makes of the encoder that reads texts and of the request's options, in a thread; meanwhile it takes
        so many places of the queue. InvalidInput where the encoder reads none."""
        async with self._model_cache.acquire(params.encoder) as loaded:
            tower = next((one for one in loaded.towers if one.encoder.spec.modality is Modality.TEXT), None)
            if tower is None:
                raise InvalidInput(f"{params.encoder} reads no texts", remedy="name an encoder of texts")
            params = _in_role(loaded, params)
            request_options.parse(request_options.declared_by(loaded.spec), params.options)
            chosen = request_options.parse_own(tower.encoder.options, params.options)
            asking = RequestPreprocessor(tower.encoder, chosen, self._threads, skip=False, deadline=params.deadline)
            async with tower.admission.reserve(places, wait=params.wait, client=params.client, priority=params.priority):
                try:
                    return await asking.run_in_pool(work, tower.encoder, chosen)
                finally:
                    asking.cancelled = True

    async def nearest(self, params: EmbedParams, items: Sequence[Item], count: int) -> list[list[tuple[str, float]]]:
        """Find for each item the `count` nearest entries of the encoder's own vocabulary."""
        async with self._model_cache.acquire(params.encoder) as loaded:
            tower, encoder = loaded.towers[0], loaded.towers[0].encoder
            if type(encoder).nearest is Encoder.nearest:
                raise InvalidInput(f"{params.encoder} has no vocabulary", remedy="ask for an encoder of word vectors")
            rows = (await self.embed(params, items)).taps[0].rows
            search = RequestPreprocessor(encoder, None, self._threads, skip=False, deadline=params.deadline)
            try:
                async with tower.admission.reserve(len(rows), wait=params.wait, client=params.client, priority=params.priority):
                    return [await search.run_in_pool(encoder.nearest, row, count) for row in rows]
            finally:
                search.cancelled = True

    async def close(self) -> None:
        """End sessions and exports. Requests must have ended before."""
        await self._model_cache.close()
        self._threads.close()


def _in_role(loaded: LoadedEncoder, params: EmbedParams) -> EmbedParams:
    """Return the parameters with the options that the role of the items asks for."""
    if params.role is None:
        return params
    return replace(params, options=options_in_role(loaded, params.role, params.options))


def choose_taps(loaded: LoadedEncoder, names: Sequence[str]) -> tuple[FingerprintedTap, ...]:
    """The named taps, or the default one. NotFound lists those that there are."""
    infos = {info.tap.name: info for info in loaded.taps}
    for name in names:
        if name not in infos:
            raise NotFound(f"{loaded.spec.name} has no tap {excerpt(name)}", remedy=f"its taps are {listed(infos, 50)}")
    if len(set(names)) != len(names):
        raise InvalidInput("a tap is named twice", remedy="name each tap once")
    return tuple(infos[name] for name in names or (loaded.spec.default_tap,))


class _Request:
    """One embed request: a few chunks of items at a time are preprocessed, submitted and awaited."""

    def __init__(
        self, tower: LoadedTower, taps: tuple[FingerprintedTap, ...], params: EmbedParams, preprocessor: RequestPreprocessor
    ) -> None:
        self._tower, self._taps, self._params, self._preprocessor = tower, taps, params, preprocessor
        self._plain_taps = tuple(computed_tap(info.tap, tower.manifest.taps) for info in taps)
        self._backend = tower.backend_for(self._plain_taps)
        self._spans = any(tap.granularity is not Granularity.ITEM for tap in self._plain_taps)
        self._pending: list[BatchRequest] = []
        self._timed: TimedRequest | None = None
        self._preprocess_seconds = self._queue_seconds = self._compute_seconds = 0.0
        self._cost = 0

    async def run(self, items: Sequence[Item]) -> EmbedResult:
        chunk = self._preprocessor.chunk_size
        if self._params.deadline is not None and not self._params.wait:
            self._timed = TimedRequest(self._params.deadline, len(items))
        try:
            encoded = await (self._encode_chunk(0, items) if len(items) <= chunk else self._encode_chunks(items, chunk))
        finally:
            self._preprocessor.cancelled = True
            for request in self._pending:
                request.cancel()  # no effect on those that are done
            if self._timed:
                self._tower.batcher.end_request(self._timed)
        return self._features(encoded)

    async def _encode_chunks(self, items: Sequence[Item], size: int) -> list[ItemResult]:
        gate = asyncio.Semaphore(self._preprocessor.chunks_in_flight)

        async def one(start: int) -> list[ItemResult]:
            async with gate:
                return await self._encode_chunk(start, items[start : start + size])

        return [encoded for chunk in await together(map(one, range(0, len(items), size))) for encoded in chunk]

    async def _encode_chunk(self, start: int, items: Sequence[Item]) -> list[ItemResult]:
        began = time.monotonic()
        try:
            prepared = await self._preprocessor.preprocess_chunk(start, items)
        except DeadlineExceeded:
            self._tower.batcher.count_expired(len(items))
            raise
        self._preprocess_seconds += time.monotonic() - began
        results = iter(await self._submit_and_wait([sample for one in prepared for sample in one.samples], len(items)))
        encoded = [self._item_result(one, results, start + i) for i, one in enumerate(prepared)]
        longer = [
            self._encode_rest(e, p.rest, start + i) for i, (e, p) in enumerate(zip(encoded, prepared, strict=True)) if p.rest
        ]
        if longer:
            await together(longer)
        return encoded

    async def _encode_rest(self, encoded: ItemResult, rest: Iterator[Sample], position: int) -> None:
        """Encode a long item's further samples: while some are computed, the next few are preprocessed."""
        more = await self._preprocessor.preprocess_more(rest, position)
        while more.samples and encoded.error is None:
            results, following = await asyncio.gather(
                self._submit_and_wait(more.samples), self._preprocessor.preprocess_more(rest, position)
            )
            self._add_results(encoded, more.samples, iter(results), position)
            more = following
        encoded.error = encoded.error or more.error

    async def _submit_and_wait(self, samples: list[Sample], items: int = 0) -> list[Rows | TopworkError]:
        """Submit samples, which belong to so many more `items`, and return their results."""
        params = self._params
        request = self._tower.batcher.submit(
            samples,
            self._plain_taps,
            params.deadline,
            backend=self._backend,
            client=params.client,
            priority=params.priority,
            timed_request=self._timed,
            items=items,
        )
        self._cost += request.cost
        self._pending.append(request)
        await request.done
        self._pending.remove(request)
        self._queue_seconds, self._compute_seconds = (
            max(self._queue_seconds, request.queue_seconds),
            self._compute_seconds + request.compute_seconds,
        )
        return request.results

    def _item_result(self, prepared: PreparedItem, results: Iterator[Rows | TopworkError], position: int) -> ItemResult:
        encoded = ItemResult(error=prepared.error)
        self._add_results(encoded, prepared.samples, results, position)
        return encoded

    def _add_results(
        self, encoded: ItemResult, samples: list[Sample], results: Iterator[Rows | TopworkError], position: int
    ) -> None:
        """Add the samples with their results, which are the next ones."""
        for sample in samples:
            result = next(results)
            if isinstance(result, Overloaded | DeadlineExceeded | Unavailable):
                raise result.at(None)  # the request's error: no item is to blame
            if isinstance(result, TopworkError):
                encoded.error = self._preprocessor.attribute_error(result, position)
            else:
                encoded.add_sample(sample, result, spans=self._spans)

    def _features(self, encoded: list[ItemResult]) -> EmbedResult:
        good = [e if e.error is None else ItemResult() for e in encoded]
        return EmbedResult(
            taps=tuple(_tap_rows(info, i, good) for i, info in enumerate(self._taps)),
            notes={i: e.notes for i, e in enumerate(good) if e.notes},
            failures={i: e.error for i, e in enumerate(encoded) if e.error is not None},
            numerics=self._tower.numerics_of(self._backend, [tap.name for tap in self._plain_taps]),
            timings=Timings(self._preprocess_seconds, self._queue_seconds, self._compute_seconds),
            cost=self._cost,
        )


def _tap_rows(info: FingerprintedTap, column: int, encoded: list[ItemResult]) -> TapRows:
    if info.tap.granularity is Granularity.CHUNK:
        return TapRows.join(info, [chunk_features(e.samples, [rows[column] for rows in e.rows], info.tap.dim) for e in encoded])
    parts = [rows[column] for e in encoded for rows in e.rows]
    rows = np.concatenate(parts) if parts else np.zeros((0, info.tap.dim), np.float32)
    counts = np.array([sum([len(rows[column]) for rows in e.rows]) for e in encoded], np.int64)
    return TapRows(info, rows, counts, spans_of(info.tap, [sample for e in encoded for sample in e.samples]))
