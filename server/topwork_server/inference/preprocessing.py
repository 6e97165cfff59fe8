"""Items -> samples, in the threads of one pool; a few short texts where they come sooner than a thread wakes."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from topwork_server.containment import ContainedThreads, contained
from topwork_server.errors import DeadlineExceeded, TopworkError, exhausted
from topwork_server.plugin_api.cancellation import check_caller, working_for
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.plugin_api.result_checks import check_sample
from topwork_server.types import Item, Modality, Sample, Text

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Items that one thread prepares at a time, where the encoder does not say, and samples of one long item that are taken ahead of
#: the session.
SLAB = {Modality.TEXT: 32, Modality.IMAGE: 8, Modality.VIDEO: 1, Modality.TENSOR: 8}
AHEAD = 4
#: Items of one request in the works: texts enough to find others of their length, of the rest few enough to bound memory.
IN_FLIGHT = {Modality.TEXT: 2048, Modality.IMAGE: 32, Modality.VIDEO: 4, Modality.TENSOR: 32}


@dataclass(slots=True)
class PreparedItem:
    """One item after preprocessing: its samples, or the first few and where more come from, or what was wrong with it."""

    samples: list[Sample]
    rest: Iterator[Sample] | None = None
    error: TopworkError | None = None


class PreprocessPool:
    """What prepares the items of one server."""

    def __init__(self, count: int) -> None:
        self._pool = ContainedThreads(count, "prepare")

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class RequestPreprocessor:
    """How one request's items are prepared. The first bad item raises its error, which names it, unless `skip` is set."""

    def __init__(
        self, encoder: Encoder, options: Any, threads: PreprocessPool, *, skip: bool, deadline: float | None = None
    ) -> None:
        """`deadline` is in time.monotonic()."""
        self._encoder, self._options, self._threads, self._skip = encoder, options, threads, skip
        self._deadline = math.inf if deadline is None else deadline
        self.left = False  # the caller has gone: what is not begun is not done

    def has_left(self) -> bool:
        """Whether nobody waits for the request any more, for whatever reason."""
        return self.left or time.monotonic() >= self._deadline

    @property
    def slab(self) -> int:
        """Items that are prepared at a time."""
        return self._encoder.slab or SLAB[self._encoder.spec.modality]

    @property
    def slabs_in_flight(self) -> int:
        return max(1, IN_FLIGHT[self._encoder.spec.modality] // self.slab)

    async def slab_of(self, start: int, items: Sequence[Item]) -> list[PreparedItem]:
        """`start` is the position of the first."""
        if _characters(items, self._encoder.brief) <= self._encoder.brief:
            return self._all(start, items)
        return await self.run(self._all, start, items)

    async def more(self, rest: Iterator[Sample], position: int) -> PreparedItem:
        """The next few samples of a long item; none at its end."""
        return await self.run(self._more, rest, position)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """In a thread of the pool, where it is not even begun if the caller has left; `check_caller` then asks of him."""

        def work() -> T:
            with working_for(self.has_left):
                check_caller()
                return function(*arguments)

        return await self._threads.run(work)

    def blame(self, error: Exception, position: int) -> TopworkError:
        """The error, said of its item; raised now unless bad items are skipped."""
        if (found := exhausted(error)) is not None:
            raise found from error  # the item is as good as any
        if not isinstance(error, TopworkError):
            log.exception("%s cannot preprocess an item", self._encoder.spec.name, exc_info=error)
            error = TopworkError(
                f"the encoder failed on this item: {type(error).__name__}: {error}", remedy="report it to the encoder's author"
            )
        if isinstance(error, DeadlineExceeded):
            raise error  # of the request, not of its item
        if not self._skip:
            raise error.at(position)
        return error.at(position)

    def _all(self, start: int, items: Sequence[Item]) -> list[PreparedItem]:
        prepared: list[PreparedItem] = []
        try:
            for _, made in zip(items, self._encoder.preprocess_many(items, self._options), strict=True):
                prepared.append(self._one(made, start + len(prepared)))
                check_caller()
        except TopworkError:
            raise
        except BaseException as caught:  # the encoder failed on all of them together, and not on one by itself
            error = contained(caught)
            prepared += [PreparedItem([], error=self.blame(error, start + i)) for i in range(len(prepared), len(items))]
        return prepared

    def _one(self, made: Iterable[Sample] | Exception, position: int) -> PreparedItem:
        try:
            if isinstance(made, Exception):
                raise made
            if isinstance(made, Sequence):
                return PreparedItem(self._checked(made))
            rest = iter(made)
            first = self._checked(islice(rest, AHEAD))
            return PreparedItem(first, rest if len(first) == AHEAD else None)
        except BaseException as error:
            return PreparedItem([], error=self.blame(contained(error), position))

    def _checked(self, made: Iterable[Sample]) -> list[Sample]:
        return [check_sample(self._encoder, sample) for sample in made]

    def _more(self, rest: Iterator[Sample], position: int) -> PreparedItem:
        try:
            return PreparedItem(self._checked(islice(rest, AHEAD)))
        except BaseException as error:
            return PreparedItem([], error=self.blame(contained(error), position))


def _characters(items: Sequence[Item], most: int) -> int:
    """Of texts; more than `most` of anything else."""
    total = 0
    for item in items:
        if not isinstance(item, Text) or total > most:
            return most + 1
        total += len(item.text) + len(item.pair or "")
    return total
