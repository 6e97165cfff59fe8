"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Callable, Generator, Iterator, Sequence
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import grpc

from topwork._connection import TIMEOUT, connection
from topwork._ops import (
    arguments,
    embed_ops,
    head_ops,
    index_ops,
    job_ops,
    metadata_ops,
    predict_ops,
    search_ops,
    set_ops,
    write_ops,
)
from topwork._ops.overloads import Predict, Probe, Search
from topwork._ops.timeout_message import SOON
from topwork._transport import channel, status
from topwork._transport.calls import BlockingWork, ClientState, Method, Step, Steps, StreamCall, UnaryCall, dress
from topwork._transport.methods import GET_ENCODER
from topwork._transport.retry import UnaryRetries
from topwork._transport.threads import interruptible
from topwork.errors import InvalidInput, TopworkError
from topwork.jobs import Job
from topwork.predictions import Predictions
from topwork.probes import ProbeTable
from topwork.search_results import Hits
from topwork.v1 import encoders_pb2

#: What a notebook can show of raw inputs, by what the encoder reads.
SHOWABLE = ("text", "image")

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(verb: Callable[Concatenate[ClientState, P], Steps[T]]) -> Callable[Concatenate[Client, P], T]:
    @wraps(verb)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        given, named = arguments.bound(verb, (self._session, *args), kwargs)
        return self._run(verb(*given, **named))

    dress(method, verb, "{}")
    return method


def _iterating(
    verb: Callable[Concatenate[ClientState, P], Steps[StreamCall[T]]],
) -> Callable[Concatenate[Client, P], Generator[T, None, None]]:
    @wraps(verb)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        given, named = arguments.bound(verb, (self._session, *args), kwargs)  # now, not when the first value is asked for
        return self._iterate(verb(*given, **named))

    dress(method, verb, "Generator[{}, None, None]")
    return method


class Client:
    """A connection to a Topwork server; safe to use from many threads.

    target       "HOST:PORT"
    timeout      seconds to wait for a reply where a call names none; None waits for ever
    retry_for    seconds in which a call is made again where the server is away (it restarts) or overloaded, with growing pauses
                 (0.1 s, doubling, at most 5 s, with jitter) or after the time that the server asks for; 0: never. A stream goes
                 on from its first unanswered chunk, and its time is counted anew after each answer. Nothing else is tried again:
                 not a deadline that passed, not a request that was refused, nor what might then be done twice (a training, a
                 build of an index, a deletion of a set) unless the server certainly did not begin it.
                 None: 60, but 5 where a client that has never had an answer cannot connect (no server runs, or it is elsewhere)
    gzip         compress what is sent (worth it for texts over a slow network, not for pictures and videos)
    credentials  grpc.ssl_channel_credentials(...) for a server behind TLS
    metadata     pairs of strings to send with every call, such as [("authorization", "Bearer ...")]

    Connects at the first call. Use it in a `with` block, or call `close`. Pickled, for another process, it is opened again there.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        timeout: float | None = TIMEOUT,
        retry_for: float | None = None,
        gzip: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        made = self._connection = connection(target, timeout, retry_for, gzip, credentials, metadata)
        self._channel = channel.connect(grpc, made.target, made.gzip, made.credentials)
        self._session = ClientState(made.target, made.timeout, made.retry_for, _refuse_asynchronous, self._inputs)
        self._closed = False
        self._stubs: dict[Method[Any, Any], Any] = {}

    health = _blocking(embed_ops.health)
    encoders = _blocking(embed_ops.encoders)
    encoder = _blocking(embed_ops.encoder)
    embed = _blocking(embed_ops.embed)
    embed_taps = _blocking(embed_ops.embed_taps)
    embed_stream = _iterating(embed_ops.embed_stream)
    nearest_words = _blocking(embed_ops.nearest_words)

    write = _blocking(write_ops.write)
    write_stream = _iterating(write_ops.write_stream)
    read = _blocking(set_ops.read)
    read_stream = _iterating(set_ops.read_stream)
    export_set = _blocking(set_ops.export_set)
    delete = _blocking(set_ops.delete)
    count = _blocking(metadata_ops.count)
    update = _blocking(metadata_ops.update)
    add_column = _blocking(metadata_ops.add_column)
    rename_column = _blocking(metadata_ops.rename_column)
    cast_column = _blocking(metadata_ops.cast_column)
    drop_column = _blocking(metadata_ops.drop_column)
    sets = _blocking(set_ops.sets)
    set = _blocking(set_ops.set)
    drop_set = _blocking(set_ops.drop_set)
    versions = _blocking(set_ops.versions)
    pin = _blocking(set_ops.pin)
    unpin = _blocking(set_ops.unpin)
    prune = _blocking(set_ops.prune)

    create_index = _blocking(index_ops.create_index)
    rebuild_index = _blocking(index_ops.rebuild_index)
    index = _blocking(index_ops.index)
    indexes = _blocking(index_ops.indexes)
    drop_index = _blocking(index_ops.drop_index)
    index_kinds = _blocking(index_ops.index_kinds)
    search = cast("Search[Hits, list[Hits]]", _blocking(search_ops.search))

    trainers = _blocking(head_ops.trainers)
    train = _blocking(head_ops.train)
    head = _blocking(head_ops.head)
    heads = _blocking(head_ops.heads)
    drop_head = _blocking(head_ops.drop_head)
    report = _blocking(head_ops.report)
    report_page = _blocking(head_ops.report_page)
    probe = cast("Probe[ProbeTable, Job]", _blocking(head_ops.probe))
    export_head = _blocking(head_ops.export_head)
    predict = cast("Predict[Predictions, dict[str, Predictions]]", _blocking(predict_ops.predict))

    jobs = _blocking(job_ops.jobs)
    job = _blocking(job_ops.job)
    watch_job = _iterating(job_ops.watch_job)
    cancel_job = _blocking(job_ops.cancel_job)

    def close(self) -> None:
        """End the connection, and every call on it."""
        self._closed = True
        self._channel.close()

    def __reduce__(self) -> Any:
        return partial(type(self), self._connection.target, **self._connection.state()), ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._connection.target}>"

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
        if self._closed:
            steps.close()
            raise InvalidInput("this client is closed", remedy="open another")
        try:
            step = next(steps)
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
                reply = self._stub(call.method)(call.request, timeout=tries.left(), metadata=self._connection.metadata)
            except grpc.RpcError as error:
                pause = tries.failed(error)
            else:
                tries.answered()
                return reply
            time.sleep(pause)

    def _replies(self, stream: StreamCall[T]) -> Generator[T, None, None]:
        """Each reply's value; a break is met by another try."""
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
        """What the encoder has done so far: what changes from one look to the next has moved. None where nobody says."""
        request = encoders_pb2.GetEncoderRequest(name=encoder)
        try:
            found = self._stub(GET_ENCODER)(request, timeout=SOON, metadata=self._connection.metadata)
        except grpc.RpcError:
            return None
        return found.state, found.detail, sorted(found.counters.items())

    def _one_try(self, stream: StreamCall[T]) -> Iterator[T]:
        tries = stream.tries
        requests = tries.requests()
        if requests is None:
            return
        call = self._stub(stream.method)(requests, metadata=self._connection.metadata)
        tries.opened(call.cancel)
        try:
            for reply in interruptible(call):
                yield stream.receive(reply, tries.answered())
                tries.reading()
            tries.finish()
        finally:
            call.cancel()

    def _stub(self, method: Method[Any, Any]) -> Any:
        if method not in self._stubs:
            self._stubs[method] = channel.stub(self._channel, method)
        return self._stubs[method]


def _refuse_asynchronous(source: AsyncIterable[Any]) -> Iterator[Any]:
    raise InvalidInput("these items come asynchronously", remedy="use topwork.AsyncClient, or pass a list")
