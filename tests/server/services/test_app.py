"""The composed server: its address, its limits, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import fake_engine
import grpc
import numpy as np
import pytest
import topwork
from fake_engine import FakeCatalog, FakeEngine, refusal, served
from grpc_health.v1 import health_pb2, health_pb2_grpc
from topwork._transport import status as _status
from topwork.v1 import encoders_pb2 as pb
from topwork.v1 import encoders_pb2_grpc
from topwork.v1 import types_pb2 as t
from topwork_server import app
from topwork_server.addresses import parse_address
from topwork_server.app import App, serve
from topwork_server.config import Config
from topwork_server.errors import StartError
from topwork_server.home_lock import HomeLock
from topwork_server.models.catalog_entry import EncoderState
from topwork_server.services.answer_stream import MESSAGES
from topwork_server.services.message_budget import MAX_MESSAGE


def ask(*words):
    return pb.EmbedRequest(settings=pb.EmbedSettings(encoder="ready"), items=[t.Item(text=word) for word in words])


@pytest.mark.parametrize(("http", "loaded"), [("off", False), ("127.0.0.1:0", True)])
def test_the_libraries_of_http_are_loaded_where_it_is_on_alone(http, loaded, tmp_path):
    """They take some 8 MiB."""
    code = f"""
import asyncio, pathlib, sys, fake_engine
async def serve():
    async with fake_engine.served(pathlib.Path({str(tmp_path)!r}), http={http!r}):
        print(*sys.modules)
asyncio.run(serve())"""
    command, tests = [sys.executable, "-c", code], Path(__file__).parents[2]
    modules = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tests).stdout.split()
    assert "topwork_server.doors.tei_grpc" in modules
    for name in ("starlette", "uvicorn", "connectrpc", "orjson", "prometheus_client"):
        assert (name in modules) == loaded, name
    assert "httpcore2" not in modules  # for fetching by URL, which is off


async def test_a_free_port_is_said_and_answers(tmp_path):
    async with served(tmp_path) as server:
        host, port = parse_address(server.ready.address)
        assert host == "127.0.0.1"
        assert port > 0
        assert server.ready.provider == "cpu"
        assert server.ready.encoders == {EncoderState.READY: 2, EncoderState.ABSENT: 1}
        await server.encoders.Embed(ask("a"))


async def test_a_port_in_use_is_refused_with_its_name(tmp_path):
    async with served(tmp_path) as server:
        second = App(FakeCatalog(), Config(home=tmp_path / "second", listen=server.ready.address), FakeEngine)
        with pytest.raises(StartError, match=server.ready.address) as caught:
            await second.start()
        assert "in use" in caught.value.message
        assert "--listen" in caught.value.remedy
        await second.close()
        await server.encoders.Embed(ask("a"))  # the first goes on


@pytest.mark.parametrize("listen", ["50051", ":50051", "localhost", "localhost:http", "127.0.0.1:70000", "256.0.0.1:50051"])
async def test_what_is_no_address_is_refused(tmp_path, listen):
    app = App(FakeCatalog(), Config(home=tmp_path, listen=listen), FakeEngine)
    with pytest.raises(StartError, match="listen"):
        await app.start()
    await app.close()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_ipv6(tmp_path):
    app = App(FakeCatalog(), Config(home=tmp_path, listen="[::1]:0"), FakeEngine)
    ready = await app.start()
    assert parse_address(ready.address)[0] == "::1"
    async with grpc.aio.insecure_channel(ready.address) as channel:
        await encoders_pb2_grpc.EncodersStub(channel).Embed(ask("a"))
    await app.stop()


async def test_an_unknown_provider_stops_the_start(tmp_path):
    with pytest.raises(StartError, match="'warp'"):
        await serve(Config(home=tmp_path, provider="warp"))


async def test_messages_of_64_mib_pass_and_larger_ones_are_refused(tmp_path):
    async with served(tmp_path) as server:
        request = ask("a")
        request.items.add(image=bytes(MAX_MESSAGE - request.ByteSize() - 16))
        assert MAX_MESSAGE - 16 < request.ByteSize() <= MAX_MESSAGE
        await server.encoders.Embed(request)
        request.items.add(image=b"x" * 64)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.encoders.Embed(request)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in caught.value.details()


async def test_gzip_is_understood_and_does_not_smuggle_more_in(tmp_path):
    async with served(tmp_path) as server:
        stub = server.encoders
        await stub.Embed(ask("a" * 100_000), compression=grpc.Compression.Gzip)
        bomb = ask("a")
        bomb.items.add(image=bytes(MAX_MESSAGE))  # and some bytes about it: more than the limit
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Embed(bomb, compression=grpc.Compression.Gzip)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(server.engine.asked) == 1


async def test_a_message_that_finds_no_memory_to_be_decoded_is_for_later(tmp_path, monkeypatch):
    def full(data, kind):
        raise MemoryError

    async with served(tmp_path) as server:
        monkeypatch.setattr("topwork_server.services.message_receiver.decode", full)
        stream = server.encoders.EmbedStream()
        await stream.write(pb.EmbedStreamRequest(settings=pb.EmbedSettings(encoder="ready")))
        for call in (server.encoders.Embed(ask("a")), stream.read()):
            code, message, info = await refusal(call)
            assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded")
            assert "no room left" in message


async def test_draining_finishes_what_was_accepted_and_refuses_what_comes(tmp_path):
    async with served(tmp_path) as server:
        health = health_pb2_grpc.HealthStub(server.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="topwork.v1.Encoders"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        call = server.encoders.Embed(ask("wait"))
        stream = server.encoders.EmbedStream()
        await stream.write(pb.EmbedStreamRequest(settings=pb.EmbedSettings(encoder="ready")))
        await stream.write(pb.EmbedStreamRequest(items=pb.Items(items=[t.Item(text="wait")])))
        await server.engine.until(lambda e: e.running == 2)

        stopping = asyncio.create_task(server.app.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", "encoder/ready"):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
        code, message, info = await refusal(server.encoders.Embed(ask("late")))
        assert (code, message, info.reason) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping", "Unavailable")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.encoders.Embed(ask("late"))
        error = _status.translate(caught.value, "", None)
        assert (error.retry_after, error.untouched) == (1.0, True)  # so a client may send again what must not be done twice
        assert not stopping.done()

        server.engine.gate.set()
        assert len((await call).features) == 1
        assert len((await stream.read()).features) == 1
        code, message, info = await refusal(stream.read())  # it is accepted, and takes no more messages
        assert (code, message, info.reason) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping", "Unavailable")
        await stopping
        assert server.app.requests.counts == {("Embed", "OK"): 1, ("Embed", "UNAVAILABLE"): 2, ("EmbedStream", "UNAVAILABLE"): 1}
        assert server.engine.closed


async def test_a_stream_that_waits_for_its_caller_does_not_keep_the_server(tmp_path):
    async with served(tmp_path, drain_seconds=600) as server:
        stream = server.encoders.EmbedStream()
        await stream.write(pb.EmbedStreamRequest(settings=pb.EmbedSettings(encoder="ready")))
        await stream.write(pb.EmbedStreamRequest(items=pb.Items(items=[t.Item(text="a")])))
        assert len((await stream.read()).features) == 1
        await server.app.stop()
        assert (await refusal(stream.read()))[0] is grpc.StatusCode.UNAVAILABLE


async def test_after_the_signal_nothing_more_is_taken_and_what_was_is_answered(tmp_path):
    """Messages that lie ready, and those that wait for room in the window, are not taken either."""
    async with served(tmp_path, drain_seconds=600) as server:
        stream = server.encoders.EmbedStream()
        await stream.write(pb.EmbedStreamRequest(settings=pb.EmbedSettings(encoder="ready")))
        for _ in range(MESSAGES):  # as many as the window holds
            await stream.write(pb.EmbedStreamRequest(items=pb.Items(items=[t.Item(text="wait")])))
        await server.engine.until(lambda e: e.running == MESSAGES)
        await stream.write(pb.EmbedStreamRequest(items=pb.Items(items=[t.Item(text="late")])))
        await server.encoders.Embed(ask("a"))  # so that the server has seen the late one
        stopping = asyncio.create_task(server.app.stop())
        await server.app.requests.stopping.wait()
        server.engine.gate.set()
        with suppress(asyncio.InvalidStateError):  # the stream may have ended
            await stream.write(pb.EmbedStreamRequest(items=pb.Items(items=[t.Item(text="later")])))
        for _ in range(MESSAGES):
            assert len((await stream.read()).features) == 1
        code, message, info = await refusal(stream.read())
        assert (code, message) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        assert f"{MESSAGES} items of the stream are done" in info.metadata["remedy"]
        await asyncio.wait_for(stopping, 60)
        assert [item.text for _, items in server.engine.asked for item in items] == ["wait"] * MESSAGES + ["a"]


async def test_a_stream_that_has_not_said_what_it_wants_does_not_keep_the_server(tmp_path):
    async with served(tmp_path, drain_seconds=600) as server:
        stream = server.encoders.EmbedStream()
        await stream.wait_for_connection()
        await server.encoders.Embed(ask("a"))
        await asyncio.wait_for(server.app.stop(), 60)
        assert (await refusal(stream.read()))[0] is grpc.StatusCode.UNAVAILABLE


async def test_a_client_goes_on_at_the_next_server_where_the_last_one_stopped(tmp_path):
    stopped, told = threading.Event(), threading.Event()

    def texts():
        yield from ["a", "bb"]
        assert stopped.wait(60)
        yield from ["ccc", "dddd"]

    def embedded(address):
        with topwork.Client(address) as client:
            sizes = []
            for features in client.embed_stream("ready", texts(), chunk=1):
                sizes += np.asarray(features)[:, 0].tolist()
                if len(sizes) == 2:
                    told.set()
            return sizes

    async with served(tmp_path / "one", drain_seconds=600) as first:
        client = asyncio.create_task(asyncio.to_thread(embedded, first.ready.address))
        assert await asyncio.to_thread(told.wait, 60)
        await first.app.stop()
        async with served(tmp_path / "two", address=first.ready.address) as second:
            stopped.set()
            assert await asyncio.wait_for(client, 60) == [1, 2, 3, 4]
            assert len(second.engine.asked) == 2


async def test_what_is_not_done_when_the_drain_ends_is_cut_off_and_may_be_sent_again(tmp_path):
    async with served(tmp_path, drain_seconds=0.1) as server:
        call = server.encoders.Embed(ask("wait"))
        await server.engine.until(lambda e: e.running == 1)
        stopping = asyncio.create_task(server.app.stop())
        code, message, info = await refusal(call)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert message == "the server stopped before the request was done"
        assert info.metadata["remedy"] == "send it again"
        await stopping
        assert server.engine.cancelled == 1


class Process:
    """A server in a process of its own, with the fake engine; a line on its stdin opens the gate."""

    def __init__(self, home: Path, drain_seconds: float, hangs: str = "") -> None:
        command = [sys.executable, fake_engine.__file__, str(home), str(drain_seconds), hangs]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe if hangs else None, text=True)
        self.address = self.process.stdout.readline().strip()

    async def item_waits(self) -> None:
        assert await asyncio.to_thread(self.process.stdout.readline) == "an item waits\n"

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_drains_and_the_process_ends_well(tmp_path, number):
    with Process(tmp_path, drain_seconds=60) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            await watch.read()
            stream = encoders_pb2_grpc.EncodersStub(channel).EmbedStream()
            await stream.write(pb.EmbedStreamRequest(settings=pb.EmbedSettings(encoder="ready")))
            for word in ("a", "wait"):
                await stream.write(pb.EmbedStreamRequest(items=pb.Items(items=[t.Item(text=word)])))
            assert (await stream.read()).features
            await server.item_waits()  # so the second message is accepted
            server.process.send_signal(number)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            server.process.send_signal(signal.SIGHUP)  # which never ends it at once
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await encoders_pb2_grpc.EncodersStub(channel).Embed(ask("late"))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            server.process.stdin.write("open\n")
            server.process.stdin.flush()
            assert (await stream.read()).features
            assert (await refusal(stream.read()))[0] is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.to_thread(server.process.wait, 30) == 0


async def test_a_second_signal_ends_it_at_once(tmp_path):
    with Process(tmp_path, drain_seconds=600) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            await watch.read()
            stream = encoders_pb2_grpc.EncodersStub(channel).EmbedStream()
            await stream.write(pb.EmbedStreamRequest(settings=pb.EmbedSettings(encoder="ready")))
            for word in ("a", "wait"):
                await stream.write(pb.EmbedStreamRequest(items=pb.Items(items=[t.Item(text=word)])))
            assert (await stream.read()).features
            await server.item_waits()  # accepted, and never done
            server.process.send_signal(signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            server.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.process.wait, 30) == 128 + signal.SIGTERM


@pytest.mark.parametrize(("hangs", "status"), [("engine", 1), ("thread", 0)])
def test_what_hangs_at_the_end_does_not_keep_the_process_nor_the_home(tmp_path, hangs, status):
    with Process(tmp_path, drain_seconds=0.1, hangs=hangs) as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == status
        last = server.process.stderr.read().splitlines()[-1]
        assert "ended by force: the end of the " in last
        assert "MainThread (at " in last
        with HomeLock(tmp_path, patience=0):
            pass


async def test_an_idle_caller_may_keep_his_connection_alive(tmp_path, monkeypatch):
    quick = [(key, 10 if "ping_interval" in key else value) for key, value in app.OPTIONS]
    monkeypatch.setattr(app, "OPTIONS", quick)  # pings may come every 10 ms instead of every 10 s
    async with served(tmp_path) as server:
        options = [
            ("grpc.keepalive_time_ms", 50),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        async with grpc.aio.insecure_channel(server.ready.address, options) as channel:
            await channel.channel_ready()
            with pytest.raises(TimeoutError):  # a server that minds ends it at the third second
                await asyncio.wait_for(channel.wait_for_state_change(grpc.ChannelConnectivity.READY), 4.5)
