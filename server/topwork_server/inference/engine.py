"""Encoder name -> preprocess threads, batcher, session. A request walks down once: prepare, ride, gather the rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from topwork_server.config import Config
from topwork_server.errors import DeadlineExceeded, InvalidInput, NotFound, Overloaded, TopworkError, Unavailable
from topwork_server.excerpts import excerpt, listed
from topwork_server.features import spans_of
from topwork_server.inference.batcher import BatchRequest, Rows
from topwork_server.inference.model_cache import LoadedEncoder, ModelCache
from topwork_server.inference.preprocessing import PreparedItem, PreprocessPool, RequestPreprocessor
from topwork_server.inference.request_deadlines import TimedRequest
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api import options as request_options
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.types import Features, Granularity, Item, Priority, Sample, TapInfo, TapRows, Timings


@dataclass(frozen=True)
class EmbedParams:
    """What a caller wants. `deadline` is in time.monotonic(); `wait` is for room in the queue (streams), else Overloaded at once;
    `skip_bad_items` gives a bad item no rows and a failure, instead of refusing the request. Flows, which are those who share
    in turns, are told apart by `flow`."""

    encoder: str
    taps: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    deadline: float | None = None
    wait: bool = False
    skip_bad_items: bool = False
    flow: Hashable = None
    priority: Priority = Priority.NORMAL


@dataclass(slots=True)
class ItemResult:
    """One item's rows, a tuple a sample; its samples (their inputs dropped) where rows have spans; what its notes come to; or
    its error."""

    rows: list[Rows] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    error: TopworkError | None = None

    def add(self, sample: Sample, rows: Rows, *, spans: bool) -> None:
        self.rows.append(rows)
        if spans:  # inputs are dropped here: a picture's are 600 KB, its rows 4
            self.samples.append(Sample({}, sample.tokens, sample.window, sample.box))
        for name, count in sample.notes.items():
            self.notes[name] = self.notes.get(name, 0) + count


class Engine:
    """All encoders of one server. Coroutines run on one event loop."""

    def __init__(self, catalogue: Catalog, config: Config, on_health: Callable[[str, bool], None] | None = None) -> None:
        self._threads = PreprocessPool(config.threads)
        self.garage = ModelCache(catalogue, config, on_health or (lambda name, serving: None))

    async def embed(self, ask: EmbedParams, items: Sequence[Item]) -> Features:
        """Rows of every item in order; none of none. Raises TopworkError; `item` is set where one item is to blame."""
        async with self.garage.using(ask.encoder) as loaded:
            taps = choose_taps(loaded, ask.taps)
            chosen = request_options.parse(loaded.encoder.options, ask.options)
            async with loaded.room.places(len(items), wait=ask.wait, flow=ask.flow, priority=ask.priority):
                preparation = RequestPreprocessor(
                    loaded.encoder, chosen, self._threads, skip=ask.skip_bad_items, deadline=ask.deadline
                )
                return await _Request(loaded, taps, ask, preparation).run(items)

    async def nearest(self, ask: EmbedParams, items: Sequence[Item], count: int) -> list[list[tuple[str, float]]]:
        """For each item, the `count` nearest entries of the encoder's own vocabulary."""
        async with self.garage.using(ask.encoder) as loaded:
            encoder = loaded.encoder
            if type(encoder).nearest is Encoder.nearest:
                raise InvalidInput(f"{ask.encoder} has no vocabulary", remedy="ask an encoder of word vectors")
            rows = (await self.embed(ask, items)).taps[0].rows
            search = RequestPreprocessor(encoder, None, self._threads, skip=False, deadline=ask.deadline)
            try:
                async with loaded.room.places(len(rows), wait=ask.wait, flow=ask.flow, priority=ask.priority):
                    return [await search.run(encoder.nearest, row, count) for row in rows]
            finally:
                search.left = True

    async def close(self) -> None:
        """End sessions and exports. Requests must have ended before."""
        await self.garage.close()
        self._threads.close()


def choose_taps(loaded: LoadedEncoder, names: Sequence[str]) -> tuple[TapInfo, ...]:
    """NotFound names the taps that there are."""
    infos = {info.tap.name: info for info in loaded.manifest.taps}
    for name in names:
        if name not in infos:
            raise NotFound(f"{loaded.encoder.spec.name} has no tap {excerpt(name)}", remedy=f"its taps are {listed(infos, 50)}")
    if len(set(names)) != len(names):
        raise InvalidInput("a tap is named twice", remedy="name each tap once")
    return tuple(infos[name] for name in names or (loaded.encoder.spec.default_tap,))


class _Request:
    """One embed on its way: a few slabs of items in the works at a time, each prepared, submitted and awaited."""

    def __init__(
        self, loaded: LoadedEncoder, taps: tuple[TapInfo, ...], ask: EmbedParams, preparation: RequestPreprocessor
    ) -> None:
        self._loaded, self._taps, self._ask, self._preparation = loaded, taps, ask, preparation
        self._plain_taps = tuple(info.tap for info in taps)
        self._lane = loaded.lane_of(self._plain_taps)
        self._spans = any(tap.granularity is not Granularity.ITEM for tap in self._plain_taps)
        self._tickets: list[BatchRequest] = []
        self._timed: TimedRequest | None = None
        self._prepare = self._queue = self._compute = 0.0

    async def run(self, items: Sequence[Item]) -> Features:
        slab = self._preparation.slab
        if self._ask.deadline is not None and not self._ask.wait:
            self._timed = TimedRequest(self._ask.deadline, len(items))
        try:
            encoded = await (self._slab(0, items) if len(items) <= slab else self._slabs(items, slab))
        finally:
            self._preparation.left = True
            for ticket in self._tickets:
                ticket.cancel()  # of no effect on those that are done
            if self._timed:
                self._loaded.batcher.end(self._timed)
        return self._features(encoded)

    async def _slabs(self, items: Sequence[Item], size: int) -> list[ItemResult]:
        gate = asyncio.Semaphore(self._preparation.slabs_in_flight)

        async def one(start: int) -> list[ItemResult]:
            async with gate:
                return await self._slab(start, items[start : start + size])

        tasks = [asyncio.ensure_future(one(start)) for start in range(0, len(items), size)]
        try:
            return [encoded for slab in await asyncio.gather(*tasks) for encoded in slab]
        finally:
            for task in tasks:
                task.cancel()

    async def _slab(self, start: int, items: Sequence[Item]) -> list[ItemResult]:
        began = time.monotonic()
        try:
            prepared = await self._preparation.slab_of(start, items)
        except DeadlineExceeded:
            self._loaded.batcher.count_expired(len(items))
            raise
        self._prepare += time.monotonic() - began
        results = iter(await self._ride([sample for one in prepared for sample in one.samples], len(items)))
        encoded = [self._settled(one, results, start + i) for i, one in enumerate(prepared)]
        longer = [self._rest(e, p.rest, start + i) for i, (e, p) in enumerate(zip(encoded, prepared, strict=True)) if p.rest]
        if longer:
            await asyncio.gather(*longer)
        return encoded

    async def _rest(self, encoded: ItemResult, rest: Iterator[Sample], position: int) -> None:
        """A long item's further samples: while some are in the session, the next few are prepared."""
        more = await self._preparation.more(rest, position)
        while more.samples and encoded.error is None:
            results, following = await asyncio.gather(self._ride(more.samples), self._preparation.more(rest, position))
            self._add(encoded, more.samples, iter(results), position)
            more = following
        encoded.error = encoded.error or more.error

    async def _ride(self, samples: list[Sample], items: int = 0) -> list[Rows | TopworkError]:
        """`items` are how many more these samples are of."""
        ask = self._ask
        ticket = self._loaded.batcher.submit(
            samples,
            self._plain_taps,
            ask.deadline,
            lane=self._lane,
            flow=ask.flow,
            priority=ask.priority,
            request=self._timed,
            items=items,
        )
        self._tickets.append(ticket)
        await ticket.done
        self._tickets.remove(ticket)
        self._queue, self._compute = max(self._queue, ticket.queued), self._compute + ticket.computed
        return ticket.results

    def _settled(self, prepared: PreparedItem, results: Iterator[Rows | TopworkError], position: int) -> ItemResult:
        encoded = ItemResult(error=prepared.error)
        self._add(encoded, prepared.samples, results, position)
        return encoded

    def _add(self, encoded: ItemResult, samples: list[Sample], results: Iterator[Rows | TopworkError], position: int) -> None:
        """The results of `samples` are the next ones."""
        for sample in samples:
            result = next(results)
            if isinstance(result, Overloaded | DeadlineExceeded | Unavailable):
                raise result.at(None)  # of the request, and no item is to blame
            if isinstance(result, TopworkError):
                encoded.error = self._preparation.blame(result, position)
            else:
                encoded.add(sample, result, spans=self._spans)

    def _features(self, encoded: list[ItemResult]) -> Features:
        good = [e if e.error is None else ItemResult() for e in encoded]
        return Features(
            taps=tuple(_tap_rows(info, i, good) for i, info in enumerate(self._taps)),
            notes={i: e.notes for i, e in enumerate(good) if e.notes},
            failures={i: e.error for i, e in enumerate(encoded) if e.error is not None},
            numerics=self._loaded.numerics_of(self._lane, [tap.name for tap in self._plain_taps]),
            timings=Timings(self._prepare, self._queue, self._compute),
        )


def _tap_rows(info: TapInfo, column: int, encoded: list[ItemResult]) -> TapRows:
    parts = [rows[column] for e in encoded for rows in e.rows]
    rows = np.concatenate(parts) if parts else np.zeros((0, info.tap.dim), np.float32)
    counts = np.array([sum([len(rows[column]) for rows in e.rows]) for e in encoded], np.int64)
    return TapRows(info, rows, counts, spans_of(info.tap, [sample for e in encoded for sample in e.samples]))
