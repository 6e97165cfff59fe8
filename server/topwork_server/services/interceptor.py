"""The one place where errors become gRPC statuses, and where the server knows what is in flight.

A handler is a coroutine function: one that streams its replies writes them to the context, and is no generator.

A TopworkError goes out with google.rpc.Status details: ErrorInfo{reason: class name, domain: "topwork", metadata: {remedy,
item}}. Anything else is our fault: INTERNAL with a short id, which the log has beside the traceback.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from topwork_server.errors import DiskFull, Overloaded, TooLarge, TopworkError, Unavailable, exhausted

DOMAIN = "topwork"
#: TooLarge and DiskFull share their status with Overloaded; this tells gRPC's own retries that another try would end the same.
NO_RETRY = ("grpc-retry-pushback-ms", "-1")
#: Together they stay below the 8 KiB of trailing metadata that a client takes by default (a message goes out twice).
LONGEST_MESSAGE, LONGEST_REMEDY = 1500, 500

#: The kinds of methods by (request_streaming, response_streaming), as grpc names their handlers.
_KINDS: dict[tuple[bool, bool], str] = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}

Context: TypeAlias = "grpc.aio.ServicerContext"
Handler = Callable[[Any, Context], Awaitable[Any]]
log = logging.getLogger(__name__)


class Requests(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Translates errors, counts requests by method and status, and drains."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._handlers: dict[str, grpc.RpcMethodHandler] = {}
        self._active: set[asyncio.Task[Any]] = set()
        self._unsent: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        #: From then on new requests are refused, and streams that are open take no more messages.
        self.stopping = asyncio.Event()
        self._cut = False

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler]], details: Any
    ) -> grpc.RpcMethodHandler:
        if (known := self._handlers.get(details.method)) is not None:
            return known
        handler = await continuation(details)
        if handler is None or not details.method.startswith("/topwork."):
            return handler  # health and reflection answer for themselves, also while draining
        name = details.method.rpartition("/")[2]
        guarded = self._handlers[details.method] = _rewrapped(handler, lambda inner: self._guarded(name, inner))
        return guarded

    async def idle(self) -> None:
        """Until nothing is in flight."""
        await self._idle.wait()

    def refuse(self) -> None:
        """Take no new requests, and of open streams no new messages."""
        self.stopping.set()

    async def drain(self, seconds: float) -> None:
        """Refuse new requests and wait for those accepted; after `seconds` the rest is cut off with UNAVAILABLE."""
        self.refuse()
        try:
            await asyncio.wait_for(self.idle(), seconds)
        except TimeoutError:
            await self.cut()

    async def cut(self) -> None:
        self.refuse()
        self._cut = True
        for task in self._active | self._unsent:
            task.cancel()
        await self.idle()

    def _guarded(self, name: str, inner: Handler) -> Handler:
        async def call(request: Any, context: Context) -> Any:
            started = time.monotonic()
            task = self._enter(context)
            try:
                return await self._run(inner, request, context)
            finally:
                code = _code_name(context)
                self.counts[name, code] += 1
                self._leave(self._active, task)
                if log.isEnabledFor(logging.DEBUG):
                    milliseconds = (time.monotonic() - started) * 1e3
                    log.debug("method=%s code=%s ms=%.1f peer=%s", name, code, milliseconds, context.peer())

        return call

    def _enter(self, context: Context) -> asyncio.Task[Any]:
        """In flight is a request until its handler has cleaned up, and until its reply has left."""
        task = asyncio.current_task()
        assert task is not None
        self._active.add(task)
        self._unsent.add(task)
        self._idle.clear()
        context.add_done_callback(lambda _: self._leave(self._unsent, task))
        return task

    def _leave(self, tasks: set[asyncio.Task[Any]], task: asyncio.Task[Any]) -> None:
        tasks.discard(task)
        if not self._active and not self._unsent:
            self._idle.set()

    async def _run(self, inner: Handler, request: Any, context: Context) -> Any:
        try:
            if self.stopping.is_set():
                raise Unavailable("the server is stopping", remedy="try again in a moment, or at another address")
            return await inner(request, context)
        except grpc.aio.AbortError:
            raise
        except asyncio.CancelledError:
            if self._cut:
                error: TopworkError = Unavailable("the server stopped before the request was done", remedy="send it again")
            elif _left(asyncio.current_task()):
                raise
            else:  # something that this request waited for was stopped: nobody else would answer the caller
                error = Unavailable("what the request waited for was stopped", remedy="send it again")
        except Exception as raised:
            error = _exhausted(raised) or (raised if isinstance(raised, TopworkError) else _internal())
        status = rpc_status.to_status(status_of(error))
        no_retry = (NO_RETRY,) if isinstance(error, TooLarge | DiskFull) else ()
        await context.abort(status.code, status.details, (*status.trailing_metadata, *no_retry))
        return None


def _exhausted(error: Exception) -> Overloaded | None:
    found = exhausted(error)
    if found is not None:
        log.warning("%s", found.message)
    return found


def status_of(error: TopworkError) -> status_pb2.Status:
    """The error as google.rpc.Status; its remedy and its item are in the details."""
    metadata = {"remedy": error.remedy[:LONGEST_REMEDY]} if error.remedy else {}
    if error.item is not None:
        metadata["item"] = str(error.item)
    info = error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=DOMAIN, metadata=metadata)
    packed = AnyMessage()
    packed.Pack(info)
    return status_pb2.Status(code=error.code.value[0], message=error.message[:LONGEST_MESSAGE], details=[packed])


def _internal() -> TopworkError:
    mark = secrets.token_hex(4)
    log.exception("error=%s", mark)
    return TopworkError(f"internal error {mark}", remedy=f"the server's log has the reason under {mark}")


def _left(task: asyncio.Task[Any] | None) -> bool:
    """Whether the request itself was cancelled: its caller left, or its time is over."""
    return task is not None and task.cancelling() > 0


def _code_name(context: Context) -> str:
    code = context.code()
    return str(getattr(code, "name", code or "OK"))


def _rewrapped(handler: grpc.RpcMethodHandler, guard: Callable[[Handler], Handler]) -> grpc.RpcMethodHandler:
    kind = _KINDS[handler.request_streaming, handler.response_streaming]
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(guard(getattr(handler, kind)), handler.request_deserializer, handler.response_serializer)
