"""Requests of JSON, of whichever door: read and checked, run as the services run theirs, and answered in the door's own form."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from topwork_server.doors.calls import FINGERPRINT, MODEL, PRIORITY, REQUEST_ID, TIMEOUT, Call, priority_of
from topwork_server.doors.http_errors import WrongMethod
from topwork_server.doors.request_body import RequestBody
from topwork_server.errors import Cancelled, DeadlineExceeded, InvalidInput, TopworkError
from topwork_server.services.in_threads import in_thread_if
from topwork_server.services.request_tracker import RequestTracker, release
from topwork_server.telemetry import TRACERESPONSE

#: Where the application keeps the body of a request.
BODY = "topwork.body"
#: Bytes of JSON that are decoded on the event loop.
BRIEF = 64 << 10

#: Answers a call, or raises TopworkError.
Handler = Callable[[Call[Any]], Awaitable[Response]]


class ErrorForm(Protocol):
    """Writes an error as the clients of a door read it."""

    def __call__(self, error: TopworkError) -> Response: ...


@dataclass(frozen=True, slots=True)
class Operation:
    """One path of a door. `counted_as` is the name under which its requests are counted; `body` is the class of what is posted,
    None where the method is GET. The door decodes it by itself where `raw` is set: it is given bytes, which come
    as `content_type`. `error_form_of` chooses the form of errors by the body's bytes (b"" where none came), where clients of
    several protocols call the path."""

    path: str
    counted_as: str
    summary: str
    handler: Handler
    body: Any = None
    raw: bool = False
    content_type: str = "application/json"
    error_form_of: Callable[[bytes], ErrorForm] | None = None


class DoorRoute(Route):
    """A route that refuses other methods than its own in the form of its door."""

    def __init__(self, path: str, endpoint: Callable[[Request], Awaitable[Response]], method: str, error_form: ErrorForm) -> None:
        super().__init__(path, endpoint, methods=[method])
        self._method, self._error_form = method, error_form

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        response = self._error_form(
            WrongMethod(f"{scope['method'][:40]} of {scope['path'][:100]}", remedy=f"call it by {self._method}")
        )
        response.headers["allow"] = self._method
        await response(scope, receive, send)


class JsonCalls:
    """Makes routes of a door's operations."""

    def __init__(self, requests: RequestTracker) -> None:
        self._requests = requests
        #: All that routes were made of.
        self.operations: list[Operation] = []

    def routes(self, operations: Sequence[Operation], error_form: ErrorForm) -> list[Route]:
        self.operations += operations
        return [self._route(one, error_form) for one in operations]

    def _route(self, operation: Operation, error_form: ErrorForm) -> Route:
        posted = operation.body is not None
        decoder = msgspec.json.Decoder(operation.body) if posted and not operation.raw else None
        usual = operation.error_form_of(b"") if operation.error_form_of else error_form

        async def answer(request: Request) -> Response:
            headers = {REQUEST_ID: request.headers.get(REQUEST_ID, "")[:100] or f"req_{secrets.token_hex(12)}"}
            form = usual
            try:
                self._requests.let_in(operation.counted_as, request.headers)
                async with _while_connected(request) as scope:
                    # its bytes are not held while the call is answered: `_call_of` takes them out
                    held = [await _body_of(request).read()] if posted else []
                    if held and held[0] and operation.error_form_of:
                        form = operation.error_form_of(held[0])
                    if (deadline := _deadline(request.headers.get(TIMEOUT))) is not None:
                        scope.reschedule(asyncio.get_running_loop().time() + deadline - time.monotonic())
                    came = partial(_call_of, request, held, decoder, deadline)
                    response = await self._serve(operation, request, came, partial(headers.__setitem__, TRACERESPONSE))
            except TopworkError as error:
                response = form(error)
                release(error)
            response.headers.update(headers)
            return response

        return DoorRoute(operation.path, answer, "POST" if posted else "GET", usual)

    async def _serve(
        self, operation: Operation, request: Request, came: Callable[[], Awaitable[Call[Any]]], traced: Callable[[str], object]
    ) -> Response:
        async def work() -> Response:
            return await operation.handler(await came())

        task = asyncio.current_task()
        assert task is not None
        peer = str(_client_of(request))
        return await self._requests.serve(
            operation.counted_as, work, peer, task.add_done_callback, headers=request.headers, traced=traced
        )


async def _call_of(
    request: Request, held: list[bytes], decoder: msgspec.json.Decoder[Any] | None, deadline: float | None
) -> Call[Any]:
    """The call of a request, whose body, if it has one, is taken out of `held`."""
    headers, data = request.headers, held.pop() if held else None
    return Call(
        data if data is None or decoder is None else await decoded(data, decoder),
        request.path_params,
        headers.get(MODEL, ""),
        headers.get(FINGERPRINT, ""),
        priority_of(headers.get(PRIORITY, "normal")),
        deadline,
        _client_of(request),
        headers,
    )


def _client_of(request: Request) -> str:
    return f"{request.client.host}:{request.client.port}" if request.client else "http"


def _body_of(request: Request) -> RequestBody:
    body: RequestBody = request.scope[BODY]
    return body


async def decoded(data: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """Decode a body of JSON. InvalidInput where it is none, or not of the decoder's class."""
    return await in_thread_if(len(data) > BRIEF, _decoded, data, decoder)


def _decoded(data: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    if not data:
        raise InvalidInput("the body is empty", remedy="send JSON; /docs shows what of")
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the body is not as it should be: {error}", remedy="/docs shows what to send") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the body is no JSON: {error}", remedy="send JSON in UTF-8") from None


def _deadline(milliseconds: str | None) -> float | None:
    if milliseconds is None:
        return None
    if not milliseconds.isdecimal() or len(milliseconds) > 20 or not 0 < int(milliseconds) < 1 << 40:
        raise InvalidInput(f"{TIMEOUT} is {milliseconds[:40]!r}", remedy="set it to a number of milliseconds")
    return time.monotonic() + int(milliseconds) / 1000


@contextlib.asynccontextmanager
async def _while_connected(request: Request) -> AsyncIterator[asyncio.Timeout]:
    """Cancel what runs in the context when the caller leaves: Cancelled; or when the timeout passes, which the context may set:
    DeadlineExceeded."""
    body, watcher, left = _body_of(request), None, False

    async def watch(scope: asyncio.Timeout) -> None:
        nonlocal left
        await body.has_ended.wait()
        while (await body.receive())["type"] != "http.disconnect":
            pass
        left = True
        if not scope.expired():
            scope.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(None) as scope:
            watcher = asyncio.create_task(watch(scope))
            try:
                yield scope
            finally:
                watcher.cancel()
    except TopworkError:  # DeadlineExceeded is a TimeoutError too
        raise
    except TimeoutError as error:
        if left:
            raise Cancelled("the caller left") from error
        raise DeadlineExceeded("the time of the request was over", remedy=f"set {TIMEOUT} higher, or send less") from error
