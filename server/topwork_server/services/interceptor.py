"""The one place where errors become gRPC statuses, and where the server knows what is in flight.

A handler is a coroutine function: one that streams its replies writes them to the context, and is no generator.

Requests come as bytes, and are decoded here (receiving.py): what cannot be decoded is refused as any other wrong request.

A TopworkError goes out with google.rpc.Status details: ErrorInfo{reason: class name, domain: "topwork", metadata: {remedy,
item}}; where it is known when to come back, RetryInfo.
Anything else is our fault: INTERNAL with a short id, which the log has beside the traceback.

An error that has become a status lets go of its traceback. Its frames hold the request, and often the error itself: such a
cycle of 60 MiB would stay until Python's collector looks, which counts objects and not bytes.
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
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from topwork._display.excerpts import LONGEST_MESSAGE, LONGEST_REMEDY, cut_bytes

from topwork_server.errors import DiskFull, InvalidInput, Overloaded, TooLarge, TopworkError, Unavailable, exhausted
from topwork_server.feature_sets import lance_io
from topwork_server.plugin_crashes import contained
from topwork_server.services import message_limits
from topwork_server.services.message_budget import MAX_MESSAGE, MessageBudget
from topwork_server.services.message_receiver import IncomingMessages, MessageReceiver

DOMAIN = "topwork"
#: TooLarge and DiskFull share their status with Overloaded; this tells gRPC's own retries that another try would end the same.
NO_RETRY = ("grpc-retry-pushback-ms", "-1")
#: Seconds in which a server that stops may be back.
BACK = 1.0
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

#: What every method of ours begins with.
OURS = "/topwork."

Context: TypeAlias = "grpc.aio.ServicerContext"
Handler = Callable[[Any, Context], Awaitable[Any]]
log = logging.getLogger(__name__)


class RequestInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Translates errors, counts requests by method and status, and drains."""

    def __init__(self, budget: MessageBudget | None = None) -> None:
        self.budget = budget or MessageBudget(16 * MAX_MESSAGE)
        self._receiver = MessageReceiver(self.budget)
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
        task = asyncio.current_task()
        assert task is not None
        if (known := self._handlers.get(details.method)) is None:
            handler = await continuation(details)
            if handler is None:
                return handler
            known = self._handlers[details.method] = self._guarded(details.method, handler)
        if not known.request_streaming and details.method.startswith(OURS):
            await self._receiver.turn(task)
        return known

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
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

    def close(self) -> None:
        """Requests must have ended before."""
        self._receiver.close()

    async def cut(self) -> None:
        self.refuse()
        self._cut = True
        for task in self._active | self._unsent:
            task.cancel()
        await self.idle()

    def _guarded(self, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        kind = getattr(handler.request_deserializer, "__self__", None)
        inner = getattr(handler, _KINDS[handler.request_streaming, handler.response_streaming])
        if not method.startswith(OURS):  # health and reflection answer for themselves, also while draining
            return handler if handler.request_streaming else _rewrapped(handler, self._limited(kind, inner))
        read = self._stream if handler.request_streaming else self._single
        return _rewrapped(handler, self._counted(method.rpartition("/")[2], read(method, kind, inner)))

    def _counted(self, name: str, inner: Handler) -> Handler:
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

    def _enter(self, context: Context) -> asyncio.Task[Any]:
        """Count a request as in flight until its handler has cleaned up, and until its reply has left."""
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
                raise _stopping()
            return await inner(request, context)
        except asyncio.CancelledError as error:
            if self._cut:
                _refuse(context, Unavailable("the server stopped before the request was done", remedy="send it again"))
            elif _left(asyncio.current_task()):
                raise
            else:  # something that this request waited for was stopped: nothing else would answer the caller
                _refuse(context, Unavailable("what the request waited for was stopped", remedy="send it again"))
            release(error)
        except Exception as error:
            _refuse(context, _exhausted(error) or _as_ours(error))
            release(error)
        except GeneratorExit:  # the loop is closed
            raise
        except BaseException as error:
            _refuse(context, _internal() if lance_io.is_panic(error) else _as_ours(contained(error)))
            release(error)
        return None


def _refuse(context: Context, error: TopworkError) -> None:
    """Refuse a request, not by `context.abort`, whose exception lives as long as the call, with the frames of its traceback."""
    status = rpc_status.to_status(status_of(error))
    no_retry = (NO_RETRY,) if isinstance(error, TooLarge | DiskFull) else ()
    context.set_code(status.code)
    context.set_details(status.details)
    context.set_trailing_metadata((*status.trailing_metadata, *no_retry))


def release(error: BaseException) -> None:
    """Let go of the frames that the error and those behind it came through."""
    errors: list[BaseException | None] = [error]
    seen: set[int] = set()
    while errors:
        one = errors.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            errors += [one.__cause__, one.__context__]


def _as_ours(error: Exception) -> TopworkError:
    return error if isinstance(error, TopworkError) else _internal()


def _exhausted(error: Exception) -> Overloaded | None:
    found = exhausted(error)
    if found is not None:
        log.warning("%s", found.message)
    return found


def _stopping() -> Unavailable:
    """Return the error of a request that was not begun: a RetryInfo says that any such request may be sent again."""
    return Unavailable("the server is stopping", remedy="try again in a moment, or at another address", retry_after=BACK)


def status_of(error: TopworkError) -> status_pb2.Status:
    """The error as google.rpc.Status; its remedy and its item are in the details."""
    metadata = {"remedy": cut_bytes(error.remedy, LONGEST_REMEDY)} if error.remedy else {}
    if error.item is not None:
        metadata["item"] = str(error.item)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    message = cut_bytes(error.message, LONGEST_MESSAGE)
    status = status_pb2.Status(code=error.code.value[0], message=message)
    status.details.add().Pack(info)
    after = USUAL_WAIT if error.retry_after is None and isinstance(error, Overloaded) else error.retry_after
    if after is not None:
        wait = Duration()
        wait.FromMilliseconds(round(after * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=wait))
    return status


def _internal() -> TopworkError:
    mark = secrets.token_hex(4)
    log.exception("error=%s", mark)
    return TopworkError(f"internal error {mark}", remedy=f"the server's log has the reason under {mark}")


def _left(task: asyncio.Task[Any] | None) -> bool:
    """Tell whether the request itself was cancelled: its caller left, or its time is over."""
    return task is not None and task.cancelling() > 0


def _code_name(context: Context) -> str:
    code = context.code()
    return str(getattr(code, "name", code or "OK"))


def _rewrapped(handler: grpc.RpcMethodHandler, behavior: Handler) -> grpc.RpcMethodHandler:
    """Make a handler of bytes: `behavior` decodes them."""
    make = getattr(grpc, f"{_KINDS[handler.request_streaming, handler.response_streaming]}_rpc_method_handler")
    return make(behavior, None, handler.response_serializer)
