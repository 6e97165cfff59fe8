"""Bodies of HTTP requests: counted in the message budget as they come, bounded, and given up where their sender is too slow."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from topwork_server.errors import Cancelled, DeadlineExceeded, InvalidInput, TooLarge
from topwork_server.services.in_threads import in_thread_if
from topwork_server.services.message_budget import MAX_MESSAGE, CountedBytes, MessageBudget

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
#: Seconds that a sender may pause, and bytes a second that a body has at least to come with, after the first such pause.
PAUSE, LEAST_RATE = 20.0, 16 << 10
#: Bytes of a compressed body that is decompressed on the event loop: they are a thousand times as many at most.
BRIEF = 4 << 10
#: Names of content encodings (RFC 9110, section 8.4.1) with the window bits that zlib reads them by.
ENCODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class SlowBody(DeadlineExceeded):
    """The body did not come in time: status 408."""


class RequestBody:
    """One request's body. Its bytes count in the budget until `close`."""

    def __init__(self, receive: Receive, headers: Mapping[str, str], budget: MessageBudget) -> None:
        self._receive, self._headers, self._budget = receive, headers, budget
        self._counted = CountedBytes(budget)
        #: Set when all of it has come, or its sender has left.
        self.has_ended = asyncio.Event()
        if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:  # RFC 9112, section 6.3
            self.has_ended.set()

    async def read(self) -> bytes:
        """The whole body, decompressed. TooLarge, SlowBody, Overloaded, InvalidInput where it is not as its encoding says,
        Cancelled where the caller left."""
        if self.has_ended.is_set():
            return b""
        self._check_length()
        body = await self._read()
        encoding = self._headers.get("content-encoding", "identity").strip().lower()
        if encoding in ("identity", ""):
            return body
        if encoding not in ENCODINGS:
            raise InvalidInput(f"the body's encoding {encoding[:40]!r} is not known", remedy="send gzip, deflate, or it as it is")
        whole = await in_thread_if(len(body) > BRIEF or self._budget.used > 0, _decompressed, body, encoding)
        await self._counted.add(len(whole))
        return whole

    async def receive(self) -> MutableMapping[str, Any]:
        """The next event of the request, as ASGI has it."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.has_ended.set()
        return message

    def closing_early(self, send: Send) -> Send:
        """Send as before, and end the connection after a reply that comes before the body's end: the rest would be read
        in vain."""

        async def closing(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and not self.has_ended.is_set():
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        return closing

    def close(self) -> None:
        self._counted.release()

    def _check_length(self) -> None:
        length = self._headers.get("content-length", "")
        if length.isdecimal() and int(length) > MAX_MESSAGE:
            raise _too_large(int(length))

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        began, body = loop.time(), bytearray()
        while True:
            allowed = began + PAUSE + len(body) / LEAST_RATE - loop.time()
            try:
                async with asyncio.timeout(min(PAUSE, max(0.0, allowed))):
                    message = await self.receive()
            except TimeoutError:
                raise SlowBody(
                    f"the body stopped after {len(body):,} bytes", remedy="send it without pauses, or tell its length"
                ) from None
            if message["type"] == "http.disconnect":
                raise Cancelled("the caller left")
            chunk = message.get("body", b"")
            if len(body) + len(chunk) > MAX_MESSAGE:
                raise _too_large(len(body) + len(chunk))
            await self._counted.add(len(chunk))
            body += chunk
            if not message.get("more_body", False):
                return bytes(body)


def _decompressed(body: bytes, encoding: str) -> bytes:
    stream = zlib.decompressobj(ENCODINGS[encoding])
    try:
        whole = stream.decompress(body, MAX_MESSAGE + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body is no {encoding}: {error}", remedy="send it as its Content-Encoding says") from None
    if len(whole) > MAX_MESSAGE:
        raise _too_large(len(whole))
    if not stream.eof:
        raise InvalidInput(f"the body's {encoding} is cut off", remedy="send all of it")
    if stream.unused_data:
        raise InvalidInput(f"{len(stream.unused_data):,} bytes behind the body's {encoding}", remedy="send it as one stream")
    return whole


def _too_large(size: int) -> TooLarge:
    return TooLarge(f"a body of {size:,} bytes and more, and one may have {MAX_MESSAGE:,}", remedy="send it in parts")
