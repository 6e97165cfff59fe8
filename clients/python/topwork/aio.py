"""The asynchronous client: the same verbs on grpc.aio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar, cast

import grpc
import grpc.aio

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
from topwork._transport import channel
from topwork._transport.calls import BlockingWork, ClientState, Method, Step, Steps, StreamCall, UnaryCall, dress
from topwork._transport.retry import UnaryRetries
from topwork._transport.threads import AsyncBridge
from topwork.client import Client
from topwork.errors import InvalidInput, TopworkError
from topwork.jobs import Job
from topwork.predictions import Predictions
from topwork.probes import ProbeTable
from topwork.search_results import Hits

P = ParamSpec("P")
T = TypeVar("T")
#: What `await` turns into a T.
Awaited: TypeAlias = Coroutine[Any, Any, T]


def _asynchronous(
    verb: Callable[Concatenate[ClientState, P], Steps[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    @wraps(verb)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        given, named = arguments.bound(verb, (self._session, *args), kwargs)
        return await self._run(verb(*given, **named))

    dress(method, verb, "{}")
    return method


def _iterating(
    verb: Callable[Concatenate[ClientState, P], Steps[StreamCall[T]]],
) -> Callable[Concatenate[AsyncClient, P], AsyncGenerator[T, None]]:
    @wraps(verb)
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        given, named = arguments.bound(verb, (self._session, *args), kwargs)  # now, not when the first value is asked for
        return self._iterate(verb(*given, **named))

    dress(method, verb, "AsyncGenerator[{}, None]")
    return method


class AsyncClient:
    """`topwork.Client` for asyncio: the same verbs, to be awaited; those that iterate do so asynchronously.

    Items may come from an asynchronous iterable too. Files are read, and iterators are advanced, in threads beside the event
    loop. Use it in an `async with` block, or await `close`. See `Client` for the parameters.
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
        # Opened by the first call: a channel belongs to the event loop in which it is made.
        made = self._connection = connection(target, timeout, retry_for, gzip, credentials, metadata)
        self._connect = partial(channel.connect, grpc.aio, made.target, made.gzip, made.credentials)
        self._channel: Any = None
        self._streaming = Client(
            target, timeout=timeout, retry_for=retry_for, gzip=gzip, credentials=credentials, metadata=metadata
        )
        self._session = ClientState(made.target, made.timeout, made.retry_for, AsyncBridge, self._streaming._inputs)
        self._closed = False
        self._stubs: dict[Method[Any, Any], Any] = {}

    health = _asynchronous(embed_ops.health)
    encoders = _asynchronous(embed_ops.encoders)
    encoder = _asynchronous(embed_ops.encoder)
    embed = _asynchronous(embed_ops.embed)
    embed_taps = _asynchronous(embed_ops.embed_taps)
    embed_stream = _iterating(embed_ops.embed_stream)
    nearest_words = _asynchronous(embed_ops.nearest_words)

    write = _asynchronous(write_ops.write)
    write_stream = _iterating(write_ops.write_stream)
    read = _asynchronous(set_ops.read)
    read_stream = _iterating(set_ops.read_stream)
    export_set = _asynchronous(set_ops.export_set)
    delete = _asynchronous(set_ops.delete)
    count = _asynchronous(metadata_ops.count)
    update = _asynchronous(metadata_ops.update)
    add_column = _asynchronous(metadata_ops.add_column)
    rename_column = _asynchronous(metadata_ops.rename_column)
    cast_column = _asynchronous(metadata_ops.cast_column)
    drop_column = _asynchronous(metadata_ops.drop_column)
    sets = _asynchronous(set_ops.sets)
    set = _asynchronous(set_ops.set)
    drop_set = _asynchronous(set_ops.drop_set)
    versions = _asynchronous(set_ops.versions)
    pin = _asynchronous(set_ops.pin)
    unpin = _asynchronous(set_ops.unpin)
    prune = _asynchronous(set_ops.prune)

    create_index = _asynchronous(index_ops.create_index)
    rebuild_index = _asynchronous(index_ops.rebuild_index)
    index = _asynchronous(index_ops.index)
    indexes = _asynchronous(index_ops.indexes)
    drop_index = _asynchronous(index_ops.drop_index)
    index_kinds = _asynchronous(index_ops.index_kinds)
    search = cast("Search[Awaited[Hits], Awaited[list[Hits]]]", _asynchronous(search_ops.search))

    trainers = _asynchronous(head_ops.trainers)
    train = _asynchronous(head_ops.train)
    head = _asynchronous(head_ops.head)
    heads = _asynchronous(head_ops.heads)
    drop_head = _asynchronous(head_ops.drop_head)
    report = _asynchronous(head_ops.report)
    report_page = _asynchronous(head_ops.report_page)
    probe = cast("Probe[Awaited[ProbeTable], Awaited[Job]]", _asynchronous(head_ops.probe))
    export_head = _asynchronous(head_ops.export_head)
    predict = cast("Predict[Awaited[Predictions], Awaited[dict[str, Predictions]]]", _asynchronous(predict_ops.predict))

    jobs = _asynchronous(job_ops.jobs)
    job = _asynchronous(job_ops.job)
    watch_job = _iterating(job_ops.watch_job)
    cancel_job = _asynchronous(job_ops.cancel_job)

    async def close(self) -> None:
        """End the connection, and every call on it."""
        self._closed = True
        self._streaming.close()
        if self._channel is not None:
            await self._channel.close()

    def __reduce__(self) -> Any:
        return partial(type(self), self._connection.target, **self._connection.state()), ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._connection.target}>"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _run(self, steps: Steps[T]) -> T:
        if self._closed:
            steps.close()
            raise InvalidInput("this client is closed", remedy="open another")
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._perform(step)
                except TopworkError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        finally:
            steps.close()

    async def _iterate(self, steps: Steps[StreamCall[T]]) -> AsyncGenerator[T, None]:
        async with aclosing(self._replies(await self._run(steps))) as replies:
            async for value in replies:
                yield value

    async def _perform(self, step: Step) -> Any:
        match step:
            case UnaryCall():
                return await self._call(step)
            case BlockingWork():
                return await asyncio.to_thread(step.function)
            case StreamCall():
                async for _ in self._replies(step):
                    pass
                return None

    async def _call(self, call: UnaryCall) -> Any:
        tries = UnaryRetries(self._session, call)
        while True:
            try:
                reply = await self._stub(call.method)(call.request, timeout=tries.left(), metadata=self._connection.metadata)
            except grpc.RpcError as error:
                pause = tries.failed(error)
            else:
                tries.answered()
                return reply
            await asyncio.sleep(pause)

    async def _replies(self, stream: StreamCall[T]) -> AsyncGenerator[T, None]:
        """Streams run on blocking calls in a thread of their own: files and the caller's iterator are read there anyway, and
        where a server ends a stream while grpc.aio still writes to it, the write's failure hides what the server said.
        """
        loop, replies, end = asyncio.get_running_loop(), self._streaming._replies(stream), cast(T, object())
        thread = ThreadPoolExecutor(1, "topwork-stream")
        try:
            while (value := await loop.run_in_executor(thread, next, replies, end)) is not end:
                yield value
        finally:
            stream.tries.close()
            thread.submit(replies.close)
            thread.shutdown(wait=False)

    def _stub(self, method: Method[Any, Any]) -> Any:
        if self._channel is None:
            self._channel = self._connect()
        if method not in self._stubs:
            self._stubs[method] = channel.stub(self._channel, method)
        return self._stubs[method]
