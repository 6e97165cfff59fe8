"""The application on the HTTP port: which door a request goes through, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from topwork._display.excerpts import excerpt

from topwork_server.doors.connect import ConnectApplication, connect_error
from topwork_server.doors.json_calls import BODY
from topwork_server.doors.request_body import RequestBody
from topwork_server.doors.service_methods import ServiceMethods
from topwork_server.errors import TopworkError
from topwork_server.services.message_receiver import MessageReceiver
from topwork_server.services.request_tracker import RequestTracker

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
#: What curl calls a body that it is given without a type. A page of another site may send such a body too, and is told by its
#: origin.
FORM = "application/x-www-form-urlencoded"
#: Encodings that a caller would take replies in. Rows of floats hardly shrink, and to compress them would hold up the event loop.
REPLY_ENCODINGS = (b"accept-encoding", b"connect-accept-encoding", b"grpc-accept-encoding")


class HttpApplication:
    """An ASGI application: methods of our own API by their path, and the routes of the other doors."""

    def __init__(
        self, methods: ServiceMethods, routes: Sequence[Route], requests: RequestTracker, receiver: MessageReceiver
    ) -> None:
        self._methods, self._budget = methods.methods, receiver.budget
        self._connect = ConnectApplication(methods.methods.values(), requests, receiver)
        self._routes = Router(routes, redirect_slashes=False, default=_nothing_there)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        body = RequestBody(receive, headers, self._budget)
        send = body.closing_early(send)
        try:
            if refusal := _foreign_origin(headers):
                await refusal(scope, receive, send)
            elif scope["path"] in self._methods:
                await self._call_method(scope, headers, body, send)
            else:
                scope[BODY] = body
                await self._routes(scope, body.receive, send)
        finally:
            body.close()

    async def _call_method(self, scope: Scope, headers: Headers, body: RequestBody, send: Send) -> None:
        if scope["method"] != "POST":
            await _refusal(405, "unimplemented", "methods are called by POST", allow="POST")(scope, body.receive, send)
            return
        scope["headers"] = _without(scope["headers"], *REPLY_ENCODINGS)
        if headers.get("content-type", FORM) == FORM:
            scope["headers"] = [(b"content-type", b"application/json"), *_without(scope["headers"], b"content-type")]
        if self._methods[scope["path"]].streams_requests:
            await self._connect(scope, body.receive, send)
            return
        scope["headers"] = _without(scope["headers"], b"content-encoding")
        await self._connect(scope, _whole(body), send)


async def _nothing_there(scope: Scope, receive: Receive, send: Send) -> None:
    refusal = _refusal(404, "unimplemented", f"there is nothing at {excerpt(scope['path'])} (see /docs)")
    await refusal(scope, receive, send)


def _whole(body: RequestBody) -> Receive:
    """Receive the body as one event, and then what becomes of the connection."""

    async def receive() -> Message:
        if body.has_ended.is_set():
            return await body.receive()
        try:
            return {"type": "http.request", "body": await body.read(), "more_body": False}
        except TopworkError as error:
            raise connect_error(error) from None

    return receive


def _foreign_origin(headers: Headers) -> Response | None:
    """Refuse what a page of another site sends: its reader has not asked for it."""
    origin = headers.get("origin")
    if origin is None or urlsplit(origin).netloc == headers.get("host"):
        return None
    return _refusal(403, "permission_denied", f"a page of {excerpt(origin)} may not call this server: it is of another origin")


def _refusal(status: int, code: str, message: str, **headers: str) -> Response:
    return JSONResponse({"code": code, "message": message}, status, headers)


def _without(headers: list[tuple[bytes, bytes]], *names: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name not in names]
