"""The HTTP port: uvicorn on the server's own event loop, without its signal handlers and with bounds on what it holds."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Bytes of the request line and the headers of one request. More is answered with 431 (RFC 6585, section 5).
MOST_HEADERS = 64 << 10
#: Seconds that a new connection has for its first request, and one that is kept for its next.
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

    async def start(self, listener: socket.socket) -> None:
        """Accept connections on a socket that is bound; it is this server's from then on."""
        config, self._listener = self._server.config, listener
        config.load()
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
    """One connection. Unlike its base it ends one that sends no request, or headers without end."""

    _head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(IDLE, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        if self._head > MOST_HEADERS + len(data):
            self._refuse()
        else:
            super().data_received(data)

    def on_headers_complete(self) -> None:
        self._head = -1 << 62  # what comes now is a body, which the application bounds
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head = 0
        super().on_message_complete()

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self.transport.close()
