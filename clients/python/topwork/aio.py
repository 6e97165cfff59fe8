"""The asynchronous client: the same verbs on grpc.aio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import grpc
import grpc.aio

from topwork import _channel, _status, _verbs
from topwork._bridge import Bridge
from topwork._calls import Method, Session, Step, Steps, Stream, Unary, Work, dress
from topwork.client import TIMEOUT, Client

P = ParamSpec("P")
T = TypeVar("T")


def _asynchronous(
    verb: Callable[Concatenate[Session, P], Steps[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    @wraps(verb)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(verb(self._session, *args, **kwargs))

    dress(method, verb, "{}")
    return method


def _iterating(
    verb: Callable[Concatenate[Session, P], Steps[Stream[T]]],
) -> Callable[Concatenate[AsyncClient, P], AsyncGenerator[T, None]]:
    @wraps(verb)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        async with aclosing(self._replies(await self._run(verb(self._session, *args, **kwargs)))) as replies:
            async for value in replies:
                yield value

    dress(method, verb, "AsyncGenerator[{}, None]")
    return method


class AsyncClient:
    """`topwork.Client` for asyncio: the same verbs, to be awaited; `embed_stream` is an asynchronous iterator.

    Items may come from an asynchronous iterable too. Files are read, and iterators are advanced, in threads beside the event
    loop. Use it in an `async with` block, or await `close`. See `Client` for the parameters.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        timeout: float | None = TIMEOUT,
        retries: int = _channel.MOST_RETRIES,
        gzip: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        # Opened by the first call: a channel belongs to the event loop in which it is made.
        self._connect = partial(_channel.connect, grpc.aio, target, retries, gzip, credentials)
        self._channel: Any = None
        self._streaming = Client(target, timeout=timeout, retries=retries, gzip=gzip, credentials=credentials, metadata=metadata)
        self._metadata = tuple(metadata)
        self._session = Session(target, timeout, min(retries, _channel.MOST_RETRIES), Bridge)
        self._stubs: dict[Method[Any, Any], Any] = {}

    health = _asynchronous(_verbs.health)
    encoders = _asynchronous(_verbs.encoders)
    encoder = _asynchronous(_verbs.encoder)
    embed = _asynchronous(_verbs.embed)
    embed_taps = _asynchronous(_verbs.embed_taps)
    embed_stream = _iterating(_verbs.embed_stream)
    nearest_words = _asynchronous(_verbs.nearest_words)

    async def close(self) -> None:
        """End the connection, and every call on it."""
        self._streaming.close()
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _run(self, steps: Steps[T]) -> T:
        answer: Any = None
        try:
            while True:
                answer = await self._perform(steps.send(answer))
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        finally:
            steps.close()

    async def _perform(self, step: Step) -> Any:
        match step:
            case Unary():
                return await self._call(step)
            case Work():
                return await asyncio.to_thread(step.function)
            case Stream():
                async for _ in self._replies(step):
                    pass
                return None

    async def _call(self, call: Unary) -> Any:
        timeout = self._session.timeout if call.timeout is None else call.timeout
        try:
            return await self._stub(call.method)(call.request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _status.translate(error, self._session.target, timeout).shifted(call.start) from None

    async def _replies(self, stream: Stream[T]) -> AsyncGenerator[T, None]:
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
            self._stubs[method] = _channel.stub(self._channel, method)
        return self._stubs[method]
