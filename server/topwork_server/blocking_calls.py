"""Work of callers who may leave: blocking work ends then, or at their deadline; work that must not be left half done goes on."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from topwork_server.errors import DeadlineExceeded

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Called between parts of long work; raises where nobody waits for it any more.
Check: TypeAlias = Callable[[], None]


def always_waits() -> None:
    """The check of work that nobody gives up."""


class BlockingCaller:
    """Thread-safe. `deadline` in time.monotonic(), None for none."""

    def __init__(self, deadline: float | None = None) -> None:
        self._deadline, self._gone = deadline, threading.Event()

    def leave(self) -> None:
        self._gone.set()

    def __enter__(self) -> BlockingCaller:
        return self

    def __exit__(self, *exception: object) -> None:
        """Whatever still works for the caller then ends at its next check."""
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
