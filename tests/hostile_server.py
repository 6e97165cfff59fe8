"""A server of HTTP that does what no good one does, written by hand: each path has a coroutine that writes what it likes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Behavior = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(status: str = "200 OK", body: bytes = b"", **headers: str) -> bytes:
    """A whole answer; `_` in the names of headers stands for a hyphen."""
    given = {"content-length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    return "\r\n".join(head).encode() + body


def sends(*parts: bytes) -> Behavior:
    """Send these, and close."""

    async def behavior(writer: asyncio.StreamWriter) -> None:
        writer.writelines(parts)
        await writer.drain()

    return behavior


def repeats(head: bytes, part: bytes, pause: float = 0) -> Behavior:
    """Send a part again and again, until the other side leaves."""

    async def behavior(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)

    return behavior


@dataclass
class HostileServer:
    """`requests` are the heads of all that came; `open` counts the connections, and `most_open` those at a time."""

    port: int
    paths: dict[str, Behavior] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    open: int = 0
    most_open: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def hostile_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[HostileServer]:
    """Serve on a free port of 127.0.0.1, on the running loop."""
    tasks = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        served.open += 1
        served.most_open = max(served.most_open, served.open)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            served.requests.append(head)
            behavior, left = asyncio.ensure_future(served.paths[head.split()[1]](writer)), asyncio.ensure_future(reader.read())
            try:
                await asyncio.wait({behavior, left}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                behavior.cancel()
                left.cancel()
                await asyncio.gather(behavior, left, return_exceptions=True)
        served.open -= 1
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    served = HostileServer(server.sockets[0].getsockname()[1])
    try:
        yield served
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
