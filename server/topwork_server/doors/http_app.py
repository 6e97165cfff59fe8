"""The application on the HTTP port: which door a request goes through, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from topwork._display.excerpts import excerpt

from topwork_server.config import ANY_ORIGIN
from topwork_server.doors import http_errors
from topwork_server.doors.connect import ConnectApplication, connect_error
from topwork_server.doors.json_calls import BODY
from topwork_server.doors.request_body import RequestBody
from topwork_server.doors.service_methods import ServiceMethods
from topwork_server.errors import Refused, TopworkError
from topwork_server.services.message_receiver import MessageReceiver
from topwork_server.services.request_tracker import RequestTracker

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
#: What curl calls a body that it is given without a type. A page of another site may send such a body too, and is told by its
#: origin.
FORM = "application/x-www-form-urlencoded"
#: Encodings that a caller would take replies in. Rows of floats hardly shrink, and to compress them would hold up the event loop.
REPLY_ENCODINGS = (b"accept-encoding", b"connect-accept-encoding", b"grpc-accept-encoding")


class HttpApplication:
    """An ASGI application: methods of our own API by their path, and the routes of the other doors."""

    def __init__(
        self,
        methods: ServiceMethods,
        routes: Sequence[Route],
        requests: RequestTracker,
        receiver: MessageReceiver,
        allowed_origins: Collection[str] = (),
    ) -> None:
        self._methods, self._budget, self._requests = methods.methods, receiver.budget, requests
        self._connect = ConnectApplication(methods.methods.values(), requests, receiver)
        self._routes = Router(routes, redirect_slashes=False, default=_nothing_there)
        self._allowed_origins = allowed_origins
        self._answer_pages = _answers_to_pages(self._answer, allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        body = RequestBody(receive, headers, self._budget)
        send = body.closing_early(send)
        try:
            scope[BODY] = body
            if refusal := self._foreign_origin(headers):
                await refusal(scope, receive, send)
            elif "origin" in headers:
                await self._answer_pages(scope, body.receive, send)
            else:
                await self._answer(scope, body.receive, send)
        finally:
            body.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in self._methods:
            await self._call_method(scope, Headers(scope=scope), scope[BODY], send)
        else:
            await self._routes(scope, receive, send)

    def _foreign_origin(self, headers: Headers) -> Response | None:
        """Refuse what a page of another site sends, unless its origin is allowed: its reader has not asked for it."""
        origin = headers.get("origin")
        if origin is None or headers.get("host", "") == (_host_of(origin) or None):
            return None
        if ANY_ORIGIN in self._allowed_origins or origin in self._allowed_origins:
            return None
        shown = excerpt(origin)
        return _refusal(
            403,
            "permission_denied",
            f"a page of {shown} may not call this server: it is of another origin (serve with --allow-origin to let it)",
        )

    async def _call_method(self, scope: Scope, headers: Headers, body: RequestBody, send: Send) -> None:
        if scope["method"] != "POST":
            await _refusal(405, "unimplemented", "methods are called by POST", allow="POST")(scope, body.receive, send)
            return
        scope["headers"] = _without(scope["headers"], *REPLY_ENCODINGS)
        if headers.get("content-type", FORM) == FORM:
            scope["headers"] = [(b"content-type", b"application/json"), *_without(scope["headers"], b"content-type")]
        method = self._methods[scope["path"]]
        try:
            self._requests.let_in(method.name, headers)
        except Refused as error:
            await http_errors.error_form(error)(scope, body.receive, send)
            return
        if method.streams_requests:
            await self._connect(scope, body.receive, send)
            return
        scope["headers"] = _without(scope["headers"], b"content-encoding")
        await self._connect(scope, _whole(body), send)


async def _nothing_there(scope: Scope, receive: Receive, send: Send) -> None:
    told = f"there is nothing at {excerpt(scope['path'])} (see /docs)"
    # clients of the Open Inference Protocol read `error`, and those of Cohere, whose paths begin so too, `message`
    also = {"error": told} if scope["path"].startswith("/v2/") else {}
    refusal = JSONResponse({"code": "unimplemented", "message": told, **also}, 404)
    await refusal(scope, receive, send)


def _host_of(origin: str) -> str:
    """The host of an origin, with its port; "" where it has none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


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


def _answers_to_pages(app: Application, origins: Collection[str]) -> Application:
    """Answer as `app` does, and tell browsers that pages of these origins may read the replies (fetch.spec.whatwg.org, section
    3.3): all of their headers, by `*`, which holds where no cookies are sent, and here none mean anything. Headers that a page
    wants to send are named back to it one by one, since `*` is not for Authorization."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        allow_private_network=True,
        expose_headers=("*",),
    )


def _refusal(status: int, code: str, message: str, **headers: str) -> Response:
    return JSONResponse({"code": code, "message": message}, status, headers)


def _without(headers: list[tuple[bytes, bytes]], *names: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name not in names]
