"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

import grpc

from topwork._ops.item_requests import SOON
from topwork._transport import status
from topwork._transport.calls import BlockingWork, Method, Step, Steps, StreamCall, UnaryCall
from topwork._transport.methods import GET_ENCODER
from topwork._transport.retry import UnaryRetries
from topwork._transport.threads import interruptible
from topwork._verbs import ClientBase
from topwork.errors import InvalidInput, TopworkError
from topwork.v1 import encoders_pb2

#: What a notebook can show of raw inputs, by what the encoder reads.
SHOWABLE = ("text", "image")

T = TypeVar("T")


class Client(ClientBase):
    """A connection to a Topwork server; safe to use from many threads.

    target       "HOST:PORT", or "https://HOST:PORT" of a server with TLS
    timeout      seconds to wait for a reply where a call names none; None waits for ever
    retry_for    seconds in which a call is made again where the server is away (it restarts) or overloaded, with growing pauses
                 (0.1 s, doubling, at most 5 s, with jitter) or after the time that the server asks for; 0: never. A stream goes
                 on from its first unanswered chunk, and its time begins again after each answer. Nothing else is tried again:
                 not a deadline that passed, not a request that was refused, nor what might then be done twice (a training, a
                 build of an index, a deletion of a set) unless the server certainly did not begin it.
                 None: 60, but 5 where a client that has never had an answer cannot connect (no server runs, or it is elsewhere)
    gzip         compress what is sent (worth it for texts over a slow network, not for pictures, videos and sound)
    credentials  of gRPC, for what the parameters below cannot say
    metadata     pairs of strings to send with every call, such as [("authorization", "Bearer ...")]. Where a span of
                 OpenTelemetry is active, its trace context (`traceparent`) goes with each call too
    api_key      the key of the caller, which goes with every call; None: $TOPWORK_API_KEY, if that is set
    ca           PEM file of the authority of the server's certificate; None: that of $TOPWORK_CA, or the authorities of the web
    certificate  PEM file of a certificate to show to a server that asks clients for one, and
    key          that of its private key
    insecure     send the key in plaintext to another machine; without it only with TLS, or to this machine

    Connects at the first call. Use it in a `with` block, or call `close`. Pickled, for another process, it is opened again there.
    """

    _STREAM = "Generator[{}, None, None]"

    @staticmethod
    def _method(verb: Callable[..., Steps[Any]]) -> Callable[..., Any]:
        def method(self: Client, /, *given: Any, **settings: Any) -> Any:
            return self._run(self._steps(verb, given, settings))

        return method

    @staticmethod
    def _stream_method(verb: Callable[..., Steps[StreamCall[Any]]]) -> Callable[..., Any]:
        def method(self: Client, /, *given: Any, **settings: Any) -> Any:
            return self._iterate(self._steps(verb, given, settings))  # checked now, not when the first value is asked for

        return method

    def _open(self) -> None:
        self._channel = self._connection.channel(grpc)
        self._session = self._connection.state(_refuse_asynchronous, self._inputs)

    def close(self) -> None:
        """End the connection, and every call on it."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _inputs(self, name: str, ids: Sequence[str]) -> dict[str, Any]:
        """Raw inputs by id, for a notebook: of sets that keep texts or pictures."""
        info = self.set(name, timeout=SOON)
        if not info.keeps_inputs or info.modality not in SHOWABLE:
            return {}
        rows = self.read(name, taps=[], columns=[], ids=list(ids), inputs=True, timeout=SOON)
        return dict(zip(rows.ids, rows.inputs or (), strict=True))

    def _run(self, steps: Steps[T]) -> T:
        try:
            step = self._begun(steps)
            while True:
                try:
                    answer = self._perform(step)
                except TopworkError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        finally:
            steps.close()

    def _iterate(self, steps: Steps[StreamCall[T]]) -> Generator[T, None, None]:
        yield from self._replies(self._run(steps))

    def _perform(self, step: Step) -> Any:
        match step:
            case UnaryCall():
                return self._call(step)
            case BlockingWork():
                return step.function()
            case StreamCall():
                for _ in self._replies(step):
                    pass
                return None

    def _call(self, call: UnaryCall) -> Any:
        tries = UnaryRetries(self._session, call)
        while True:
            try:
                reply = self._stub(call.method)(call.request, timeout=tries.left(), metadata=self._metadata())
            except grpc.RpcError as error:
                pause = tries.failed(error)
            else:
                tries.answered()
                return reply
            time.sleep(pause)

    def _replies(self, stream: StreamCall[T]) -> Generator[T, None, None]:
        """Yield each reply's value; a break leads to another try."""
        stream.tries.method, stream.tries.activity = stream.method.name, self._activity
        try:
            while True:
                try:
                    yield from self._one_try(stream)
                    return
                except grpc.RpcError as error:
                    failed = status.translate(error, self._session.target, None, stream.method.name)
                stream.tries.rest(failed)
        finally:
            stream.tries.close()

    def _activity(self, encoder: str) -> object:
        """Get a summary of the encoder's work so far, which changes while it moves; None where the server does not answer."""
        request = encoders_pb2.GetEncoderRequest(name=encoder)
        try:
            found = self._stub(GET_ENCODER)(request, timeout=SOON, metadata=self._metadata())
        except grpc.RpcError:
            return None
        return found.state, found.detail, sorted(found.counters.items())

    def _one_try(self, stream: StreamCall[T]) -> Iterator[T]:
        tries = stream.tries
        requests = tries.requests()
        if requests is None:
            return
        call, replies = self._call_stream(stream.method, requests)
        tries.opened(call.cancel)
        try:
            for reply in interruptible(replies):
                yield stream.receive(reply, tries.answered())
                tries.reading()
            tries.finish()
        finally:
            call.cancel()

    def _call_stream(self, method: Method[Any, Any], requests: Any) -> tuple[Any, Iterator[Any]]:
        """Begin a call, and give it with the iterator of its replies: one of a method that answers once."""
        stub, metadata = self._stub(method), self._metadata()
        if method.kind != "stream_unary":
            call = stub(requests, metadata=metadata)
            return call, call
        call = stub.future(requests, metadata=metadata)
        return call, _lone_reply(call)


def _lone_reply(call: Any) -> Iterator[Any]:
    try:
        yield call.result()
    except grpc.FutureCancelledError:
        raise call from None  # it is an RpcError, too


def _refuse_asynchronous(source: AsyncIterable[Any]) -> Iterator[Any]:
    raise InvalidInput("these items come asynchronously", remedy="use topwork.AsyncClient, or pass a list")
