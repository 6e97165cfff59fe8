"""grpc.health.v1, truthful for the server, for each service, each encoder ("encoder/NAME"), set ("set/NAME") and index
("index/SET/NAME")."""

from __future__ import annotations

import _thread
import asyncio
import mmap
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from topwork_server.errors import exhausted

#: Bytes that a small request takes, with what it is computed by. They are mapped and not touched, which takes microseconds: a
#: bytearray is filled with zeros, and held the interpreter for 80 ms on a busy machine.
LEAST = 32 << 20
PREFIX, SET, INDEX = "encoder/", "set/", "index/"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService(aio.HealthServicer):  # type: ignore[misc]
    """`serves(name)` looks whether an encoder would answer now, and `whole(prefix, name)` whether a set or an index has no
    damage that is known; they may read the disk, and raise for an unknown name.

    Looked at on every Check, and every `interval` seconds for those that are watched: an export, or a `topwork pull` beside
    this process, changes it without notice. Where no memory or thread is left, nothing serves.
    """

    def __init__(
        self, services: Iterable[str], serves: Callable[[str], bool], whole: Callable[[str, str], bool], interval: float = 2.0
    ) -> None:
        super().__init__()
        self._looks: Mapping[str, Callable[[str], bool]] = {
            PREFIX: serves,
            SET: partial(whole, SET),
            INDEX: partial(whole, INDEX),
        }
        self.interval = interval
        self._server_status.update(dict.fromkeys(services, SERVING))
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._refresh(request.service)
        return await super().Check(request, context)

    async def Watch(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._refresh(request.service)
        follower = asyncio.create_task(self._follow(request.service))
        try:
            return await super().Watch(request, context)
        finally:
            follower.cancel()

    async def why_not_ready(self, encoder: str = "") -> str:
        """Tell why a request, for an encoder where one is named, would be refused now; "" where it would not."""
        if self._gracefully_shutting_down:
            return "the server is stopping"
        if not has_headroom():
            return "the server has no memory or no thread left"
        if encoder:
            try:
                if not await asyncio.to_thread(self._looks[PREFIX], encoder):
                    return f"the encoder {encoder} does not serve now"
            except Exception as error:
                return str(error)
        return ""

    def changed(self, encoder: str, serving: bool) -> None:
        """The engine's word on an encoder's worker; from any thread."""
        self._loop.call_soon_threadsafe(self._start_set, f"{PREFIX}{encoder}", serving)

    async def set(self, service: str, status: Any) -> None:
        """Set a status; while draining, every status is NOT_SERVING."""
        await self._set(service, NOT_SERVING if self._gracefully_shutting_down else status)

    async def enter_graceful_shutdown(self) -> None:
        self._gracefully_shutting_down = True
        for service in list(self._server_status):  # a copy: an encoder may be asked for meanwhile
            await self._set(service, NOT_SERVING)

    def _start_set(self, service: str, serving: bool) -> None:
        task = self._loop.create_task(self.set(service, SERVING if serving else NOT_SERVING))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, service: str) -> None:
        while True:
            await asyncio.sleep(self.interval)
            await self._refresh(service)

    async def _refresh(self, service: str) -> None:
        prefix = next((prefix for prefix in self._looks if service.startswith(prefix)), None)
        if prefix is None:
            if service in self._server_status:
                await self.set(service, SERVING if has_headroom() else NOT_SERVING)
            return
        try:
            serving = has_headroom() and await asyncio.to_thread(self._looks[prefix], service.removeprefix(prefix))
        except Exception as error:
            await (self.set(service, NOT_SERVING) if exhausted(error) else self._forget(service))
        else:
            await self.set(service, SERVING if serving else NOT_SERVING)

    async def _forget(self, service: str) -> None:
        """Forget an encoder that is not there (any more): Check says NOT_FOUND, Watch SERVICE_UNKNOWN."""
        await self.set(service, SERVICE_UNKNOWN)  # wakes the watchers
        self._server_status.pop(service, None)


def has_headroom() -> bool:
    """Tell whether memory for a request and one more thread can be had."""
    try:
        mmap.mmap(-1, LEAST, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        _thread.start_new_thread(bool, ())  # the threading module would wait until it runs
    except (OSError, MemoryError, RuntimeError):
        return False
    return True
