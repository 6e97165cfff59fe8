"""Callers who wait for blocking work: it ends when their deadline passes, or when they leave."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from topwork_server.errors import DeadlineExceeded

T = TypeVar("T")

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
