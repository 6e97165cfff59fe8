"""The Encoders service over real gRPC, on a fake engine."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from fake_engine import DIM, NUMERICS, TAPS, refusal, served
from google.protobuf.struct_pb2 import Struct
from passes import of_encoder
from topwork.v1 import encoders_pb2 as pb
from topwork.v1 import types_pb2 as t
from topwork_server.inference.engine import EmbedParams
from topwork_server.runtime.device_selection import ExecutionPlan, PlanSet
from topwork_server.runtime.providers import Device
from topwork_server.types import AudioItem, ImageItem, Priority, TextItem, VideoItem


def texts(*words):
    return [t.Item(text=word) for word in words]


def ask(*words, **settings):
    return pb.EmbedRequest(settings=pb.EmbedSettings(encoder="ready", **settings), items=texts(*words))


def as_array(tensor, dtype=np.float32):
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)


async def test_the_list_says_what_is_served_and_what_would_fetch_the_rest(tmp_path):
    async with served(tmp_path) as server:
        listed = {e.name: e for e in (await server.encoders.ListEncoders(pb.ListEncodersRequest())).encoders}
        ready, absent = listed["ready"], listed["absent"]
        assert (ready.state, absent.state) == (pb.ENCODER_STATE_READY, pb.ENCODER_STATE_ABSENT)
        assert absent.detail == "run `topwork pull absent`"
        assert not absent.HasField("numerics")
        assert ready.numerics.parity == pytest.approx(0.99999)
        assert (ready.parameters, absent.parameters) == (4242, 42)
        assert (ready.modality, ready.plugin, ready.license) == (t.MODALITY_TEXT, "fake 1.0", "Apache-2.0")
        assert [(tap.name, tap.dim, tap.fingerprint) for tap in ready.taps] == [(n, DIM, i.fingerprint) for n, i in TAPS.items()]
        assert [tap.fingerprint for tap in absent.taps] == [""] * 3
        assert list(ready.taps[2].grid) == [2, 1]
        assert [(o.name, o.type, o.default, o.description) for o in ready.options] == [
            ("scale", "integer", "1", "multiplies the rows"),
            ("unknown", 'one of "skip", "zero"', '"skip"', ""),
            ("truncate", "boolean", "false", ""),
            ("prompt_name", "string", '""', ""),
        ]
        assert json.loads(ready.options[1].schema) == {"type": "string", "enum": ["skip", "zero"], "default": "skip"}
        assert [listed[n].has_vocabulary for n in ("ready", "words")] == [False, True]


async def test_an_encoder_in_memory_is_loaded(tmp_path):
    async with served(tmp_path) as server:
        cuda = replace(NUMERICS, provider="cuda", precision="fp16")
        server.engine.loaded["ready"] = SimpleNamespace(serving=True, counters={"batches": 3, "samples": 7})
        server.engine.chosen = PlanSet((ExecutionPlan(Device("cuda", "fp16"), "model.onnx", tuple(TAPS), cuda),))
        found = await server.encoders.GetEncoder(pb.GetEncoderRequest(name="ready"))
        assert found.state == pb.ENCODER_STATE_LOADED
        assert (found.numerics.provider, found.numerics.precision) == ("cuda", "fp16")
        assert dict(found.counters) == {"batches": 3, "samples": 7}


async def test_a_broken_entry_does_not_hide_the_others(tmp_path, caplog):
    async with served(tmp_path) as server:
        server.catalog.broken.append("orphan")
        listed = await server.encoders.ListEncoders(pb.ListEncodersRequest())
        assert [e.name for e in listed.encoders] == ["ready", "words", "absent"]
    assert "orphan" in caplog.text


async def test_an_unknown_encoder_is_not_found_with_a_near_name(tmp_path):
    async with served(tmp_path) as server:
        code, message, info = await refusal(server.encoders.GetEncoder(pb.GetEncoderRequest(name="reddy")))
        assert code is grpc.StatusCode.NOT_FOUND
        assert "reddy" in message
        assert (info.reason, info.metadata["remedy"]) == ("NotFound", "did you mean ready?")
        code, message, _ = await refusal(server.encoders.GetEncoder(pb.GetEncoderRequest()))
        assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "no encoder is named")


async def test_embed_gives_rows_of_each_tap_in_the_order_asked(tmp_path):
    async with served(tmp_path) as server:
        reply = await server.encoders.Embed(ask("a", "bcd", "note", taps=["tokens", "pooled", "cells"]))
        tokens, pooled, cells = reply.features
        assert (tokens.tap, pooled.tap, cells.tap) == ("tokens", "pooled", "cells")
        assert list(tokens.counts) == [1, 3, 4]
        assert as_array(pooled.rows)[:, 0].tolist() == [1, 3, 4]
        assert pooled.fingerprint == "a" * 64
        assert not pooled.HasField("spans")
        assert tokens.spans.kind == t.SPAN_KIND_CHARACTERS
        assert as_array(tokens.spans.values).tolist() == [[i, i + 1] for i in range(8)]
        assert as_array(tokens.spans.parts, np.int32).tolist() == [0] * 8
        assert (tokens.granularity, cells.granularity) == (t.GRANULARITY_TOKEN, t.GRANULARITY_CELL)
        assert cells.spans.kind == t.SPAN_KIND_BOX
        assert list(cells.spans.values.shape) == [6, 4]
        assert [(note.item, dict(note.counts)) for note in reply.notes] == [(2, {"unknown_words": 2})]
        assert reply.numerics.provider == "cpu"
        assert (reply.timings.preprocess, reply.timings.queue, reply.timings.compute) == (0.25, 0.5, 0.125)
        assert 0 < reply.timings.total < 10


async def test_every_kind_of_item_reaches_the_engine(tmp_path):
    frame = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    items = [
        t.Item(text="a"),
        t.Item(text_pair=t.TextPair(text="b", pair="c")),
        t.Item(image=b"jpeg"),
        t.Item(video=b"mp4"),
        t.Item(audio=b"wav"),
        t.Item(tensor=t.Tensor(dtype=t.DTYPE_UINT8, shape=frame.shape, data=frame.tobytes())),
    ]
    options = Struct()
    options.update({"scale": 3, "share": 0.5, "unknown": "zero", "deep": {"list": [1, True, None]}})
    async with served(tmp_path) as server:
        settings = pb.EmbedSettings(encoder="ready", taps=["pooled"], options=options)
        await server.encoders.Embed(pb.EmbedRequest(settings=settings, items=items), timeout=50)
        asked, seen = server.engine.asked[0]
        files = [ImageItem(b"jpeg"), VideoItem(b"mp4"), AudioItem(b"wav")]
        assert list(seen[:5]) == [TextItem("a"), TextItem("b", "c"), *files]
        assert np.array_equal(seen[5], frame)
        assert asked.encoder == "ready"
        assert asked.options == {"scale": 3, "share": 0.5, "unknown": "zero", "deep": {"list": [1, True, None]}}
        assert type(asked.options["scale"]) is int
        assert not asked.wait
        assert asked.deadline is not None
        assert 20 < asked.deadline - time.monotonic() < 51


async def test_no_deadline_is_no_deadline(tmp_path):
    async with served(tmp_path) as server:
        await server.encoders.Embed(ask("a"))
        assert replace(server.engine.asked[0][0], client=None) == EmbedParams(of_encoder("ready"))


async def test_a_connection_is_one_flow_a_stream_is_one_of_its_own_and_priority_is_passed_on(tmp_path):
    async with served(tmp_path) as server:
        for priority in (pb.PRIORITY_UNSPECIFIED, pb.PRIORITY_HIGH):
            settings = pb.EmbedSettings(encoder="ready", priority=priority)
            await server.encoders.Embed(pb.EmbedRequest(settings=settings, items=[t.Item(text="a")]))
        for _ in range(2):
            opening = pb.EmbedStreamRequest(settings=pb.EmbedSettings(encoder="ready", priority=pb.PRIORITY_LOW))
            messages = [opening, pb.EmbedStreamRequest(items=pb.Items(items=[t.Item(text="b")]))]
            assert len([reply async for reply in server.encoders.EmbedStream(iter(messages))]) == 1
        asks = [asked for asked, _ in server.engine.asked]
        assert [asked.priority for asked in asks] == [Priority.NORMAL, Priority.HIGH, Priority.LOW, Priority.LOW]
        assert asks[0].client == asks[1].client
        assert len({asked.client for asked in asks}) == 3
        settings = pb.EmbedSettings(encoder="ready", priority=9)  # type: ignore[arg-type]
        code, message, _ = await refusal(server.encoders.Embed(pb.EmbedRequest(settings=settings, items=[t.Item(text="a")])))
        assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "there is no priority 9")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": t.DTYPE_INT64}, "features do not come as INT64"),
        ({"dimensions": 9}, "9 dimensions of a tap that has 8"),
        ({"fingerprint": "f" * 64, "taps": ["pooled", "tokens"]}, "a fingerprint belongs to one tap"),
    ],
)
async def test_wrong_settings_are_refused(tmp_path, settings, message):
    async with served(tmp_path) as server:
        code, found, _ = await refusal(server.encoders.Embed(ask("a", **settings)))
        assert (code, found) == (grpc.StatusCode.INVALID_ARGUMENT, message)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (t.Item(), "it has no content"),
        (t.Item(chunked_video=True), "no chunks of a video came before"),
        (t.Item(chunked_audio=True), "no chunks of a recording came before"),
        (t.Item(tensor=t.Tensor()), "an array of shape []"),
        (t.Item(tensor=t.Tensor(shape=[0, 4])), "an array of shape [0, 4]"),
        (t.Item(tensor=t.Tensor(shape=[-1])), "an array of shape [-1]"),
        (t.Item(tensor=t.Tensor(shape=[2], data=b"1234")), "shape [2] and dtype float32 has 8 bytes, but 4 came"),
        (t.Item(tensor=t.Tensor(shape=[1 << 62, 1 << 62], data=b"1")), "but 1 came"),
        (t.Item(tensor=t.Tensor(shape=[1] * 9, data=b"1234")), "an array of shape [1, 1, 1"),
        (t.Item(tensor=t.Tensor(dtype=t.DTYPE_BINARY, shape=[8], data=b"1")), "cannot come as BINARY"),
        (t.Item(tensor=t.Tensor(dtype=99, shape=[1], data=b"1")), "cannot come as dtype 99"),
    ],
)
async def test_what_is_no_item_is_named_by_its_position(tmp_path, item, message):
    async with served(tmp_path) as server:
        request = pb.EmbedRequest(settings=pb.EmbedSettings(encoder="ready"), items=[*texts("a", "b"), item])
        code, found, info = await refusal(server.encoders.Embed(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert message in found
        assert info.metadata["item"] == "2"
        assert info.metadata["remedy"]
        assert not server.engine.asked


async def test_skipped_items_have_no_rows_and_a_failure(tmp_path):
    items = [t.Item(), *texts("note", "bad"), t.Item(tensor=t.Tensor(shape=[3])), *texts("abc")]
    async with served(tmp_path) as server:
        settings = pb.EmbedSettings(encoder="ready", taps=["tokens"], skip_bad_items=True)
        reply = await server.encoders.Embed(pb.EmbedRequest(settings=settings, items=items))
        assert list(reply.features[0].counts) == [0, 4, 0, 0, 3]
        assert [(f.item, f.code) for f in reply.failures] == [(0, 3), (2, 3), (3, 3)]
        assert (reply.failures[1].message, reply.failures[1].remedy) == ("the text is bad", "send a good one")
        assert [note.item for note in reply.notes] == [1]


async def test_only_bad_items_give_failures_and_no_rows(tmp_path):
    async with served(tmp_path) as server:
        settings = pb.EmbedSettings(encoder="ready", skip_bad_items=True)
        reply = await server.encoders.Embed(pb.EmbedRequest(settings=settings, items=[t.Item(), t.Item()]))
        assert list(reply.features[0].counts) == [0, 0]
        assert list(reply.features[0].rows.shape) == [0, DIM]
        assert [f.item for f in reply.failures] == [0, 1]


async def test_an_engine_error_carries_its_item_and_remedy(tmp_path):
    async with served(tmp_path) as server:
        code, message, info = await refusal(server.encoders.Embed(ask("a", "bad")))
        assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "the text is bad")
        assert (info.reason, info.metadata["item"], info.metadata["remedy"]) == ("InvalidInput", "1", "send a good one")


async def test_a_bug_is_internal_with_an_id_that_the_log_has(tmp_path, caplog):
    async with served(tmp_path) as server:
        code, message, _ = await refusal(server.encoders.Embed(ask("crash")))
        assert code is grpc.StatusCode.INTERNAL
        assert "secret" not in message
        mark = message.removeprefix("internal error ")
        assert len(mark) == 8
        assert mark in caplog.text
        assert "a secret of the implementation" in caplog.text
        assert server.app.requests.counts["Embed", "INTERNAL"] == 1


async def test_too_many_items_and_none(tmp_path):
    async with served(tmp_path, max_items=3) as server:
        code, message, info = await refusal(server.encoders.Embed(ask(*"abcd")))
        assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "4 items in one message, which may have 3")
        assert "EmbedStream" in info.metadata["remedy"]
        assert "SDK" in info.metadata["remedy"]
        code, message, _ = await refusal(server.encoders.Embed(ask()))
        assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "there are no items")
        await server.encoders.Embed(ask(*"abc"))


async def test_a_wrong_fingerprint_is_refused_with_both_named(tmp_path):
    async with served(tmp_path) as server:
        code, message, info = await refusal(server.encoders.Embed(ask("a", fingerprint="f" * 64)))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "a" * 64 in message
        assert "f" * 64 in message
        assert info.reason == "NotReady"
        await server.encoders.Embed(ask("a", fingerprint="a" * 64))


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype", "width"),
    [(t.DTYPE_FLOAT16, np.float16, DIM), (t.DTYPE_INT8, np.int8, DIM), (t.DTYPE_BINARY, np.uint8, 1)],
)
async def test_rows_come_in_the_dtype_that_was_asked_for(tmp_path, dtype, numpy_dtype, width):
    async with served(tmp_path) as server:
        reply = await server.encoders.Embed(ask("abc", "de", dtype=dtype))
        rows = reply.features[0].rows
        assert rows.dtype == dtype
        assert list(rows.shape) == [2, DIM]
        values = np.frombuffer(rows.data, numpy_dtype).reshape(2, width)
        if dtype == t.DTYPE_INT8:
            scales = as_array(reply.features[0].scales)
            assert (values * scales[:, None])[:, 0] == pytest.approx([3, 2], abs=float(scales.max()))
        elif dtype == t.DTYPE_BINARY:
            assert values.tolist() == [[0b11000000], [0b11000000]]
        else:
            assert values[:, 0].tolist() == [3, 2]


async def test_unit_rows_of_fewer_dimensions(tmp_path):
    async with served(tmp_path) as server:
        reply = await server.encoders.Embed(ask("abc", normalize=True, dimensions=1))
        assert as_array(reply.features[0].rows).tolist() == [[1.0]]


async def test_large_replies_are_shaped_beside_the_loop_and_refused_past_the_limit(tmp_path):
    long = "x" * 100_000
    async with served(tmp_path) as server:
        reply = await server.encoders.Embed(ask(long, taps=["tokens"]))
        assert list(reply.features[0].rows.shape) == [100_000, DIM]
        code, message, info = await refusal(server.encoders.Embed(ask(*[long] * 20, taps=["tokens"])))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert info.reason == "TooLarge"
        assert "67108864" in message


async def test_a_caller_that_leaves_ends_its_work(tmp_path):
    async with served(tmp_path) as server:
        call = server.encoders.Embed(ask("wait"))
        await server.engine.until(lambda e: e.running == 1)
        call.cancel()
        await server.engine.until(lambda e: e.cancelled == 1)
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_deadline_that_passes_ends_the_work(tmp_path):
    async with served(tmp_path) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.encoders.Embed(ask("wait"), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await server.engine.until(lambda e: e.cancelled == 1)


async def test_nearest_words(tmp_path):
    async with served(tmp_path) as server:
        request = pb.NearestWordsRequest(encoder="words", items=texts("king", "owl"), k=2)
        reply = await server.encoders.NearestWords(request)
        assert [[w.word for w in words.words] for words in reply.results] == [["king0", "king1"], ["owl0", "owl1"]]
        assert reply.results[0].words[1].score == pytest.approx(0.99)
        request.k = 0
        reply = await server.encoders.NearestWords(request)
        assert len(reply.results[0].words) == 10
        request.k = 1001
        code, message, _ = await refusal(server.encoders.NearestWords(request))
        assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "k is 1001")
