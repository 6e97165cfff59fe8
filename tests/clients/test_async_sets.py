"""What is AsyncClient's own about sets: asynchronous sources, and reads beside the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
import topwork
from both_clients import asynchronously
from fake_server import DIM, FakeServer


def test_items_ids_and_metadata_may_come_asynchronously(server: FakeServer) -> None:
    async def run() -> None:
        async with topwork.AsyncClient(server.target) as client:
            texts, rows = [str(i) for i in range(300)], [{"n": i} for i in range(300)]
            report = await client.write(
                "birds", asynchronously(texts), asynchronously(range(300)), asynchronously(rows), encoder="letters"
            )
            assert report.inserted == 300
            stored = await client.read("birds")
            assert stored.metadata["n"] == list(range(300))
            assert stored.features["pooled"].rows[:, 0].tolist() == list(range(300))

    asyncio.run(run())


def test_features_flow_from_one_stream_into_another(server: FakeServer) -> None:
    async def run() -> None:
        async with topwork.AsyncClient(server.target) as client:
            chunks = client.embed_stream("letters", [str(i) for i in range(20)], chunk=6)
            marks = [done.watermark async for done in client.write_stream("birds", vectors=chunks, ids=range(20))]
            assert marks == [6, 12, 18, 20]
            parts = [rows async for rows in client.read_stream("birds")]
            assert np.concatenate([rows.features["pooled"].rows for rows in parts])[:, 0].tolist() == list(range(20))

    asyncio.run(run())


def test_a_blocking_client_refuses_them(client: topwork.Client, server: FakeServer) -> None:
    for arguments in (
        {"items": asynchronously(["a"]), "ids": ["a"]},
        {"items": ["a"], "ids": asynchronously(["a"])},
        {"items": ["a"], "ids": ["a"], "metadata": asynchronously([{}])},
        {"vectors": asynchronously([np.ones((1, DIM))]), "ids": ["a"], "fingerprint": "ab"},
    ):
        with pytest.raises(topwork.InvalidInput, match=r"asynchronously .*topwork\.AsyncClient"):
            client.write("birds", encoder="letters", **arguments)
    assert not server.sets.sets


def test_a_source_that_never_yields_is_let_go(server: FakeServer) -> None:
    left = asyncio.Event()

    async def endless() -> AsyncIterator[str]:
        try:
            for _ in range(128):
                yield "1"
            await asyncio.Event().wait()
        finally:
            left.set()

    async def run() -> None:
        async with topwork.AsyncClient(server.target) as client:
            stream = client.write_stream("birds", endless(), range(1000), encoder="letters")
            assert (await anext(stream)).watermark == 128
            await stream.aclose()
            await asyncio.wait_for(left.wait(), 10)

    asyncio.run(run())


def test_queries_may_come_asynchronously(server: FakeServer) -> None:
    async def run() -> None:
        async with topwork.AsyncClient(server.target) as client:
            await client.write("birds", ["1", "22"], ["a", "b"], encoder="letters")
            found = await client.search("birds", asynchronously(["22"] * 70), k=1)
            assert [hits.ids for hits in found] == [["b"]] * 70

    asyncio.run(run())


def test_searches_at_once_get_their_own_hits(server: FakeServer) -> None:
    async def run() -> None:
        async with topwork.AsyncClient(server.target) as client:
            await client.write("mine", vectors=np.eye(16), ids=range(16))
            searches = [client.search("mine", vectors=row, k=1) for row in np.eye(16)]
            assert [hits.ids for hits in await asyncio.gather(*searches)] == [[str(i)] for i in range(16)]

    asyncio.run(run())
