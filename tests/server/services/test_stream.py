"""EmbedStream: order, reading ahead, back-pressure, videos in chunks, and what ends it."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
from fake_engine import refusal, served
from topwork.v1 import encoders_pb2 as pb
from topwork.v1 import types_pb2 as t
from topwork_server.services import streaming

MIB = 1 << 20


def settings(**fields):
    return pb.EmbedStreamRequest(settings=pb.EmbedSettings(encoder="ready", **fields))


def texts(*words):
    return pb.EmbedStreamRequest(items=pb.Items(items=[t.Item(text=word) for word in words]))


def part(data):
    return pb.EmbedStreamRequest(chunk=data)


PARTS = pb.EmbedStreamRequest(items=pb.Items(items=[t.Item(chunked_video=True)]))


async def opened(server, *messages, **fields):
    """A stream with its settings and some messages sent."""
    call = server.encoders.EmbedStream()
    await call.write(settings(**fields))
    for message in messages:
        await call.write(message)
    return call


def sizes(reply):
    rows = reply.features[0].rows
    return np.frombuffer(rows.data, np.float32).reshape(rows.shape)[:, 0].tolist()


async def replies(call):
    return [sizes(reply) async for reply in call]


def spooled(server):
    return list((server.config.home / "spool").glob("*.part"))


async def test_each_message_gets_one_reply_in_order(tmp_path):
    async with served(tmp_path) as server:
        call = await opened(server, texts("wait"), texts("a", "bc"), texts("def"))
        await call.done_writing()
        await server.engine.until(lambda e: len(e.asked) == 3 and e.running == 1)  # the later ones are done, and wait their turn
        server.engine.gate.set()
        assert await replies(call) == [[4], [1, 2], [3]]
        assert all(ask.wait for ask, _ in server.engine.asked)
        assert server.app.requests.counts == {("EmbedStream", "OK"): 1}


async def test_reads_ahead_as_far_as_the_window(tmp_path):
    async with served(tmp_path) as server:
        call = await opened(server, *[texts("wait")] * (streaming.MESSAGES + 40))
        await call.done_writing()
        await server.engine.until(lambda e: e.running == streaming.MESSAGES)
        server.engine.gate.set()
        assert await replies(call) == [[4]] * (streaming.MESSAGES + 40)
        assert server.engine.most_running == streaming.MESSAGES


async def test_items_count_in_the_window_too(tmp_path):
    async with served(tmp_path) as server:
        call = await opened(server, *[texts(*["wait"] * 1024)] * 5)
        await call.done_writing()
        await server.engine.until(lambda e: e.running == 2)
        server.engine.gate.set()
        assert len(await replies(call)) == 5
        assert server.engine.most_running == 2


async def test_a_picture_takes_as_much_of_the_window_as_several_texts(tmp_path):
    async with served(tmp_path) as server:
        pictures = [t.Item(image=b"jpeg")] * 255
        call = await opened(server, *[pb.EmbedStreamRequest(items=pb.Items(items=[t.Item(text="wait"), *pictures]))] * 5)
        await call.done_writing()
        await server.engine.until(lambda e: e.running == 2)
        server.engine.gate.set()
        assert len(await replies(call)) == 5
        assert server.engine.most_running == 2


async def test_a_message_larger_than_the_window_goes_alone(tmp_path):
    async with served(tmp_path) as server:
        server.engine.gate.set()
        pictures = [t.Item(image=b"jpeg")] * 999
        call = await opened(server, *[pb.EmbedStreamRequest(items=pb.Items(items=[t.Item(text="wait"), *pictures]))] * 3)
        await call.done_writing()
        assert [len(reply) for reply in await replies(call)] == [1000] * 3
        assert server.engine.most_running == 1


async def test_a_fast_sender_is_held_back(tmp_path):
    async with served(tmp_path) as server:
        call = await opened(server)
        heavy = pb.EmbedStreamRequest(items=pb.Items(items=[t.Item(text="wait"), t.Item(image=bytes(9 * MIB))]))
        wrote = 0

        async def send():
            nonlocal wrote
            for _ in range(40):
                await call.write(heavy)
                wrote += 1
            await call.done_writing()

        sender = asyncio.create_task(send())
        await server.engine.until(lambda e: e.running == 7)  # seven of 9 MiB fit into 64
        assert wrote < 20
        assert not sender.done()
        server.engine.gate.set()
        assert len(await replies(call)) == 40
        assert server.engine.most_running == 7


@pytest.mark.parametrize("first", [texts("a"), pb.EmbedStreamRequest(), None])
async def test_settings_come_first(tmp_path, first):
    async with served(tmp_path) as server:
        call = server.encoders.EmbedStream()
        if first is not None:
            await call.write(first)
        await call.done_writing()
        code, message, info = await refusal(call.read())
        assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "the stream begins without settings")
        assert "settings first" in info.metadata["remedy"]


async def test_an_unknown_encoder_is_refused_before_anything_is_sent(tmp_path):
    async with served(tmp_path) as server:
        call = server.encoders.EmbedStream()
        await call.write(pb.EmbedStreamRequest(settings=pb.EmbedSettings(encoder="reddy")))
        code, _, info = await refusal(call.read())
        assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "NotFound")


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (settings(), "settings came twice"),
        (pb.EmbedStreamRequest(), "a message of the stream is empty"),
        (texts(), "there are no items"),
        (texts(*"abcde"), "5 items in one message, which may have 4"),
        (part(b""), "a chunk of a video or recording has no bytes"),
        (PARTS, "no chunks of a video came before"),
    ],
)
async def test_a_wrong_message_ends_the_stream_after_the_replies_before_it(tmp_path, message, complaint):
    async with served(tmp_path, max_items=4) as server:
        call = await opened(server, texts("a"), message)
        assert sizes(await call.read()) == [1]
        code, found, _ = await refusal(call.read())
        assert (code, found) == (grpc.StatusCode.INVALID_ARGUMENT, complaint)


async def test_a_bad_item_ends_the_stream_with_its_position_in_its_message(tmp_path):
    async with served(tmp_path) as server:
        call = await opened(server, texts("a"), texts("b", "c", "bad"), texts("wait"))
        assert sizes(await call.read()) == [1]
        _, message, info = await refusal(call.read())
        assert (message, info.metadata["item"]) == ("the text is bad", "2")
        await server.engine.until(lambda e: e.running == 0)


async def test_bad_items_may_be_skipped(tmp_path):
    async with served(tmp_path) as server:
        call = await opened(server, texts("a", "bad", "b"), texts("bad"), texts("c"), skip_bad_items=True)
        await call.done_writing()
        found = [([f.item for f in reply.failures], list(reply.features[0].counts)) async for reply in call]
        assert found == [([1], [1, 0, 1]), ([0], [0]), ([], [1])]


async def test_a_caller_that_leaves_ends_all_its_work(tmp_path):
    async with served(tmp_path) as server:
        call = await opened(server, *[texts("wait")] * 5, part(b"half a video"))
        await server.engine.until(lambda e: e.running == 5)
        call.cancel()
        await server.engine.until(lambda e: e.cancelled == 5)
        await server.app.requests.idle()
        assert spooled(server) == []


async def test_a_video_in_parts_lies_on_disk_while_it_is_read_and_no_longer(tmp_path):
    async with served(tmp_path) as server:
        call = await opened(server, part(b"abc"), part(b"defg"), PARTS, texts("x"), part(b"hij"), PARTS)
        await call.done_writing()
        assert await replies(call) == [[7], [1], [3]]
        assert list(server.engine.seen.values()) == [b"abcdefg", b"hij"]
        assert {path.parent for path in server.engine.seen} == {tmp_path / "spool"}
        assert spooled(server) == []


async def test_a_video_beyond_the_limit_is_refused_and_deleted(tmp_path):
    async with served(tmp_path, max_video_bytes=6) as server:
        call = await opened(server, texts("a"), part(b"abc"), part(b"defg"))
        assert sizes(await call.read()) == [1]
        code, message, info = await refusal(call.read())
        assert (code, message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "a video or recording of more than 6 bytes")
        assert info.reason == "TooLarge"
        await server.app.requests.idle()
        assert spooled(server) == []


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([part(b"abc")], "the stream ended before the item that its chunks belong to"),
        ([part(b"abc"), texts("a")], "the chunks of one file came, and 0 items take them"),
        (
            [part(b"abc"), pb.EmbedStreamRequest(items=pb.Items(items=[t.Item(chunked_video=True)] * 2))],
            "the chunks of one file came, and 2 items take them",
        ),
    ],
)
async def test_parts_that_belong_to_no_one_item_are_refused_and_deleted(tmp_path, messages, complaint):
    async with served(tmp_path) as server:
        call = await opened(server, *messages)
        await call.done_writing()
        code, found, _ = await refusal(call.read())
        assert (code, found) == (grpc.StatusCode.INVALID_ARGUMENT, complaint)
        await server.app.requests.idle()
        assert spooled(server) == []
