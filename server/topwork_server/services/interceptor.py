"""The one place where errors become gRPC statuses.

A handler is a coroutine function: one that streams its replies writes them to the context, and is no generator.

Requests come as bytes, and are decoded here (message_receiver.py): what cannot be decoded is refused as any other wrong request.

A TopworkError goes out with google.rpc.Status details: ErrorInfo{reason: class name, domain: "topwork", metadata: {remedy,
item}}; where it is known when to come back, RetryInfo.
Anything else is our fault (`request_tracker.py`): INTERNAL with a short id, which the log has beside the traceback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from topwork._display.excerpts import LONGEST_MESSAGE, LONGEST_REMEDY, cut_bytes

from topwork_server.errors import DiskFull, InvalidInput, Overloaded, TooLarge, TopworkError
from topwork_server.services import message_limits
from topwork_server.services.message_budget import MAX_MESSAGE, MessageBudget
from topwork_server.services.message_receiver import IncomingMessages, MessageReceiver
from topwork_server.services.request_checks import add_trailing_metadata
from topwork_server.services.request_tracker import RequestTracker, release
from topwork_server.telemetry import TRACERESPONSE

DOMAIN = "topwork"
#: TooLarge and DiskFull share their status with Overloaded; this tells gRPC's own retries that another try would end the same.
NO_RETRY = ("grpc-retry-pushback-ms", "-1")
#: Seconds to come back after, where an Overloaded does not know more: soon, and callers wait longer each time.
USUAL_WAIT = 0.1
#: Bytes of a request of health or reflection, which are names.
LONGEST_STANDARD = 16 << 10

#: The kinds of methods by (request_streaming, response_streaming), as grpc names their handlers.
_KINDS: dict[tuple[bool, bool], str] = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}

#: What our own methods begin with, and all that are decoded, counted and drained here: those of other protocols too.
OURS = "/topwork."
SERVED = (OURS, "/tei.v1.", "/inference.")

Context: TypeAlias = "grpc.aio.ServicerContext"
Handler = Callable[[Any, Context], Awaitable[Any]]


class RequestInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Decodes requests within the budget, lets the tracker run them, and sends their errors as statuses."""

    def __init__(self, requests: RequestTracker, receiver: MessageReceiver | None = None) -> None:
        self._requests, self._receiver = requests, receiver or MessageReceiver(MessageBudget(16 * MAX_MESSAGE))
        self._handlers: dict[str, grpc.RpcMethodHandler] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler]], details: Any
    ) -> grpc.RpcMethodHandler:
        task = asyncio.current_task()
        assert task is not None
        if (known := self._handlers.get(details.method)) is None:
            handler = await continuation(details)
            if handler is None:
                return handler
            known = self._handlers[details.method] = self._guarded(details.method, handler)
        if not known.request_streaming and details.method.startswith(SERVED):
            await self._receiver.turn(task)
        return known

    def _guarded(self, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        kind = getattr(handler.request_deserializer, "__self__", None)
        inner = getattr(handler, _KINDS[handler.request_streaming, handler.response_streaming])
        if not method.startswith(SERVED):  # health and reflection answer for themselves, also while draining
            return handler if handler.request_streaming else _rewrapped(handler, self._limited(kind, inner))
        read = self._stream if handler.request_streaming else self._single
        return _rewrapped(handler, self._counted(method, read(method, kind, inner)))

    def _counted(self, method: str, inner: Handler) -> Handler:
        requests, name, full_name = self._requests, counted_as(method), method.lstrip("/")
        foreign = not method.startswith(OURS)

        def headers_of(context: Context) -> Mapping[str, str]:
            """The metadata of a call, where something reads it."""
            return _texts(context.invocation_metadata()) if requests.reads_headers else {}

        async def call(request: Any, context: Context) -> Any:
            try:
                return await requests.serve(
                    name,
                    lambda: inner(request, context),
                    context.peer(),
                    context.add_done_callback,
                    full_name=full_name,
                    headers=headers_of(context),
                    traced=lambda value: add_trailing_metadata(context, (TRACERESPONSE, value)),
                )
            except TopworkError as error:
                _refuse(context, error, whole=foreign)
                return release(error)

        return call

    def _single(self, method: str, kind: Any, inner: Handler) -> Handler:
        receiver = self._receiver

        async def call(data: bytes, context: Context) -> Any:
            receiver.budget.came(asyncio.current_task())
            await receiver.budget.take(len(data))
            try:
                return await inner(await receiver.decoded(data, kind, method), context)
            finally:
                receiver.budget.release(len(data))

        return call

    def _limited(self, kind: Any, inner: Handler) -> Handler:
        """Health: what is asked for is the name of a service."""

        async def call(data: bytes, context: Context) -> Any:
            try:
                if len(data) > LONGEST_STANDARD:
                    self._receiver.budget.refused(len(data))
                    raise InvalidInput(f"a request of {len(data):,} bytes", remedy=f"send at most {LONGEST_STANDARD:,}")
                request = message_limits.decode(data, kind)
            except InvalidInput as error:
                _refuse(context, error)
                return release(error)
            return await inner(request, context)

        return call

    def _stream(self, method: str, kind: Any, inner: Handler) -> Handler:
        async def call(requests: Any, context: Context) -> Any:
            incoming = IncomingMessages(requests, self._receiver, kind, method)
            try:
                return await inner(incoming, context)
            finally:
                incoming.close()

        return call


def _refuse(context: Context, error: TopworkError, *, whole: bool = False) -> None:
    """Refuse a request, not by `context.abort`, whose exception lives as long as the call, with the frames of its traceback.
    `whole` tells remedy and item in the message too: clients of other protocols do not look into the details."""
    status = rpc_status.to_status(status_of(error, str(error) if whole else error.message))
    no_retry = (NO_RETRY,) if isinstance(error, TooLarge | DiskFull) else ()
    context.set_code(status.code)
    context.set_details(status.details)
    add_trailing_metadata(context, *status.trailing_metadata, *no_retry)


def status_of(error: TopworkError, message: str | None = None) -> status_pb2.Status:
    """The error as google.rpc.Status, with another message if one is given; its remedy and its item are in the details."""
    metadata = {"remedy": cut_bytes(error.remedy, LONGEST_REMEDY)} if error.remedy else {}
    if error.item is not None:
        metadata["item"] = str(error.item)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    message = error.message if message is None else message
    status = status_pb2.Status(code=error.code.value[0], message=cut_bytes(message, LONGEST_MESSAGE))
    status.details.add().Pack(info)
    if (after := retry_after(error)) is not None:
        wait = Duration()
        wait.FromMilliseconds(round(after * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=wait))
    return status


def retry_after(error: TopworkError) -> float | None:
    """Tell after how many seconds to come back; None where it is not known, or another try would end the same."""
    return USUAL_WAIT if error.retry_after is None and isinstance(error, Overloaded) else error.retry_after


def counted_as(method: str) -> str:
    """The name under which requests of a method are counted: that of ours alone, of other protocols with its service."""
    return method.rpartition("/")[2] if method.startswith(OURS) else method.lstrip("/")


def _texts(metadata: Any) -> dict[str, str]:
    """The metadata of a call that are texts: those of names that end with "-bin" are bytes."""
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def _rewrapped(handler: grpc.RpcMethodHandler, behavior: Handler) -> grpc.RpcMethodHandler:
    """Make a handler of bytes: `behavior` decodes them."""
    make = getattr(grpc, f"{_KINDS[handler.request_streaming, handler.response_streaming]}_rpc_method_handler")
    return make(behavior, None, handler.response_serializer)
