"""Items from an event loop, for a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterator
from concurrent.futures import Future
from typing import Any

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
        """Nobody wants more; a thread that waits is released."""
        self._cancelled = True
        if self._waiting is not None:
            self._waiting.cancel()
