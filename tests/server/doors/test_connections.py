"""Connections to the HTTP port that go wrong, or that somebody makes so: they end, and what they held is let go."""

from __future__ import annotations

import asyncio

import fake_engine
import pytest
from topwork_server.doors import http_server

BODY = b'{"input": "hello"}'
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n12\r\n" + BODY + b"\r\n0\r\n"
GOOD = HEAD + b"content-length: 18\r\n\r\n" + BODY
HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


def served(home):
    return fake_engine.served(home, http="127.0.0.1:0", default_encoder="ready")


async def opened(server, *pieces):
    reader, writer = await asyncio.open_connection(*server.ready.http.split(":"), limit=1 << 16)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    return reader, writer


async def answered(server, *pieces):
    """All that comes until the server ends the connection."""
    reader, writer = await opened(server, *pieces)
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        finally:
            writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"content-length: 18\r\ntransfer-encoding: chunked\r\n\r\n" + BODY,
        HEAD + b"content-length: 18\r\ncontent-length: 3\r\n\r\n" + BODY,
        HEAD + b"content-length: -1\r\n\r\n",
        HEAD + b"transfer-encoding: xchunked\r\n\r\n",
        HEAD + b"x-a : b\r\n\r\n",
        HEAD + b"x-a: b\0c\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        GOOD.replace(b"\r\n", b"\n"),
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_requests_that_two_servers_would_read_in_two_ways_end_the_connection(sent, tmp_path):
    async with served(tmp_path) as server:
        found = await answered(server, sent, HEALTH)
        assert found.startswith(b"HTTP/1.1 400 ")
        assert found.count(b"HTTP/1.1") == 1


async def test_requests_without_a_body_keep_the_connection(tmp_path):
    async with served(tmp_path) as server:
        requests = [HEALTH, HEAD + b"content-length: 0\r\n\r\n", HEALTH.replace(b"GET", b"HEAD"), GOOD, HEALTH]
        last = HEALTH.replace(b"host", b"connection: close\r\nhost")
        found = await answered(server, b"".join([*requests, last]))
        statuses = [one[:3] for one in found.split(b"HTTP/1.1 ")[1:]]
        assert statuses == [b"200", b"400", b"200", b"200", b"200", b"200"]


async def test_trailers_are_no_headers(tmp_path):
    async with served(tmp_path) as server:
        found = await answered(server, CHUNKED + b"x-model: nonesuch\r\n\r\n", HEALTH[:-2] + b"connection: close\r\n\r\n")
        assert found.count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize(
    "begin", [CHUNKED + b"x: ", CHUNKED, HEAD + b"transfer-encoding: chunked\r\n\r\n12;", HEAD + b"x: ", b"GET /"]
)
async def test_what_stands_between_bodies_is_bounded(begin, tmp_path):
    async with served(tmp_path) as server:
        reader, writer = await opened(server, begin)
        more = b"a: b\r\n" * 10_000 if begin is CHUNKED else b"v" * 60_000
        async with asyncio.timeout(20):
            found = b""
            try:
                for _ in range(100):
                    writer.write(more)
                    await writer.drain()
                found = await reader.read()
            except ConnectionError:  # it was ended while more was sent
                found = found or bytes(reader._buffer)  # type: ignore[attr-defined]
            assert found.startswith(b"HTTP/1.1 431 ")
            assert not server.engine.asked


@pytest.mark.parametrize(
    ("sent", "status"), [(b"GET /hea", b"408"), (b"\r\n", b"408"), (HEAD + b"a: b\r\n", b"408"), (GOOD + b"GET", b"200")]
)
async def test_heads_that_stop_are_given_up(sent, status, tmp_path, monkeypatch):
    monkeypatch.setattr(http_server, "IDLE", 0.2)
    async with served(tmp_path) as server:
        found = await answered(server, sent)
        assert found.split(b"HTTP/1.1 ")[-1].startswith(status)


async def test_a_reply_that_is_not_read_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(http_server, "IDLE", 0.5)
    async with served(tmp_path) as server:
        body = b'{"model": "ready", "encoding_format": "float", "input": [%s]}' % b",".join([b'"x"'] * 2048)
        request = HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
        _, writer = await opened(server, request * 100)
        async with asyncio.timeout(30):
            connections = server.app._http._server.server_state.connections
            while not connections:
                await asyncio.sleep(0.01)
            while connections:
                await asyncio.sleep(0.05)
        writer.close()
        await server.app.requests.idle()


async def test_an_origin_that_is_none_is_foreign(tmp_path):
    async with served(tmp_path) as server:
        for host, origin in ((b"x", b"http://["), (b"", b"null"), (b"", b"http://[")):
            sent = GOOD.replace(b"host: x", b"host: " + host + b"\r\nconnection: close\r\norigin: " + origin)
            assert (await answered(server, sent)).startswith(b"HTTP/1.1 403 ")
