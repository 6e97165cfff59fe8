"""Long work: how it reports its progress, and what becomes of it when its caller leaves or the deadline passes.

Blocking work asks between its parts whether it still has a caller, and ends where it has none; work that must not be left half
done goes on.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from topwork_server.errors import DeadlineExceeded

T = TypeVar("T")

log = logging.getLogger(__name__)
_work = threading.local()

#: Called between parts of long work; raises where its caller no longer waits.
Check: TypeAlias = Callable[[], None]
#: Called with the fraction that is done (0 to 1) and what is being done.
Report: TypeAlias = Callable[[float, str], None]


def always_waits() -> None:
    """The check of work that always has a caller."""


class BlockingCaller:
    """Thread-safe. `deadline` in time.monotonic(), None for none."""

    def __init__(self, deadline: float | None = None) -> None:
        self._deadline, self._gone = deadline, threading.Event()

    def leave(self) -> None:
        self._gone.set()

    def __enter__(self) -> BlockingCaller:
        return self

    def __exit__(self, *exception: object) -> None:
        """End at its next check what still works for the caller."""
        self.leave()

    def check(self) -> None:
        if self._gone.is_set() or (self._deadline is not None and time.monotonic() >= self._deadline):
            raise DeadlineExceeded(
                "the caller's time ran out while its work was under way", remedy="give it more time, or ask for less"
            )


async def in_thread(call: Callable[[Check], T], deadline: float | None) -> T:
    """The result of `call` in a thread. It is given a check that raises once the caller has left or its deadline has passed."""
    with BlockingCaller(deadline) as caller:
        return await asyncio.to_thread(call, caller.check)


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Run work to its end, also where the caller leaves meanwhile: a cancelled caller waits for it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()):
            log.warning("what a caller began who has left failed: %s", error)
        raise


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of coroutines that run side by side. Where one fails, or the caller leaves, the others are ended first."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise


def check_caller() -> None:
    """Raise where the caller of the item that this thread preprocesses has left, or has no time left.

    For an encoder whose `preprocess` works on one item for longer than a second: call it between steps, and let what it raises
    pass. Outside of a request it does nothing.
    """
    has_left: Callable[[], bool] | None = getattr(_work, "has_left", None)
    if has_left is not None and has_left():
        raise DeadlineExceeded(
            "the deadline passed, or the caller left, while an item was preprocessed", remedy="allow more time"
        )


@contextmanager
def working_for(has_left: Callable[[], bool]) -> Iterator[None]:
    """Let `check_caller` ask `has_left` in this thread."""
    before = getattr(_work, "has_left", None)
    _work.has_left = has_left
    try:
        yield
    finally:
        _work.has_left = before


def part(report: Report, start: float, end: float) -> Report:
    """Reports of a part of the work, as a part of the whole."""
    return lambda fraction, message: report(start + (end - start) * fraction, message)
