"""Both clients behind one factory, so that one test is run on each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

import topwork

T = TypeVar("T")


class ClientFactory:
    """Either client, called as if it blocked: what a contract test is written against."""

    def __init__(self, asynchronous: bool, target: str, runner: asyncio.Runner) -> None:
        self.asynchronous = asynchronous
        self.target = target
        self._runner = runner
        self._clients: list[Any] = []

    def open(self, **settings: Any) -> EitherClient:
        kind = topwork.AsyncClient if self.asynchronous else topwork.Client
        client = kind(self.target, **settings)
        self._clients.append(client)
        return EitherClient(client, self._runner if self.asynchronous else None)

    def close(self) -> None:
        for client in self._clients:
            closing = client.close()
            if closing is not None:
                self._runner.run(closing)


class EitherClient:
    def __init__(self, client: Any, runner: asyncio.Runner | None) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        method = getattr(self._client, verb)
        return lambda *arguments, **settings: self._settled(method(*arguments, **settings))

    def _settled(self, result: Any) -> Any:
        if self._runner is None:
            return result
        if isinstance(result, Coroutine):
            return self._runner.run(result)
        return self._blocking(result)

    def _blocking(self, values: AsyncIterator[T]) -> Iterator[T]:
        assert self._runner is not None
        end = object()

        async def advance() -> Any:
            return await anext(values, end)

        try:
            while (value := self._runner.run(advance())) is not end:
                yield value
        finally:
            self._runner.run(values.aclose())  # type: ignore[attr-defined]


async def asynchronously(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        await asyncio.sleep(0)
        yield item
