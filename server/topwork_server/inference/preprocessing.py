"""Preprocessing of items into samples, in a thread pool; a few short texts on the event loop, which is sooner than a thread
wakes."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from topwork_server.blocking_calls import check_caller, working_for
from topwork_server.errors import DeadlineExceeded, TopworkError, exhausted
from topwork_server.inference.chunking import Chunker
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.plugin_api.result_checks import check_sample
from topwork_server.plugin_crashes import ContainedThreads, contained
from topwork_server.types import Item, Modality, Sample, TextItem

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Items that one thread preprocesses at a time unless the encoder sets `chunk_items`, and samples of one long item that are taken
#: ahead of the session.
CHUNK = {Modality.TEXT: 32, Modality.IMAGE: 8, Modality.VIDEO: 1, Modality.AUDIO: 1, Modality.TENSOR: 8}
AHEAD = 4
#: Items of one request in flight: of texts enough to find others of their length, of the rest few enough to bound memory.
IN_FLIGHT = {Modality.TEXT: 2048, Modality.IMAGE: 32, Modality.VIDEO: 4, Modality.AUDIO: 16, Modality.TENSOR: 32}


@dataclass(slots=True)
class PreparedItem:
    """One item after preprocessing: its samples, or the first few and an iterator of the rest, or its error."""

    samples: list[Sample]
    rest: Iterator[Sample] | None = None
    error: TopworkError | None = None


class PreprocessPool:
    """The threads that preprocess all items of one server."""

    def __init__(self, count: int) -> None:
        self._pool = ContainedThreads(count, "prepare")

    async def run_in_pool(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class RequestPreprocessor:
    """Preprocesses one request's items. The first bad item raises its error, which names it, unless `skip` is set."""

    def __init__(
        self,
        encoder: Encoder,
        options: Any,
        threads: PreprocessPool,
        *,
        skip: bool,
        deadline: float | None = None,
        chunker: Chunker | None = None,
    ) -> None:
        """Begin a request; `deadline` is in time.monotonic(). `chunker` is there where chunks of texts are asked for."""
        self._chunker = chunker
        self._encoder, self._options, self._threads, self._skip = encoder, options, threads, skip
        self._deadline = math.inf if deadline is None else deadline
        self.cancelled = False  # set when the caller has gone: nothing more is begun

    def is_cancelled(self) -> bool:
        """True once the caller has gone or the deadline has passed."""
        return self.cancelled or time.monotonic() >= self._deadline

    @property
    def chunk_size(self) -> int:
        """Items that one thread preprocesses at a time."""
        return self._encoder.chunk_items or CHUNK[self._encoder.spec.modality]

    @property
    def chunks_in_flight(self) -> int:
        return max(1, IN_FLIGHT[self._encoder.spec.modality] // self.chunk_size)

    async def preprocess_chunk(self, start: int, items: Sequence[Item]) -> list[PreparedItem]:
        """Preprocess a chunk; `start` is the position of its first item."""
        if _characters(items, self._encoder.inline_max_chars) <= self._encoder.inline_max_chars:
            return self._preprocess_all(start, items)
        return await self.run_in_pool(self._preprocess_all, start, items)

    async def preprocess_more(self, rest: Iterator[Sample], position: int) -> PreparedItem:
        """Preprocess the next few samples of a long item; none at its end."""
        return await self.run_in_pool(self._next_samples, rest, position)

    async def run_in_pool(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run in a thread of the pool, unless the caller has gone before; `check_caller` in it checks for that caller."""

        def work() -> T:
            with working_for(self.is_cancelled):
                check_caller()
                return function(*arguments)

        return await self._threads.run_in_pool(work)

    def attribute_error(self, error: Exception, position: int) -> TopworkError:
        """The error with its item's position; raised now unless bad items are skipped."""
        if (found := exhausted(error)) is not None:
            raise found from error  # the machine, not the item, is to blame
        if not isinstance(error, TopworkError):
            log.exception("%s cannot preprocess an item", self._encoder.spec.name, exc_info=error)
            error = TopworkError(
                f"the encoder failed on this item: {type(error).__name__}: {error}", remedy="report it to the encoder's author"
            )
        if isinstance(error, DeadlineExceeded):
            raise error  # the request's error, not its item's
        if not self._skip:
            raise error.at(position)
        return error.at(position)

    def _preprocess_all(self, start: int, items: Sequence[Item]) -> list[PreparedItem]:
        prepared: list[PreparedItem] = []
        try:
            samples = (self._chunker or self._encoder).preprocess_many(items, self._options)
            for _, made in zip(items, samples, strict=True):
                prepared.append(self._prepared_item(made, start + len(prepared)))
                check_caller()
        except TopworkError:
            raise
        except BaseException as caught:  # the encoder failed on the whole chunk, not on one item
            error = contained(caught)
            prepared += [PreparedItem([], error=self.attribute_error(error, start + i)) for i in range(len(prepared), len(items))]
        return prepared

    def _prepared_item(self, made: Iterable[Sample] | Exception, position: int) -> PreparedItem:
        try:
            if isinstance(made, Exception):
                raise made
            if isinstance(made, Sequence):
                return PreparedItem(self._check_samples(made))
            rest = iter(made)
            first = self._check_samples(islice(rest, AHEAD))
            return PreparedItem(first, rest if len(first) == AHEAD else None)
        except BaseException as error:
            return PreparedItem([], error=self.attribute_error(contained(error), position))

    def _check_samples(self, made: Iterable[Sample]) -> list[Sample]:
        return [check_sample(self._encoder, sample) for sample in made]

    def _next_samples(self, rest: Iterator[Sample], position: int) -> PreparedItem:
        try:
            return PreparedItem(self._check_samples(islice(rest, AHEAD)))
        except BaseException as error:
            return PreparedItem([], error=self.attribute_error(contained(error), position))


def _characters(items: Sequence[Item], most: int) -> int:
    """Number of characters of texts; more than `most` if any item is not a text."""
    total = 0
    for item in items:
        if not isinstance(item, TextItem) or total > most:
            return most + 1
        total += len(item.text) + len(item.pair or "")
    return total
