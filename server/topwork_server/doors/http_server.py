"""The HTTP port: uvicorn on the server's own event loop, without its signal handlers and with bounds on what it holds."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from topwork_server.doors.request_body import LEAST_RATE

#: Bytes of the request line and the headers of one request, or of trailers and of what else stands between the bytes of a body.
#: More is answered with 431 (RFC 6585, section 5).
MOST_HEADERS = 64 << 10
#: Seconds that a new connection has for its first request, one that is kept for its next, and the headers of one to be whole;
#: and how often it is looked whether a reply is being read.
IDLE = 75
#: Seconds that connections are given to read what was sent, once the requests have ended.
FAREWELL = 1

logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it warns of every request that is no HTTP


class HttpServer:
    """Serves one ASGI application on one socket."""

    def __init__(self, app: Any) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=_BoundedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=IDLE,
            )
        )
        self._listener: socket.socket | None = None

    async def start(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections, with TLS where there is a context, on a socket that is bound; it is this server's from then on."""
        config, self._listener = self._server.config, listener
        config.load()
        config.ssl = tls
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[listener])

    async def close(self) -> None:
        """Accept no more, and end all connections, those of slow readers by force. Requests must have ended before."""
        if self._listener is None:
            return
        for server in self._server.servers:
            server.close()
        self._listener.close()
        state, end = self._server.server_state, time.monotonic() + FAREWELL
        for connection in list(state.connections):
            connection.shutdown()
        while state.connections and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for connection in list(state.connections):
            connection.transport.abort()
        for task in state.tasks:
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)
        self._listener = None


class _BoundedProtocol(HttpToolsProtocol):
    """One connection. Unlike its base it ends one that sends no request, headers or trailers without end, or part of a head and
    then nothing, and one that does not read its reply: each would be kept for as long as its other end likes."""

    _head = 0  # bytes since a head, a piece of a body or a request was whole
    _late: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(IDLE, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        if self._head > MOST_HEADERS + len(data):
            self._refuse("431 Request Header Fields Too Large")
            return
        super().data_received(data)
        if self._head and self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(IDLE, self._end_late)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.headers = []  # trailers are not headers of the request, which has the list that was here
        self._progress()

    def on_body(self, body: bytes) -> None:
        self._progress()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._progress()
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._watch_reader()

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        if self._stalled is None and self.transport.get_write_buffer_size():
            self._watch_reader()

    def _progress(self) -> None:
        self._head = 0
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end_late(self) -> None:
        self._late = None
        if self.cycle is None or self.cycle.response_complete:
            self._refuse("408 Request Timeout")

    def _watch_reader(self) -> None:
        self._stalled = self.loop.call_later(IDLE, self._end_stalled, self.transport.get_write_buffer_size())

    def _end_stalled(self, unread: int) -> None:
        if unread - self.transport.get_write_buffer_size() < LEAST_RATE * IDLE:
            self.transport.abort()
        else:
            self._watch_reader()

    def _cancel_timers(self) -> None:
        for timer in (self._late, self._stalled):
            if timer is not None:
                timer.cancel()

    def _refuse(self, status: str) -> None:
        if not self.transport.is_closing():
            self.transport.write(f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode())
            self.transport.close()
