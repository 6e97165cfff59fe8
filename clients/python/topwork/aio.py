"""The asynchronous client: the same verbs on grpc.aio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar, cast

import grpc
import grpc.aio

from topwork._transport.calls import BlockingWork, Method, Step, Steps, StreamCall, UnaryCall
from topwork._transport.retry import UnaryRetries
from topwork._transport.threads import AsyncBridge
from topwork._verbs import ClientBase
from topwork.client import Client
from topwork.errors import TopworkError

T = TypeVar("T")


class AsyncClient(ClientBase):
    """`topwork.Client` for asyncio: the same verbs, to be awaited; those that iterate do so asynchronously.

    Items may come from an asynchronous iterable too. Files are read, and iterators are advanced, in threads beside the event
    loop. Use it in an `async with` block, or await `close`. See `Client` for the parameters.
    """

    _STREAM = "AsyncGenerator[{}, None]"

    @staticmethod
    def _method(verb: Callable[..., Steps[Any]]) -> Callable[..., Any]:
        async def method(self: AsyncClient, /, *given: Any, **settings: Any) -> Any:
            return await self._run(self._steps(verb, given, settings))

        return method

    @staticmethod
    def _stream_method(verb: Callable[..., Steps[StreamCall[Any]]]) -> Callable[..., Any]:
        def method(self: AsyncClient, /, *given: Any, **settings: Any) -> Any:
            return self._iterate(self._steps(verb, given, settings))  # checked now, not when the first value is asked for

        return method

    def _open(self) -> None:
        self._channel = None  # opened by the first call: a channel belongs to the event loop in which it is made
        self._streaming = Client(**vars(self._connection))
        self._session = self._connection.state(AsyncBridge, self._streaming._inputs)

    async def close(self) -> None:
        """End the connection, and every call on it."""
        self._closed = True
        self._streaming.close()
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _run(self, steps: Steps[T]) -> T:
        try:
            step = self._begun(steps)
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
                reply = await self._stub(call.method)(call.request, timeout=tries.left(), metadata=self._metadata())
            except grpc.RpcError as error:
                pause = tries.failed(error)
            else:
                tries.answered()
                return reply
            await asyncio.sleep(pause)

    async def _replies(self, stream: StreamCall[T]) -> AsyncGenerator[T, None]:
        """Streams run on blocking calls in a thread of their own: files and the caller's iterator are read there anyway, and
        where a server ends a stream while grpc.aio still writes to it, the write's failure hides the server's error.
        """
        loop, replies, end = asyncio.get_running_loop(), self._streaming._replies(stream), cast(T, object())
        context = copy_context()  # which holds the caller's span
        advance = partial(next, replies, end)
        thread = ThreadPoolExecutor(1, "topwork-stream")
        try:
            while (value := await loop.run_in_executor(thread, context.run, advance)) is not end:
                yield value
        finally:
            stream.tries.close()
            thread.submit(replies.close)
            thread.shutdown(wait=False)

    def _stub(self, method: Method[Any, Any]) -> Any:
        if self._channel is None:
            self._channel = self._connection.channel(grpc.aio)
        return super()._stub(method)
