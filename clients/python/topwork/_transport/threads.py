"""Iterators between threads: items out of an event loop, and replies that Ctrl-C may interrupt."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

_END = object()


class AsyncBridge(Iterator[Any]):
    """An asynchronous source that a thread iterates over, while the loop in which this is made runs."""

    def __init__(self, source: AsyncIterable[Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = aiter(source)
        self._waiting: Future[Any] | None = None
        self._cancelled = False

    def __next__(self) -> Any:
        self._waiting = asyncio.run_coroutine_threadsafe(self._advance(), self._loop)
        if self._cancelled:
            self._waiting.cancel()
        item = self._waiting.result()
        if item is _END:
            raise StopIteration
        return item

    async def _advance(self) -> Any:
        return await anext(self._source, _END)

    def cancel(self) -> None:
        """Release a thread that waits: no more items are wanted."""
        self._cancelled = True
        if self._waiting is not None:
            self._waiting.cancel()


T = TypeVar("T")

#: Replies that the thread may be ahead of their reader.
AHEAD = 2
#: Seconds after which a wait looks for a signal that came just before it began, and did not end it.
LOOK = 0.2


def interruptible(call: Iterator[T]) -> Iterator[T]:
    """The replies of a gRPC call, for the main thread read by a thread of their own.

    Ctrl-C is raised in the main thread between any two steps of Python, also inside gRPC's: there it would leave a lock taken for
    ever, and the next use of the call, be it to cancel it, would hang.
    """
    return _pumped(call) if threading.current_thread() is threading.main_thread() else call


def _pumped(call: Iterator[T]) -> Iterator[T]:
    wanted: SimpleQueue[bool] = SimpleQueue()
    came: SimpleQueue[T | BaseException] = SimpleQueue()

    def pump() -> None:
        while wanted.get():
            try:
                came.put(next(call))
            except BaseException as error:  # also StopIteration: the reader's to see
                came.put(error)
                return

    threading.Thread(target=pump, name="topwork-replies", daemon=True).start()
    for _ in range(AHEAD):
        wanted.put(True)
    try:
        while not isinstance(reply := _get(came), BaseException):
            wanted.put(True)
            yield reply
        if not isinstance(reply, StopIteration):
            raise reply
    finally:
        wanted.put(False)


def _get(came: SimpleQueue[T]) -> T:
    while True:
        try:
            return came.get(timeout=LOOK)
        except Empty:
            continue
