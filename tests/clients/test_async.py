"""What is AsyncClient's own: asynchronous sources, many calls at once, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import topwork
from both_clients import asynchronously
from fake_server import FakeServer


def test_items_may_come_asynchronously(server: FakeServer) -> None:
    async def run() -> None:
        async with topwork.AsyncClient(server.target) as client:
            texts = [str(i) for i in range(150)]
            features = await client.embed("letters", asynchronously(texts))
            assert features.rows[:, 0].tolist() == list(range(150))
            chunks = [f.start async for f in client.embed_stream("letters", asynchronously(texts), chunk=50)]
            assert chunks == [0, 50, 100]

    asyncio.run(run())


def test_a_blocking_client_refuses_them(client: topwork.Client) -> None:
    with pytest.raises(topwork.InvalidInput, match=r"asynchronously .*topwork\.AsyncClient"):
        client.embed("letters", asynchronously(["a"]))


def test_an_asynchronous_source_that_fails(server: FakeServer) -> None:
    async def source() -> AsyncIterator[str]:
        yield "1"
        raise ZeroDivisionError("of the caller's")

    async def run() -> None:
        async with topwork.AsyncClient(server.target) as client:
            with pytest.raises(ZeroDivisionError, match="of the caller's"):
                await client.embed("letters", source())
            with pytest.raises(ZeroDivisionError, match="of the caller's"):
                async for _ in client.embed_stream("letters", source(), chunk=1):
                    pass

    asyncio.run(run())


def test_a_client_may_be_made_before_its_loop(server: FakeServer) -> None:
    client = topwork.AsyncClient(server.target)

    async def run() -> int:
        async with client:
            return len(await client.encoders())

    assert asyncio.run(run()) == 5


def test_many_calls_at_once_get_their_own_rows(server: FakeServer) -> None:
    async def run() -> None:
        async with topwork.AsyncClient(server.target) as client:
            short = [client.embed("letters", [str(i)]) for i in range(50)]
            long = [client.embed("letters", [str(i)] * 100) for i in range(5)]
            for i, features in enumerate(await asyncio.gather(*short)):
                assert features.rows[:, 0].tolist() == [i]
            for i, features in enumerate(await asyncio.gather(*long)):
                assert features.rows[:, 0].tolist() == [i] * 100

    asyncio.run(run())


@pytest.mark.parametrize("count", [200, 1000])
def test_a_cancelled_task_ends_its_stream(server: FakeServer, count: int) -> None:
    server.gate.clear()

    async def run() -> None:
        async with topwork.AsyncClient(server.target) as client:
            task = asyncio.create_task(client.embed("letters", [str(i) for i in range(count)]))
            while server.tries["EmbedStream"] == 0:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.cancelled.wait, 10)

    asyncio.run(run())


def test_a_source_that_never_yields_is_let_go(server: FakeServer) -> None:
    left = asyncio.Event()

    async def endless() -> AsyncIterator[str]:
        try:
            yield "1"
            await asyncio.Event().wait()
        finally:
            left.set()

    async def run() -> None:
        async with topwork.AsyncClient(server.target) as client:
            stream = client.embed_stream("letters", endless(), chunk=1)
            assert (await anext(stream))[0, 0] == 1
            await stream.aclose()
            await asyncio.wait_for(left.wait(), 10)

    asyncio.run(run())


def test_files_are_read_beside_the_loop(server: FakeServer) -> None:
    """The loop turns while the caller's blocking source waits for it."""
    turned = asyncio.Event()

    async def run() -> None:
        loop = asyncio.get_running_loop()

        def source() -> list[str]:
            asyncio.run_coroutine_threadsafe(turn(), loop).result(10)
            return ["1"]

        async def turn() -> None:
            turned.set()

        async with topwork.AsyncClient(server.target) as client:
            features = await client.embed("letters", (text for _ in range(1) for text in source()))
            assert features[0, 0] == 1

    asyncio.run(run())
    assert turned.is_set()
