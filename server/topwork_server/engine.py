"""Encoder name -> preprocess pool, batcher, session. A request walks down once: prepare in threads, ride, gather the rows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Any

import numpy as np

from topwork_server import options as request_options
from topwork_server.batcher import Rows, Ticket
from topwork_server.catalogue import Catalogue
from topwork_server.config import Config
from topwork_server.encoder import Encoder
from topwork_server.errors import InvalidInput, NotFound, TopworkError
from topwork_server.garage import Garage, Loaded
from topwork_server.taprows import spans_of
from topwork_server.types import Features, Item, Modality, Sample, Tap, TapInfo, TapRows, Timings

log = logging.getLogger(__name__)

#: Items that one thread prepares at a time, and samples of one long item that are taken ahead of the session.
SLAB = {Modality.TEXT: 32, Modality.IMAGE: 8, Modality.VIDEO: 1, Modality.TENSOR: 8}
AHEAD = 4
#: Slabs of one request in the works: enough to fill batches, few enough to bound memory.
SLABS_IN_FLIGHT = 4


@dataclass(frozen=True)
class Ask:
    """What a caller wants. `deadline` is in time.monotonic(); `wait` is for room in the queue (streams), else Overloaded at once;
    `skip_bad_items` gives a bad item no rows and a failure, instead of refusing the request."""

    encoder: str
    taps: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    deadline: float | None = None
    wait: bool = False
    skip_bad_items: bool = False


@dataclass(slots=True)
class Prepared:
    """One item after preprocessing: its samples, or the first few and where more come from, or what was wrong with it."""

    samples: list[Sample]
    rest: Iterator[Sample] | None = None
    error: TopworkError | None = None


@dataclass(slots=True)
class Encoded:
    """One item's samples (their inputs dropped) and rows, or its error."""

    samples: list[Sample] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    error: TopworkError | None = None


class Engine:
    """All encoders of one server. Coroutines run on one event loop."""

    def __init__(self, catalogue: Catalogue, config: Config, on_health: Callable[[str, bool], None] | None = None) -> None:
        self._pool = ThreadPoolExecutor(config.threads, "prepare")
        self.garage = Garage(catalogue, config, on_health or (lambda name, serving: None))

    async def embed(self, ask: Ask, items: Sequence[Item]) -> Features:
        """Rows of every item in order; none of none. Raises TopworkError; `item` is set where one item is to blame."""
        async with self.garage.using(ask.encoder) as loaded:
            taps = choose_taps(loaded, ask.taps)
            chosen = request_options.parse(loaded.encoder.options, ask.options)
            async with loaded.room.places(len(items), wait=ask.wait):
                return await _Request(loaded, taps, chosen, ask, self._pool).run(items)

    async def nearest(self, ask: Ask, items: Sequence[Item], count: int) -> list[list[tuple[str, float]]]:
        """For each item, the `count` nearest entries of the encoder's own vocabulary."""
        async with self.garage.using(ask.encoder) as loaded:
            encoder = loaded.encoder
            if type(encoder).nearest is Encoder.nearest:
                raise InvalidInput(f"{ask.encoder} has no vocabulary", remedy="ask an encoder of word vectors")
            rows = (await self.embed(ask, items)).taps[0].rows
            loop = asyncio.get_running_loop()
            return [await loop.run_in_executor(self._pool, encoder.nearest, row, count) for row in rows]

    async def close(self) -> None:
        """End sessions and exports. Requests must have ended before."""
        await self.garage.close()
        self._pool.shutdown(wait=False, cancel_futures=True)


def choose_taps(loaded: Loaded, names: Sequence[str]) -> tuple[TapInfo, ...]:
    """NotFound names the taps that there are."""
    infos = {info.tap.name: info for info in loaded.manifest.taps}
    for name in names:
        if name not in infos:
            raise NotFound(f"{loaded.encoder.spec.name} has no tap {name!r}", remedy=f"its taps are {', '.join(infos)}")
    if len(set(names)) != len(names):
        raise InvalidInput("a tap is named twice", remedy="name each tap once")
    return tuple(infos[name] for name in names or (loaded.encoder.spec.default_tap,))


class _Request:
    """One embed on its way: a few slabs of items in the works at a time, each prepared, submitted and awaited."""

    def __init__(self, loaded: Loaded, taps: tuple[TapInfo, ...], options: Any, ask: Ask, pool: ThreadPoolExecutor) -> None:
        self._loaded, self._taps, self._options, self._ask, self._pool = loaded, taps, options, ask, pool
        self._plain_taps: tuple[Tap, ...] = tuple(info.tap for info in taps)
        self._tickets: list[Ticket] = []
        self._left = False
        self._prepare = self._queue = self._compute = 0.0

    async def run(self, items: Sequence[Item]) -> Features:
        encoder = self._loaded.encoder
        slab = encoder.slab or SLAB[encoder.spec.modality]
        try:
            if len(items) <= slab:
                encoded = await self._slab(0, items)
            else:
                encoded = await self._slabs(items, slab)
        finally:
            self._left = True
            for ticket in self._tickets:
                ticket.cancel()  # of no effect on those that are done
        return self._features(encoded)

    async def _slabs(self, items: Sequence[Item], size: int) -> list[Encoded]:
        gate = asyncio.Semaphore(SLABS_IN_FLIGHT)

        async def one(start: int) -> list[Encoded]:
            async with gate:
                return await self._slab(start, items[start : start + size])

        tasks = [asyncio.ensure_future(one(start)) for start in range(0, len(items), size)]
        try:
            return [encoded for slab in await asyncio.gather(*tasks) for encoded in slab]
        finally:
            for task in tasks:
                task.cancel()

    async def _slab(self, start: int, items: Sequence[Item]) -> list[Encoded]:
        began = time.monotonic()
        prepared = await self._in_thread(self._prepare_all, start, items)
        self._prepare += time.monotonic() - began
        flat = [sample for one in prepared for sample in one.samples]
        results = iter(await self._ride(flat))
        encoded = [self._settled(one, [next(results) for _ in one.samples], start + i) for i, one in enumerate(prepared)]
        longer = [(e, p.rest, start + i) for i, (e, p) in enumerate(zip(encoded, prepared, strict=True)) if p.rest]
        await asyncio.gather(*[self._rest(*one) for one in longer])
        return encoded

    def _prepare_all(self, start: int, items: Sequence[Item]) -> list[Prepared]:
        """In a thread of the pool."""
        made = enumerate(self._loaded.encoder.preprocess_many(items, self._options), start)
        return [self._prepared(position, samples) for position, samples in takewhile(lambda _: not self._left, made)]

    def _prepared(self, position: int, samples: Iterable[Sample] | Exception) -> Prepared:
        try:
            if isinstance(samples, Exception):
                raise samples
            if isinstance(samples, Sequence):
                return Prepared(list(samples))
            rest = iter(samples)
            first = list(islice(rest, AHEAD))
            return Prepared(first, rest if len(first) == AHEAD else None)
        except Exception as error:
            return Prepared([], error=self._blame(error, position))

    async def _rest(self, encoded: Encoded, rest: Iterator[Sample], position: int) -> None:
        """A long item's further samples: while some are in the session, the next few are prepared."""
        more: Prepared = await self._in_thread(self._take, rest, position)
        while more.samples and encoded.error is None:
            riding = asyncio.ensure_future(self._ride(more.samples))
            following: Prepared = await self._in_thread(self._take, rest, position)
            self._add(encoded, more.samples, await riding, position)
            more = following
        encoded.error = encoded.error or more.error

    def _take(self, rest: Iterable[Sample], position: int) -> Prepared:
        try:
            return Prepared(list(islice(rest, AHEAD)))
        except Exception as error:
            return Prepared([], error=self._blame(error, position))

    def _blame(self, error: Exception, position: int) -> TopworkError:
        """The error, said of its item; raised now unless bad items are skipped."""
        if not isinstance(error, TopworkError):
            log.exception("%s cannot preprocess an item", self._loaded.encoder.spec.name, exc_info=error)
            error = TopworkError(
                f"the encoder failed on this item: {type(error).__name__}: {error}", remedy="report it to the encoder's author"
            )
        if not self._ask.skip_bad_items:
            raise error.at(position)
        return error.at(position)

    async def _ride(self, samples: list[Sample]) -> list[Rows | TopworkError]:
        ticket = self._loaded.batcher.submit(samples, self._plain_taps, self._ask.deadline)
        self._tickets.append(ticket)
        await ticket.done
        self._tickets.remove(ticket)
        self._queue, self._compute = max(self._queue, ticket.queued), self._compute + ticket.computed
        return ticket.results

    def _settled(self, prepared: Prepared, results: list[Rows | TopworkError], position: int) -> Encoded:
        encoded = Encoded(error=prepared.error)
        self._add(encoded, prepared.samples, results, position)
        return encoded

    def _add(self, encoded: Encoded, samples: list[Sample], results: list[Rows | TopworkError], position: int) -> None:
        for sample, result in zip(samples, results, strict=True):
            if isinstance(result, TopworkError):
                encoded.error = self._blame(result, position)
            else:
                # Inputs are dropped here: a picture's are 600 KB, its rows 4.
                encoded.samples.append(Sample({}, sample.tokens, sample.window, sample.box, sample.notes))
                encoded.rows.append(result)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def _features(self, encoded: list[Encoded]) -> Features:
        good = [e if e.error is None else Encoded() for e in encoded]
        samples = [sample for e in good for sample in e.samples]
        return Features(
            taps=tuple(_tap_rows(info, i, good, samples) for i, info in enumerate(self._taps)),
            notes={i: notes for i, e in enumerate(good) if (notes := _sum_notes(e.samples))},
            failures={i: e.error for i, e in enumerate(encoded) if e.error is not None},
            numerics=self._loaded.numerics_of(self._loaded.lane_of(self._plain_taps)),
            timings=Timings(self._prepare, self._queue, self._compute),
        )


def _tap_rows(info: TapInfo, column: int, encoded: list[Encoded], samples: list[Sample]) -> TapRows:
    parts = [rows[column] for e in encoded for rows in e.rows]
    rows = np.concatenate(parts) if parts else np.zeros((0, info.tap.dim), np.float32)
    counts = np.array([sum(len(rows[column]) for rows in e.rows) for e in encoded], np.int64)
    return TapRows(info, rows, counts, spans_of(info.tap, samples))


def _sum_notes(samples: Sequence[Sample]) -> dict[str, int]:
    total: dict[str, int] = {}
    for sample in samples:
        for name, count in sample.notes.items():
            total[name] = total.get(name, 0) + count
    return total
