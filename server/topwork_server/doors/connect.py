"""Our own API over HTTP: every method of topwork.v1 as Connect, gRPC-Web and plain JSON, POST /topwork.v1.Service/Method.

The protocols are connectrpc's (connectrpc.com/docs/protocol); the methods, limits, counts and errors are those of gRPC. A
stream of requests is sent whole before its replies are read, as HTTP/1.1 has it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from connectrpc.code import Code
from connectrpc.compression.gzip import GzipCompression
from connectrpc.errors import ConnectError, ErrorDetail
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf.json_format import MessageToJson, Parse, ParseError
from google.protobuf.message import Message
from protobuf.wkt import Any as AnyMessage

from topwork_server.doors.http_context import HttpContext
from topwork_server.doors.service_methods import ServiceMethod
from topwork_server.errors import Cancelled, InvalidInput, TooLarge, TopworkError
from topwork_server.services.in_threads import in_thread_if
from topwork_server.services.interceptor import status_of
from topwork_server.services.message_budget import MAX_MESSAGE
from topwork_server.services.message_receiver import IncomingMessages, MessageReceiver
from topwork_server.services.request_tracker import RequestTracker, release
from topwork_server.telemetry import TRACERESPONSE

BINARY, JSON = "proto", "json"
#: Bytes of JSON that are read, or of a message that is written as JSON, on the event loop.
BRIEF = 16 << 10
#: Brackets in one JSON body: each becomes an object of some hundred bytes before any can be refused.
MOST_BRACKETS = 1_000_000
CODES: Mapping[int, Code] = dict(enumerate(Code, 1))  # in the order of google.rpc.Code, without OK


class Payload(NamedTuple):
    """The bytes of a message, and how they are written."""

    data: bytes
    codec: str


class _Codec:
    """Passes bytes through: what is made of them is bounded and, where it is much, done in a thread."""

    def __init__(self, name: str) -> None:
        self._name = name

    def name(self) -> str:
        return self._name

    def encode(self, message: bytes) -> bytes:
        return message

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> Payload:
        return Payload(bytes(data), self._name)


class ConnectApplication(ConnectASGIApplication[None]):
    """An ASGI application of the methods."""

    def __init__(self, methods: Iterable[ServiceMethod], requests: RequestTracker, receiver: MessageReceiver) -> None:
        endpoints: dict[str, Any] = {f"/{one.service}/{one.name}": _Method(one, requests, receiver).endpoint() for one in methods}
        super().__init__(
            service=None,
            endpoints=lambda _: endpoints,
            read_max_bytes=MAX_MESSAGE,
            compressions=(GzipCompression(),),  # of messages in streams; whole bodies are decompressed before (request_body.py)
            codecs=(_Codec(BINARY), _Codec(JSON)),
        )

    @property
    def path(self) -> str:
        return "/topwork.v1"


class _Method:
    """One method behind an endpoint: payloads in and bytes out, errors as Connect's."""

    def __init__(self, method: ServiceMethod, requests: RequestTracker, receiver: MessageReceiver) -> None:
        self._method, self._requests, self._receiver = method, requests, receiver

    def endpoint(self) -> Endpoint[Any, Any]:
        takes, gives = self._method.streams_requests, self._method.streams_replies
        stream_type, make, function = _SHAPES[takes, gives]
        info = MethodInfo(
            name=self._method.name,
            service_name=self._method.service,
            input=bytes,
            output=bytes,
            idempotency_level=IdempotencyLevel.UNKNOWN,
            stream_type=stream_type,
        )
        return make(info, partial(function, self))

    async def reply(self, request: Any, context: RequestContext[Any, Any]) -> bytes:
        """One reply, to one request or to a stream of them."""
        try:
            return await self._encoded(await self._serve(request, _context_of(context), context), _codec_of(context))
        except TopworkError as error:
            raise connect_error(error) from None

    async def replies(self, request: Any, context: RequestContext[Any, Any]) -> AsyncIterator[bytes]:
        """A stream of replies."""
        called, codec = _context_of(context), _codec_of(context)
        try:
            async for reply in called.replies(self._serve(request, called, context)):
                yield await self._encoded(reply, codec)
        except TopworkError as error:
            raise connect_error(error) from None

    async def _serve(self, request: Any, called: HttpContext, context: RequestContext[Any, Any]) -> Any:
        task = asyncio.current_task()
        assert task is not None
        work = self._streamed if self._method.streams_requests else self._single
        return await self._requests.serve(
            self._method.name,
            lambda: work(request, called),
            called.peer(),
            task.add_done_callback,
            full_name=self._path.lstrip("/"),
            headers=dict(context.request_headers.allitems()),
            traced=partial(context.response_headers.add, TRACERESPONSE),
        )

    async def _single(self, payload: Payload, called: HttpContext) -> Any:
        return await self._method.behavior(await self._message(payload), called)

    async def _streamed(self, payloads: AsyncIterator[Payload], called: HttpContext) -> Any:
        incoming = IncomingMessages(self._binary(payloads), self._receiver, self._method.kind, self._path)
        try:
            return await self._method.behavior(incoming, called)
        finally:
            incoming.close()

    async def _message(self, payload: Payload) -> Any:
        return await self._receiver.decoded(await self._as_binary(payload), self._method.kind, self._path)

    async def _binary(self, payloads: AsyncIterator[Payload]) -> AsyncIterator[bytes]:
        try:
            async for payload in payloads:
                yield await self._as_binary(payload)
        except ConnectError as error:  # of what is no stream of this protocol
            raise _as_ours(error) from error

    async def _as_binary(self, payload: Payload) -> bytes:
        """The message's bytes. JSON is written as such, so that the same bounds hold for what it may have."""
        if payload.codec == BINARY:
            return payload.data
        return await in_thread_if(len(payload.data) > BRIEF, _binary_of_json, payload.data, self._method.kind)

    async def _encoded(self, reply: Message, codec: str) -> bytes:
        if codec == BINARY:
            return reply.SerializeToString()
        return await in_thread_if(reply.ByteSize() > BRIEF, _json_of, reply)

    @property
    def _path(self) -> str:
        return f"/{self._method.service}/{self._method.name}"


_SHAPES: Mapping[tuple[bool, bool], tuple[StreamType, Callable[..., Endpoint[Any, Any]], Callable[..., Any]]] = {
    (False, False): (StreamType.UNARY, Endpoint.unary, _Method.reply),
    (False, True): (StreamType.SERVER_STREAM, Endpoint.server_stream, _Method.replies),
    (True, False): (StreamType.CLIENT_STREAM, Endpoint.client_stream, _Method.reply),
    (True, True): (StreamType.BIDI_STREAM, Endpoint.bidi_stream, _Method.replies),
}


def connect_error(error: TopworkError) -> ConnectError:
    """The error as Connect tells it: the status's code, the same details that gRPC's callers are sent, and a message that has
    the item and the remedy too: callers by curl see no more."""
    status, message = status_of(error), str(error).encode("utf-8", "replace").decode()  # a surrogate has no bytes
    release(error)
    details = [ErrorDetail(AnyMessage(type_url=one.type_url, value=one.value)) for one in status.details]
    return ConnectError(CODES[status.code], message, details)


def _as_ours(error: ConnectError) -> TopworkError:
    if error.code is Code.RESOURCE_EXHAUSTED:
        return TooLarge(error.message, remedy="send smaller messages")
    if error.code is Code.CANCELED:
        return Cancelled("the caller left")
    return InvalidInput(f"the stream is not as Connect has it: {error.message}", remedy="see connectrpc.com/docs/protocol")


def _binary_of_json(data: bytes, kind: type[Any]) -> bytes:
    if data.count(b"{") + data.count(b"[") > MOST_BRACKETS:
        raise InvalidInput("a body of more than a million objects and lists", remedy="send fewer in one message")
    message = kind()
    try:
        Parse(data, message)
    except (ParseError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(
            f"the body is no {message.DESCRIPTOR.full_name} in JSON: {error}", remedy="see the protos, or /docs"
        ) from None
    binary: bytes = message.SerializeToString()
    return binary


def _json_of(reply: Message) -> bytes:
    return MessageToJson(reply, indent=None).encode()


def _context_of(context: RequestContext[Any, Any]) -> HttpContext:
    left = context.timeout_ms
    deadline = None if left is None else time.monotonic() + left / 1000
    return HttpContext(context.client_address or "http", deadline)


def _codec_of(context: RequestContext[Any, Any]) -> str:
    return JSON if "json" in context.request_headers.get("content-type", "") else BINARY
