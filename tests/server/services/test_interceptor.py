"""interceptor.py on calls of each kind that Topwork has; a server of one made-up method for each."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from fake_engine import refusal
from topwork_server.access.gate import Gate
from topwork_server.errors import InvalidInput
from topwork_server.services.interceptor import RequestInterceptor
from topwork_server.services.request_tracker import RequestTracker


class Made:
    """`one` replies once; `many` writes what it was asked, a letter a message. "!" is refused, "?" is a bug,
    "." waits, "m" finds no memory and "t" no thread,
    "x" waits for what somebody else cancels."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.reached = asyncio.Event()
        self.ended = asyncio.Event()

    async def one(self, request, context):
        return await self._letter(request)

    async def many(self, request, context):
        try:
            for i in range(len(request)):
                await context.write(await self._letter(request[i : i + 1]))
        finally:
            self.ended.set()

    async def _letter(self, letter):
        if letter == b"!":
            raise InvalidInput("no shouting", remedy="say it softly", item=1)
        if letter == b"?":
            raise ZeroDivisionError("a secret of the implementation")
        if letter in b"mt":
            raise MemoryError if letter == b"m" else RuntimeError("can't start new thread")
        if letter == b"x":
            task = asyncio.create_task(asyncio.sleep(3600))
            asyncio.get_running_loop().call_soon(task.cancel)
            await task
        if letter == b".":
            self.reached.set()
            await self.gate.wait()
        return letter


@asynccontextmanager
async def serving():
    made, requests = Made(), RequestTracker(Gate(Path("no such home")))
    server = grpc.aio.server(interceptors=[RequestInterceptor(requests)])
    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(made.one),
        "Many": grpc.unary_stream_rpc_method_handler(made.many),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("topwork.test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield made, requests, channel.unary_unary("/topwork.test/One"), channel.unary_stream("/topwork.test/Many")
    finally:
        await requests.cut()
        await server.stop(None)


async def received(call):
    return [letter async for letter in call]


async def test_replies_pass_and_are_counted():
    async with serving() as (_, requests, one, many):
        assert await one(b"a") == b"a"
        assert await received(many(b"abc")) == [b"a", b"b", b"c"]
        await requests.idle()
        assert requests.counts == {("One", "OK"): 1, ("Many", "OK"): 1}


async def test_an_error_is_translated_after_the_replies_before_it():
    async with serving() as (_, requests, _, many):
        call = many(b"ab!c")
        assert [await call.read(), await call.read()] == [b"a", b"b"]
        code, message, info = await refusal(call.read())
        assert (code, message, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "no shouting", "InvalidInput")
        assert dict(info.metadata) == {"remedy": "say it softly", "item": "1"}
        await requests.idle()
        assert requests.counts == {("Many", "INVALID_ARGUMENT"): 1}


async def test_a_bug_is_told_by_its_number_alone(caplog):
    async with serving() as (_, _, _, many):
        code, message, _ = await refusal(received(many(b"a?")))
        assert code == grpc.StatusCode.INTERNAL
        assert "secret" not in message
        assert message.removeprefix("internal error ") in caplog.text


async def test_a_caller_is_answered_where_what_the_handler_waits_for_is_cancelled():
    async with serving() as (_, requests, one, many):
        for call in (one(b"x", timeout=60), received(many(b"ax", timeout=60))):
            code, message, info = await refusal(call)
            assert (code, info.reason, "stopped" in message) == (grpc.StatusCode.UNAVAILABLE, "Unavailable", True)
        await requests.idle()
        assert requests.counts == {("One", "UNAVAILABLE"): 1, ("Many", "UNAVAILABLE"): 1}


async def test_no_memory_and_no_thread_are_told_as_what_they_are():
    async with serving() as (_, _, one, many):
        for call in (one(b"m"), one(b"t"), received(many(b"am"))):
            code, message, info = await refusal(call)
            assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded")
            assert "no room left" in message


async def test_a_drain_waits_for_streams_and_refuses_new_ones():
    async with serving() as (made, requests, _, many):
        call = many(b"a.b")
        assert await call.read() == b"a"
        await made.reached.wait()
        draining = asyncio.create_task(requests.drain(30))
        code, message, _ = await refusal(_until_refused(many))
        assert (code, message) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        assert not draining.done()
        made.gate.set()
        assert [await call.read(), await call.read(), await call.read()] == [b".", b"b", grpc.aio.EOF]
        await draining


async def _until_refused(many):
    while True:
        await received(many(b"a"))


async def test_a_stream_that_outlasts_the_drain_is_cut():
    async with serving() as (made, requests, _, many):
        call = many(b"a.b")
        await made.reached.wait()
        await requests.drain(0)
        assert await call.read() == b"a"
        code, message, _ = await refusal(call.read())
        assert (code, message) == (grpc.StatusCode.UNAVAILABLE, "the server stopped before the request was done")


@pytest.mark.parametrize("timeout", [None, 0.3])
async def test_a_caller_that_leaves_or_whose_time_is_over_ends_the_handler(timeout):
    async with serving() as (made, requests, _, many):
        call = many(b"a.b", timeout=timeout)
        await made.reached.wait()
        if timeout is None:
            call.cancel()
        await made.ended.wait()
        await requests.idle()
