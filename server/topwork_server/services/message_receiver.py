"""Requests on their way in: bytes within the budget become messages, large ones in threads, and unreadable ones are refused."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from topwork_server.services.message_budget import COUNTED, FIRST, FURTHER, PATIENCE_OF_STREAMS, MessageBudget
from topwork_server.services.message_limits import Undecodable, decode

#: Bytes of a message that is decoded on the event loop, which is sooner done than a thread is woken.
BRIEF = 16 << 10
#: Seconds between two lines of the log about messages that could not be decoded.
PAUSE = 10.0

log = logging.getLogger(__name__)


class MessageReceiver:
    """`kind` is the class of a method's requests; None takes bytes as they are."""

    def __init__(self, budget: MessageBudget) -> None:
        self.budget = budget
        self._threads = ThreadPoolExecutor(2, "decode")
        self._unreadable = 0
        self._logged = 0.0

    async def turn(self, task: asyncio.Task[Any]) -> None:
        """Wait until the first message of the call may come in."""
        await self.budget.turn(task, FIRST)
        task.add_done_callback(self.budget.came)

    async def decoded(self, data: bytes, kind: Any, method: str) -> Any:
        """The message. Its bytes must be taken from the budget before."""
        if kind is None:
            return data
        try:
            if len(data) <= BRIEF:
                return decode(data, kind)
            return await asyncio.get_running_loop().run_in_executor(self._threads, decode, data, kind)
        except Undecodable as error:
            self._count(method, error.message)
            raise

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _count(self, method: str, why: str) -> None:
        """Log the first refusal; of those that follow soon, how many they were."""
        self._unreadable += 1
        if time.monotonic() - self._logged >= PAUSE:
            log.warning("method=%s %s (%d such since the last line)", method, why, self._unreadable)
            self._unreadable, self._logged = 0, time.monotonic()


class IncomingMessages(AsyncIterator[Any]):
    """The messages of one stream. Each counts in the budget until `done` is called with its size, or the stream is closed."""

    def __init__(self, requests: AsyncIterator[bytes], receiver: MessageReceiver, kind: Any, method: str) -> None:
        self._requests, self._receiver, self._kind, self._method = requests, receiver, kind, method
        self._held: dict[int, tuple[Any, int]] = {}  # with the message: another must not get its id

    async def __anext__(self) -> Any:
        budget = self._receiver.budget
        if self._held:
            await budget.slack()
        await budget.turn(self, FURTHER)
        try:
            data = await self._requests.__anext__()
        finally:
            budget.came(self)
        size = len(data)
        await budget.take(size, PATIENCE_OF_STREAMS)
        try:
            message = await self._receiver.decoded(data, self._kind, self._method)
        except BaseException:
            budget.release(size)
            raise
        if size >= COUNTED:
            self._held[id(message)] = message, size
        return message

    def done(self, message: Any) -> None:
        """The message is answered, or needs no answer."""
        _, size = self._held.pop(id(message), (None, 0))
        self._receiver.budget.release(size)

    def close(self) -> None:
        for _, size in self._held.values():
            self._receiver.budget.release(size)
        self._held.clear()
