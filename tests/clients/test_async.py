"""What is AsyncClient's own: asynchronous sources, many calls at once, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
import topwork
from both_clients import asynchronously
from fake_server import DIM, FakeServer


@pytest.fixture
def aio(server: FakeServer) -> topwork.AsyncClient:
    """A client that is made before its loop runs; the test closes it by `async with`."""
    return topwork.AsyncClient(server.target)


async def test_items_may_come_asynchronously(aio: topwork.AsyncClient) -> None:
    async with aio as client:
        texts = [str(i) for i in range(150)]
        features = await client.embed("letters", asynchronously(texts))
        assert features.rows[:, 0].tolist() == list(range(150))
        chunks = [f.start async for f in client.embed_stream("letters", asynchronously(texts), chunk=50)]
        assert chunks == [0, 50, 100]


def test_a_blocking_client_refuses_them(client: topwork.Client) -> None:
    with pytest.raises(topwork.InvalidInput, match=r"asynchronously .*topwork\.AsyncClient"):
        client.embed("letters", asynchronously(["a"]))


async def test_an_asynchronous_source_that_fails(aio: topwork.AsyncClient) -> None:
    async def source() -> AsyncIterator[str]:
        yield "1"
        raise ZeroDivisionError("of the caller's")

    async with aio as client:
        with pytest.raises(ZeroDivisionError, match="of the caller's"):
            await client.embed("letters", source())
        with pytest.raises(ZeroDivisionError, match="of the caller's"):
            async for _ in client.embed_stream("letters", source(), chunk=1):
                pass


async def test_many_calls_at_once_get_their_own_rows(aio: topwork.AsyncClient) -> None:
    async with aio as client:
        short = [client.embed("letters", [str(i)]) for i in range(50)]
        long = [client.embed("letters", [str(i)] * 100) for i in range(5)]
        for i, features in enumerate(await asyncio.gather(*short)):
            assert features.rows[:, 0].tolist() == [i]
        for i, features in enumerate(await asyncio.gather(*long)):
            assert features.rows[:, 0].tolist() == [i] * 100


@pytest.mark.parametrize("count", [200, 1000])
async def test_a_cancelled_task_ends_its_stream(aio: topwork.AsyncClient, server: FakeServer, count: int) -> None:
    server.gate.clear()
    async with aio as client:
        task = asyncio.create_task(client.embed("letters", [str(i) for i in range(count)]))
        while server.tries["EmbedStream"] == 0:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.cancelled.wait, 10)


async def test_a_source_that_never_yields_is_let_go(aio: topwork.AsyncClient) -> None:
    left = asyncio.Event()

    async def endless() -> AsyncIterator[str]:
        try:
            yield "1"
            await asyncio.Event().wait()
        finally:
            left.set()

    async with aio as client:
        stream = client.embed_stream("letters", endless(), chunk=1)
        assert (await anext(stream))[0, 0] == 1
        await stream.aclose()
        await asyncio.wait_for(left.wait(), 10)


async def test_sources_are_read_beside_the_loop(aio: topwork.AsyncClient) -> None:
    """The loop turns while the caller's blocking source waits for it."""
    loop = asyncio.get_running_loop()

    def source() -> Iterator[str]:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(10)
        yield "1"

    async with aio as client:
        assert (await client.embed("letters", source()))[0, 0] == 1


async def test_items_ids_and_metadata_may_come_asynchronously(aio: topwork.AsyncClient) -> None:
    async with aio as client:
        texts, rows = [str(i) for i in range(300)], [{"n": i} for i in range(300)]
        report = await client.write(
            "birds", asynchronously(texts), asynchronously(range(300)), asynchronously(rows), encoder="letters"
        )
        assert report.inserted == 300
        stored = await client.read("birds")
        assert stored.metadata["n"] == list(range(300))
        assert stored.features["pooled"].rows[:, 0].tolist() == list(range(300))


async def test_features_flow_from_one_stream_into_another(aio: topwork.AsyncClient) -> None:
    async with aio as client:
        chunks = client.embed_stream("letters", [str(i) for i in range(20)], chunk=6)
        marks = [done.watermark async for done in client.write_stream("birds", vectors=chunks, ids=range(20))]
        assert marks == [6, 12, 18, 20]
        parts = [rows async for rows in client.read_stream("birds")]
        assert np.concatenate([rows.features["pooled"].rows for rows in parts])[:, 0].tolist() == list(range(20))


def test_a_blocking_client_refuses_to_write_them(client: topwork.Client, server: FakeServer) -> None:
    for arguments in (
        {"items": asynchronously(["a"]), "ids": ["a"]},
        {"items": ["a"], "ids": asynchronously(["a"])},
        {"items": ["a"], "ids": ["a"], "metadata": asynchronously([{}])},
        {"vectors": asynchronously([np.ones((1, DIM))]), "ids": ["a"], "fingerprint": "ab"},
    ):
        with pytest.raises(topwork.InvalidInput, match=r"asynchronously .*topwork\.AsyncClient"):
            client.write("birds", encoder="letters", **arguments)
    assert not server.sets.sets


async def test_a_written_source_that_never_yields_is_let_go(aio: topwork.AsyncClient) -> None:
    left = asyncio.Event()

    async def endless() -> AsyncIterator[str]:
        try:
            for _ in range(128):
                yield "1"
            await asyncio.Event().wait()
        finally:
            left.set()

    async with aio as client:
        stream = client.write_stream("birds", endless(), range(1000), encoder="letters")
        assert (await anext(stream)).watermark == 128
        await stream.aclose()
        await asyncio.wait_for(left.wait(), 10)


async def test_queries_may_come_asynchronously(aio: topwork.AsyncClient) -> None:
    async with aio as client:
        await client.write("birds", ["1", "22"], ["a", "b"], encoder="letters")
        found = await client.search("birds", asynchronously(["22"] * 70), k=1)
        assert [hits.ids for hits in found] == [["b"]] * 70


async def test_searches_at_once_get_their_own_hits(aio: topwork.AsyncClient) -> None:
    async with aio as client:
        await client.write("mine", vectors=np.eye(16), ids=range(16))
        searches = [client.search("mine", vectors=row, k=1) for row in np.eye(16)]
        assert [hits.ids for hits in await asyncio.gather(*searches)] == [[str(i)] for i in range(16)]


async def test_predicted_items_may_come_asynchronously(aio: topwork.AsyncClient) -> None:
    async with aio as client:
        found = await client.predict("kinds", asynchronously(str(i) for i in range(150)))
        assert found.labels == [("low", "middle", "high")[i % 3] for i in range(150)]
