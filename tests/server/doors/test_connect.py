"""Our own API over HTTP: the same answers, errors and counts as over gRPC, and bodies that are not what they should be."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import socket
import struct
import zlib

import fake_engine
import numpy as np
import pytest
from connectrpc.client import ConnectClient
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_codecs
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.protocol import ProtocolType
from google.rpc import error_details_pb2
from http_calls import get, post
from topwork.v1 import encoders_pb2, jobs_pb2, types_pb2
from topwork_server import app
from topwork_server.doors import request_body
from topwork_server.errors import StartError
from topwork_server.services.message_budget import MAX_MESSAGE

EMBED = "/topwork.v1.Encoders/Embed"
HELLO = {"settings": {"encoder": "ready"}, "items": [{"text": "hello"}]}


def served(home, **settings):
    return fake_engine.served(home, http="127.0.0.1:0", **settings)


def method(service, name, takes, gives, kind=StreamType.UNARY):
    return MethodInfo(
        name=name,
        service_name=f"topwork.v1.{service}",
        input=takes,
        output=gives,
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=kind,
    )


def first_row(reply):
    return np.frombuffer(base64.b64decode(reply.json["features"][0]["rows"]["data"]), "<f4")


async def test_plain_json_is_answered_as_grpc_is(tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, EMBED, HELLO)
        assert reply.status == 200
        assert first_row(reply)[0] == len("hello")
        assert server.app.requests.counts["Embed", "OK"] == 1


async def test_a_body_without_a_type_is_json_as_curl_sends_it(tmp_path):
    async with served(tmp_path) as server:
        body = b'{"settings": {"encoder": "ready"}, "items": [{"text": "hello"}]}'
        assert (await post(server.ready.http, EMBED, body)).status == 200
        assert (await post(server.ready.http, EMBED, body, {"content-type": "application/x-www-form-urlencoded"})).status == 200


@pytest.mark.parametrize("protocol", [ProtocolType.CONNECT, ProtocolType.GRPC_WEB])
@pytest.mark.parametrize("codec", google_protobuf_codecs(), ids=lambda codec: codec.name())
async def test_the_protocols_clients_call_and_are_refused(protocol, codec, tmp_path):
    embed = method("Encoders", "Embed", encoders_pb2.EmbedRequest, encoders_pb2.EmbedResponse)
    async with served(tmp_path) as server, ConnectClient(f"http://{server.ready.http}", protocol=protocol, codec=codec) as client:
        request = encoders_pb2.EmbedRequest(items=[types_pb2.Item(text="bad")])
        request.settings.encoder = "ready"
        with pytest.raises(ConnectError) as caught:
            await client.execute_unary(request=request, method=embed)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert "good one" in caught.value.message
        info = error_details_pb2.ErrorInfo.FromString(caught.value.details[0].message_bytes)
        assert (info.reason, info.metadata["item"]) == ("InvalidInput", "0")
        request.items[0].text = "four"
        reply = await client.execute_unary(request=request, method=embed)
        assert np.frombuffer(reply.features[0].rows.data, "<f4")[0] == 4
        assert server.app.requests.counts == {("Embed", "INVALID_ARGUMENT"): 1, ("Embed", "OK"): 1}


async def test_streams_both_ways(tmp_path):
    stream = method(
        "Encoders", "EmbedStream", encoders_pb2.EmbedStreamRequest, encoders_pb2.EmbedResponse, StreamType.BIDI_STREAM
    )

    async def requests():
        yield encoders_pb2.EmbedStreamRequest(settings=encoders_pb2.EmbedSettings(encoder="ready"))
        for word in ("a", "bcd"):
            yield encoders_pb2.EmbedStreamRequest(items=encoders_pb2.Items(items=[types_pb2.Item(text=word)]))

    codec = google_protobuf_codecs()[0]
    async with served(tmp_path) as server, ConnectClient(f"http://{server.ready.http}", codec=codec) as client:
        replies = client.execute_bidi_stream(request=requests(), method=stream)
        found = [np.frombuffer(reply.features[0].rows.data, "<f4")[0] async for reply in replies]
        assert found == [1, 3]
        assert server.app.requests.counts == {("EmbedStream", "OK"): 1}


async def test_a_stream_of_replies_tells_its_error(tmp_path):
    watch = method("Jobs", "WatchJob", jobs_pb2.WatchJobRequest, jobs_pb2.Job, StreamType.SERVER_STREAM)
    codec = google_protobuf_codecs()[1]
    async with served(tmp_path) as server, ConnectClient(f"http://{server.ready.http}", codec=codec) as client:
        with pytest.raises(ConnectError) as caught:
            async for _ in client.execute_server_stream(request=jobs_pb2.WatchJobRequest(id="nope"), method=watch):
                pass
        assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize(
    ("body", "headers", "status", "word"),
    [
        (b'{"items', {}, 400, "JSON"),
        (b"", {}, 400, "JSON"),
        (b"[]", {}, 400, "no items"),
        (b'{"nosuch": 1}', {}, 400, "nosuch"),
        (b"\xff\xfe{}", {}, 400, "JSON"),
        (b'{"items":' * 100_000, {}, 400, "JSON"),
        (b'{"items": [' + b"{}," * 1_000_000 + b"{}]}", {}, 400, "million"),
        (b"\xff\xff", {"content-type": "application/proto"}, 400, "EmbedRequest"),
        (b"{}", {"content-type": "text/plain"}, 415, ""),
        (b"no gzip", {"content-encoding": "gzip"}, 400, "gzip"),
        (gzip.compress(b"{}" * 50, mtime=0)[:-4], {"content-encoding": "gzip"}, 400, "cut off"),
        (gzip.compress(b" " * (MAX_MESSAGE + 1), mtime=0), {"content-encoding": "gzip"}, 429, "may have"),
        (b"{}", {"content-encoding": "br"}, 400, "br"),
        (b"{}", {"origin": "https://elsewhere.example"}, 403, "elsewhere"),
        (struct.pack(">BI", 0, 100) + b"x", {"content-type": "application/connect+proto"}, 415, ""),
        (struct.pack(">BI", 0, 100) + b"x", {"content-type": "application/grpc-web+proto"}, 200, ""),
    ],
)
async def test_what_is_no_request_is_refused_and_the_server_goes_on(body, headers, status, word, tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, EMBED, body, {"content-type": "application/json", **headers})
        assert reply.status == status, reply.body
        assert word in reply.body.decode(errors="replace")
        assert (await post(server.ready.http, EMBED, HELLO)).status == 200
        assert server.app.budget.used == 0


@pytest.mark.parametrize(("encoding", "packed"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_bodies_are_read(encoding, packed, tmp_path):
    body = b'{"settings": {"encoder": "ready"}, "items": [{"text": "hello"}]}'
    async with served(tmp_path) as server:
        headers = {"content-type": "application/json", "content-encoding": encoding}
        reply = await post(server.ready.http, EMBED, packed(body), headers)
        assert (reply.status, first_row(reply)[0]) == (200, 5)


async def test_paths_and_methods_that_are_not_there(tmp_path):
    async with served(tmp_path) as server:
        assert (await get(server.ready.http, EMBED)).status == 405
        missing = await post(server.ready.http, "/topwork.v1.Encoders/Nothing", {})
        assert (missing.status, "Nothing" in missing.json["message"]) == (404, True)


async def test_a_deadline_is_kept(tmp_path):
    async with served(tmp_path) as server:
        waits = {**HELLO, "items": [{"text": "wait"}]}
        reply = await post(server.ready.http, EMBED, waits, {"connect-timeout-ms": "50"})
        assert (reply.status, reply.json["code"]) == (504, "deadline_exceeded")
        await server.app.requests.idle()
        assert server.engine.cancelled == 1


async def test_a_caller_who_leaves_is_worked_for_no_longer(tmp_path):
    async with served(tmp_path) as server:
        host, _, port = server.ready.http.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        body = b'{"settings": {"encoder": "ready"}, "items": [{"text": "wait"}]}'
        writer.write(b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (EMBED.encode(), len(body), body))
        await server.engine.until(lambda engine: engine.running == 1)
        writer.close()
        await server.engine.until(lambda engine: engine.cancelled == 1)
        await server.app.requests.idle()


async def test_a_body_that_stops_is_given_up_and_holds_nobody_up(tmp_path, monkeypatch):
    monkeypatch.setattr(request_body, "PAUSE", 0.2)
    async with served(tmp_path) as server:
        host, _, port = server.ready.http.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{" % EMBED.encode())
        assert (await post(server.ready.http, EMBED, HELLO)).status == 200
        reply = await reader.read()
        assert b"504" in reply.partition(b"\r\n")[0]
        assert b"connection: close" in reply
        writer.close()


async def test_headers_without_end_are_refused(tmp_path):
    async with served(tmp_path) as server:
        host, _, port = server.ready.http.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * 300_000)
        assert b" 431 " in await reader.readline()
        writer.close()


async def test_a_drain_finishes_what_was_accepted_and_refuses_the_rest(tmp_path):
    async with served(tmp_path) as server:
        accepted = asyncio.create_task(post(server.ready.http, EMBED, {**HELLO, "items": [{"text": "wait"}]}))
        await server.engine.until(lambda engine: engine.running == 1)
        draining = asyncio.create_task(server.app.requests.drain(30))
        await server.app.requests.stopping.wait()
        refused = await post(server.ready.http, EMBED, HELLO)
        assert (refused.status, refused.json["code"]) == (503, "unavailable")
        server.engine.gate.set()
        assert (await accepted).status == 200
        await draining


async def test_a_taken_port_is_named_with_the_flag(tmp_path):
    async with served(tmp_path) as server:
        config = fake_engine.Config(home=tmp_path / "second", listen="127.0.0.1:0", http=server.ready.http)
        second = fake_engine.App(fake_engine.FakeCatalog(), config, fake_engine.FakeEngine)
        with pytest.raises(StartError, match="--http"):
            await second.start()
        await second.close()


async def test_the_usual_port_may_be_taken(tmp_path, monkeypatch, caplog):
    """The ports are stand-ins for 8080 and those behind it, which other programs here may have."""
    monkeypatch.setenv("TOPWORK_HTTP", "")
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = f"127.0.0.1:{stranger.getsockname()[1]}"
        monkeypatch.setattr(app, "USUAL_HTTP", (taken, taken, "127.0.0.1:0"))
        async with fake_engine.served(tmp_path / "first") as server:
            assert server.ready.http not in (taken, "127.0.0.1:0")
            assert (await post(server.ready.http, EMBED, HELLO)).status == 200
        assert all(word in caplog.text for word in (taken, "in use", server.ready.http, "--http"))
        monkeypatch.setattr(app, "USUAL_HTTP", (taken,))
        config = fake_engine.Config(home=tmp_path / "second", listen="127.0.0.1:0")
        second = app.App(fake_engine.FakeCatalog(), config, fake_engine.FakeEngine)
        with pytest.raises(StartError, match=taken):
            await second.start()
        await second.close()


@pytest.mark.parametrize(
    ("sent", "code", "word"),
    [
        (bytes([2, 0, 0, 0, 2]) + b"{}", "invalid_argument", ""),  # the end, which only replies have
        (bytes([0, 0, 0, 0, 2]) + b"{", "invalid_argument", "got 1"),
        (bytes([0, 0]), "invalid_argument", "envelope"),
        (bytes([4, 0, 0, 0, 2]) + b"{}", "invalid_argument", "flags"),
        (bytes([1, 0, 0, 0, 2]) + b"{}", "invalid_argument", "compress"),
        (bytes([0, 255, 255, 255, 255]), "resource_exhausted", "larger"),
        (bytes([0, 0, 0, 0, 11]) + b'"\\ud800\\u0"', "invalid_argument", "JSON"),
    ],
)
async def test_streams_that_are_none_are_the_callers_fault(sent, code, word, tmp_path):
    async with served(tmp_path) as server:
        headers = {"content-type": "application/connect+json"}
        reply = await post(server.ready.http, "/topwork.v1.Encoders/EmbedStream", sent, headers)
        error = json.loads(reply.body[5:])["error"]
        assert (error["code"], word in error["message"]) == (code, True), error
        assert server.app.requests.in_flight == 0
