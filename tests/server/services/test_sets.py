"""The FeatureSets service over a wire: real store and engine, toy encoders."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from fake_engine import refusal
from passes import of_set
from sets_harness import served, settings, texts
from topwork.v1 import sets_pb2 as pb
from topwork.v1 import types_pb2 as t
from topwork_server.feature_sets import lance_io
from topwork_server.services import feature_sets as service
from topwork_server.services import streaming
from topwork_server.services.convert import item_messages


def vectors(ids, numbers, **fields):
    features = t.TapFeatures(rows=item_messages.tensor(np.asarray(numbers, np.float32)), **fields)
    return pb.WriteRequest(rows=pb.WriteRows(ids=ids, features=[features]))


async def opened(server, *messages, **fields):
    call = server.stub.Write()
    await call.write(settings(**fields))
    for message in messages:
        await call.write(message)
    return call


async def write(server, *messages, **fields):
    """A whole stream and its replies."""
    call = await opened(server, *messages, **fields)
    await call.done_writing()
    return [reply async for reply in call]


async def read(server, **fields):
    request = pb.ReadRequest(set="birds", **{"all_taps": True, "all_columns": True, **fields})
    return [reply async for reply in server.stub.Read(request)]


async def ids(server, **fields):
    return sorted(id for reply in await read(server, **fields) for id in reply.ids)


async def get(server, name="birds"):
    return await server.stub.GetSet(pb.GetSetRequest(set=name))


# Write


async def test_each_message_gets_one_reply_in_order(home):
    async with served(home) as server:
        replies = await write(server, texts("owl", "wren"), texts("kite"), texts("owl", "crow"), encoder="letters")
        assert [r.watermark for r in replies] == [2, 3, 5]
        assert [(r.inserted, r.updated, r.unchanged, r.encoded) for r in replies] == [(2, 0, 0, 2), (1, 0, 0, 1), (1, 0, 1, 1)]
        assert [r.version for r in replies] == sorted(r.version for r in replies)
        assert await ids(server) == ["crow", "kite", "owl", "wren"]
        assert server.requests.counts["Write", "OK"] == 1


async def test_replies_come_while_the_stream_is_open(home):
    async with served(home) as server:
        call = await opened(server, texts("owl"), encoder="letters")
        assert (await call.read()).watermark == 1
        assert await ids(server) == ["owl"]
        await call.write(texts("kite"))
        assert (await call.read()).watermark == 2
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_a_set_says_what_it_is(home):
    async with served(home) as server:
        await write(server, texts("owl", year=[1]), encoder="letters", taps=["letters"], dtype=t.DTYPE_FLOAT16, keep_inputs=True)
        found = await get(server)
        assert (found.name, found.encoder, found.modality, found.dtype) == (
            "birds",
            "letters",
            t.MODALITY_TEXT,
            t.DTYPE_FLOAT16,
        )
        assert item_messages.options(found.options) == {"case": "keep", "repeat": 1}
        assert [(tap.tap.name, tap.tap.dim, tap.tap.granularity, tap.column) for tap in found.taps] == [
            ("letters", 8, t.GRANULARITY_TOKEN, "features_letters")
        ]
        assert [(c.name, c.type) for c in found.columns] == [("year", pb.COLUMN_TYPE_INT)]
        assert (found.items, found.keeps_inputs, list(found.indexes)) == (1, True, ["index-of-birds"])
        assert found.bytes > 0
        assert [n.provider for n in found.numerics] == ["cpu"]
        assert Path(found.path).is_dir()


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (pb.WriteRequest(rows=pb.WriteRows()), "the message has no ids"),
        (pb.WriteRequest(rows=pb.WriteRows(ids=["a"])), "a message of rows has items or features, one of them"),
        (texts("a", "b", ids=["x"]), "1 ids came with 2 items"),
        (texts(*"abcde"), "5 items in one message, which may have 4"),
        (texts("a", "b", ids=["x", "x"]), "the id 'x' is there twice"),
        (vectors(["a"], [[1] * 7], fingerprint="f"), "rows of 7 numbers, one a item, came for the tap mean of birds"),
        (pb.WriteRequest(rows=pb.WriteRows(ids=["a"], items=[t.Item(chunked_video=True)])), "no chunks of a video came before"),
    ],
)
async def test_a_wrong_message_ends_the_stream_after_the_replies_before_it(home, message, complaint):
    async with served(home, max_items=4) as server:
        call = await opened(server, texts("owl"), message, encoder="letters")
        assert (await call.read()).watermark == 1
        code, found, _ = await refusal(call.read())
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert found.startswith(complaint)
        assert await ids(server) == ["owl"]


@pytest.mark.parametrize(
    ("fields", "code", "complaint"),
    [
        ({"name": ""}, grpc.StatusCode.INVALID_ARGUMENT, "set is named"),
        ({"encoder": "leters"}, grpc.StatusCode.NOT_FOUND, "'leters'"),
        ({"encoder": "letters", "dtype": t.DTYPE_INT8}, grpc.StatusCode.INVALID_ARGUMENT, "INT8"),
    ],
)
async def test_wrong_settings_are_refused_before_anything_is_sent(home, fields, code, complaint):
    async with served(home) as server:
        found, message, _ = await refusal((await opened(server, **fields)).read())
        assert found == code
        assert complaint in message


async def test_a_bad_item_ends_the_stream_with_its_position(home):
    async with served(home) as server:
        call = await opened(server, texts("owl"), texts("kite", "", ids=["a", "b"]), encoder="letters")
        assert (await call.read()).watermark == 1
        code, message, info = await refusal(call.read())
        assert (code, message, info.metadata["item"]) == (grpc.StatusCode.INVALID_ARGUMENT, "the text is empty", "1")
        assert await ids(server) == ["owl"]


async def test_bad_items_may_be_skipped(home):
    empty = pb.WriteRequest(rows=pb.WriteRows(ids=list("abc"), items=[t.Item(), t.Item(text="owl"), t.Item(text="")]))
    async with served(home) as server:
        (reply,) = await write(server, empty, encoder="letters", skip_bad_items=True)
        assert [(f.item, f.message, f.code) for f in reply.failures] == [(0, "it has no content", 3), (2, "the text is empty", 3)]
        assert (reply.watermark, reply.inserted) == (3, 1)
        assert await ids(server) == ["b"]


async def test_a_caller_that_vanishes_ends_its_work_and_keeps_what_was_acknowledged(home):
    async with served(home) as server:
        call = await opened(server, texts("owl"), texts("wait"), texts("kite"), encoder="letters")
        assert (await call.read()).watermark == 1
        await server.harness.engine.until_asked(3)
        call.cancel()
        await server.requests.idle()
        assert await ids(server) == ["owl"]
        server.harness.engine.gate.set()
        again = await write(server, texts("owl"), texts("wait"), texts("kite"), encoder="letters")
        assert [r.unchanged for r in again] == [1, 0, 0]
        assert await ids(server) == ["kite", "owl", "wait"]


async def test_a_deadline_ends_a_stream_that_waits(home):
    async with served(home) as server:
        call = server.stub.Write(timeout=0.5)
        await call.write(settings(encoder="letters"))
        await call.write(texts("wait"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await server.requests.idle()


async def test_a_bug_of_an_encoder_is_no_secret_that_is_told(home):
    async with served(home) as server:
        call = await opened(server, texts("owl"), texts("crash"), encoder="letters")
        assert (await call.read()).watermark == 1
        code, message, _ = await refusal(call.read())
        assert code == grpc.StatusCode.INTERNAL
        assert "secret" not in message
        assert await ids(server) == ["owl"]


async def test_a_full_disk(home, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    async with served(home) as server:
        await write(server, texts("owl"), encoder="letters")
        with monkeypatch.context() as patch:
            patch.setattr(lance_io, "write_rows", full)
            code, _, info = await refusal((await opened(server, texts("kite"))).read())
            assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "DiskFull")
        assert await ids(server) == ["owl"]
        await write(server, texts("kite"))
        assert await ids(server) == ["kite", "owl"]


async def test_ready_vectors_flow_by_their_bytes(home, monkeypatch):
    monkeypatch.setattr(streaming, "BYTES", 64 << 10)
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((20, 500, 16)).astype(np.float32)  # 32 KB a message
    messages = [vectors([f"{i}-{j}" for j in range(500)], some) for i, some in enumerate(numbers)]
    async with served(home, max_items=4) as server:  # which counts what is encoded
        replies = await write(server, *messages)
        assert [r.watermark for r in replies] == list(range(500, 10_001, 500))
        assert sum(r.inserted for r in replies) == 10_000
        found = {}
        for reply in await read(server):
            found.update(zip(reply.ids, item_messages.array(reply.features[0].rows), strict=True))
        assert len(found) == 10_000
        assert np.array_equal(found["7-33"], numbers[7, 33])


async def test_texts_take_little_of_the_window(home):
    async with served(home) as server:
        messages = [texts("wait", *[f"{i} {j}" for j in range(63)], ids=[f"{i}-{j}" for j in range(64)]) for i in range(20)]
        call = await opened(server, *messages, encoder="letters")
        await server.harness.engine.until_asked(20)  # 1,280 items, of which no reply was sent
        server.harness.engine.gate.set()
        await call.done_writing()
        replies = [reply async for reply in call]
        assert replies[-1].watermark == 1280
        assert sum(reply.encoded for reply in replies) == 20 * 63 + 1, "who comes first encodes the text that all have"
        pictures = pb.WriteRequest(rows=pb.WriteRows(ids=["a", "b"], items=[t.Item(image=b"a"), t.Item(image=b"b")]))
        assert [service._load(one) for one in (messages[0], pictures, vectors(["a"], [[1.0]]))] == [32, 8, 0]


async def test_many_small_writers_share_commits(home):
    async with served(home) as server:
        await asyncio.gather(*[write(server, *[texts(f"bird-{i}-{j}") for j in range(5)], encoder="letters") for i in range(20)])
        found = await get(server)
        assert found.items == 100
        assert found.version < 100


def clip(*parts, **fields):
    return [pb.WriteRequest(chunk=part) for part in parts]


@pytest.mark.parametrize("item", [t.Item(chunked_video=True), t.Item(chunked_audio=True)])
async def test_a_file_in_parts_is_one_item(home, item):
    """The toy takes texts alone: that it is refused, with its position, says that it has arrived; its file goes."""
    item = pb.WriteRequest(rows=pb.WriteRows(ids=["v"], items=[item]))
    async with served(home) as server:
        (reply,) = await write(server, *clip(b"abc", b"defg"), item, encoder="letters", skip_bad_items=True)
        assert [(f.item, f.message) for f in reply.failures] == [(0, "not a text")]
        assert list((home / "spool").glob("*.part")) == []


async def test_parts_that_belong_to_no_item_are_refused(home):
    async with served(home) as server:
        call = await opened(server, *clip(b"abc"), vectors(["a"], [[1.0]]))
        code, message, _ = await refusal(call.read())
        assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "the chunks of one file came, and 0 items take them")
        await server.requests.idle()
        assert list((home / "spool").glob("*.part")) == []


# Read


async def test_what_was_written_is_read(home):
    async with served(home) as server:
        await write(
            server, texts("owl", "wren", year=[1, 2], label=["a", "b"]), encoder="letters", taps=["letters"], keep_inputs=True
        )
        (reply,) = await read(server, inputs=True)
        assert list(reply.ids) == ["owl", "wren"]
        assert [item.text for item in reply.inputs] == ["owl", "wren"]
        (tap,) = reply.features
        assert (tap.tap, list(tap.counts), tap.granularity) == ("letters", [3, 4], t.GRANULARITY_TOKEN)
        assert item_messages.array(tap.rows).shape == (7, 8)
        assert (tap.spans.kind, item_messages.array(tap.spans.values).tolist()[:3]) == (
            t.SPAN_KIND_CHARACTERS,
            [[0, 1], [1, 2], [2, 3]],
        )
        assert tap.fingerprint == (await get(server)).taps[0].tap.fingerprint
        assert {c.name: list(c.ints) or list(c.strings) for c in reply.metadata} == {"year": [1, 2], "label": ["a", "b"]}
        assert (reply.version, reply.total) == ((await get(server)).version, 2)


async def test_only_what_was_asked_for(home):
    async with served(home) as server:
        await write(server, texts(*"abcd", year=[1, 2, 3, 4], size=[1, 1, 2, 2]), encoder="letters")
        (reply,) = await read(server, all_taps=False, all_columns=False, columns=["year"], where="size = 2 AND year > 1")
        assert (list(reply.ids), len(reply.features), reply.metadata[0].ints, reply.total) == (["c", "d"], 0, [3, 4], 2)
        assert await ids(server, ids=["b", "x", "a"]) == ["a", "b"]
        (some,) = await read(server, offset=1, limit=2)
        assert (list(some.ids), some.total) == (["b", "c"], 4)


async def test_where_nothing_is_selected_one_message_says_so(home):
    async with served(home) as server:
        await write(server, texts("owl", year=[1]), encoder="letters")
        (reply,) = await read(server, where="year = 99")
        assert (len(reply.ids), reply.total, reply.version) == (0, 0, (await get(server)).version)
        assert list(reply.features[0].rows.shape) == [0, 8]
        assert [c.name for c in reply.metadata] == ["year"]


async def test_an_older_version_is_read_as_it_was(home):
    async with served(home) as server:
        (first,) = await write(server, texts("owl", year=[1]), encoder="letters")
        await write(server, texts("owl", "kite", year=[2, 2]))
        (reply,) = await read(server, version=first.version)
        assert (list(reply.ids), list(reply.metadata[0].ints), reply.version) == (["owl"], [1], first.version)


async def test_large_reads_come_in_messages_within_the_bounds(home, monkeypatch):
    async with served(home) as server:
        numbers = np.arange(4000 * 64, dtype=np.float32).reshape(4000, 64)
        await write(server, vectors([f"{i:04}" for i in range(4000)], numbers))
        monkeypatch.setattr(service, "MAX_MESSAGE", 100_000)
        replies = await read(server)
        assert len(replies) > 10
        assert all(reply.ByteSize() <= 100_000 for reply in replies)
        assert [id for reply in replies for id in reply.ids] == [f"{i:04}" for i in range(4000)]
        assert np.array_equal(np.concatenate([item_messages.array(r.features[0].rows) for r in replies]), numbers)
        monkeypatch.setattr(service, "MAX_MESSAGE", 200)
        code, message, info = await refusal(read(server))
        assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TooLarge")
        assert "'0000'" in message


async def test_a_reader_that_leaves_ends_the_scan(home, monkeypatch, caplog):
    async with served(home) as server:
        numbers = np.zeros((20_000, 64), np.float32)
        await write(server, vectors([str(i) for i in range(20_000)], numbers))
        monkeypatch.setattr(service, "MAX_MESSAGE", 20_000)
        made, reached, gate, inner = [], threading.Event(), threading.Event(), service.set_messages.read_response

        def slow(*arguments):
            made.append(arguments)
            if len(made) > 20:
                reached.set()
                assert gate.wait(20)
            return inner(*arguments)

        monkeypatch.setattr(service.set_messages, "read_response", slow)
        call = server.stub.Read(pb.ReadRequest(set="birds", all_taps=True))
        await call.read()
        await asyncio.to_thread(reached.wait)
        call.cancel()
        asyncio.get_running_loop().call_later(0.2, gate.set)  # by then the call was ended, in the middle of a block
        await server.requests.idle()
        assert len(made) < 40  # of some 400: the message under way was finished, and no more
        birds = server.harness.sets.get(of_set("birds"))
        await asyncio.to_thread(birds.delete(["0"]).result)
        await asyncio.to_thread(birds.prune, 0)
        assert len(birds.versions()) == 1, "the version that was read is held no more"
        assert caplog.text == ""


@pytest.mark.parametrize(
    ("fields", "code", "complaint"),
    [
        ({"where": "nothing = 1"}, grpc.StatusCode.INVALID_ARGUMENT, "nothing"),
        ({"where": "year >"}, grpc.StatusCode.INVALID_ARGUMENT, ""),
        ({"all_columns": False, "columns": ["nothing"]}, grpc.StatusCode.INVALID_ARGUMENT, "nothing"),
        ({"all_taps": False, "taps": ["nothing"]}, grpc.StatusCode.INVALID_ARGUMENT, "nothing"),
        ({"version": 99}, grpc.StatusCode.NOT_FOUND, "99"),
        ({"inputs": True}, grpc.StatusCode.INVALID_ARGUMENT, "inputs"),
    ],
)
async def test_wrong_reads(home, fields, code, complaint):
    async with served(home) as server:
        await write(server, texts("owl", year=[1]), encoder="letters")
        found, message, _ = await refusal(read(server, **fields))
        assert (found, complaint in message) == (code, True)


# The rest


async def test_rows_are_deleted_by_id_or_by_filter(home):
    async with served(home) as server:
        await write(server, texts(*"abcd", year=[1, 2, 3, 4]), encoder="letters")
        reply = await server.stub.DeleteRows(pb.DeleteRowsRequest(set="birds", ids=["a", "x", "a"]))
        assert reply.deleted == 1
        reply = await server.stub.DeleteRows(pb.DeleteRowsRequest(set="birds", where="year >= 3"))
        assert (reply.deleted, reply.version) == (2, (await get(server)).version)
        assert await ids(server) == ["b"]
        for wrong in ({}, {"ids": ["b"], "where": "year = 2"}):
            code, message, _ = await refusal(server.stub.DeleteRows(pb.DeleteRowsRequest(set="birds", **wrong)))
            assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "give ids or a filter to delete by, one of them")
        assert await ids(server) == ["b"]


async def test_versions_are_listed_pinned_and_pruned(home):
    async with served(home) as server:
        (first, *_) = await write(server, texts("owl"), encoder="letters")
        await write(server, texts("kite"))
        pinned = await server.stub.PinVersion(pb.PinVersionRequest(set="birds", pin="paper", version=first.version))
        assert (pinned.version, list(pinned.pins)) == (first.version, ["paper"])
        assert pinned.created > 1e9
        await server.stub.PruneVersions(pb.PruneVersionsRequest(set="birds", older_than=0))
        found = await server.stub.ListVersions(pb.ListVersionsRequest(set="birds"))
        assert (found.versions[0].version, list(found.versions[0].pins)) == (first.version, ["paper"])
        assert await ids(server, version=first.version) == ["owl"]
        code, message, _ = await refusal(server.stub.PinVersion(pb.PinVersionRequest(set="birds", pin="head-mine")))
        assert (code, "server's own" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        await server.stub.UnpinVersion(pb.UnpinVersionRequest(set="birds", pin="paper"))
        pruned = await server.stub.PruneVersions(pb.PruneVersionsRequest(set="birds", older_than=0))
        assert pruned.removed == 1
        assert len((await server.stub.ListVersions(pb.ListVersionsRequest(set="birds"))).versions) == 1
        code, _, _ = await refusal(server.stub.PruneVersions(pb.PruneVersionsRequest(set="birds", older_than=float("nan"))))
        assert code == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_dropped_set_goes_with_its_indexes(home):
    async with served(home) as server:
        await write(server, texts("owl"), encoder="letters")
        await server.stub.DropSet(pb.DropSetRequest(set="birds"))
        assert server.harness.dropped == ["birds"]
        code, _, _ = await refusal(get(server))
        assert code == grpc.StatusCode.NOT_FOUND
        code, _, _ = await refusal(server.stub.DropSet(pb.DropSetRequest(set="birds")))
        assert code == grpc.StatusCode.NOT_FOUND
        assert server.harness.dropped == ["birds"]
        (reply,) = await write(server, texts("owl"), encoder="letters")
        assert (reply.inserted, reply.encoded) == (1, 0)


async def test_a_set_that_cannot_be_opened_does_not_hide_the_others(home):
    async with served(home) as server:
        await write(server, texts("owl"), encoder="letters")
        broken = home / "sets" / "broken.lance"
        broken.mkdir()
        (broken / "_versions").mkdir()
        found = await server.stub.ListSets(pb.ListSetsRequest())
        assert [(one.name, "holds no version" in one.damage) for one in found.sets] == [("birds", False), ("broken", True)]
        code, _, _ = await refusal(get(server, "broken"))
        assert code == grpc.StatusCode.FAILED_PRECONDITION
        await server.stub.DropSet(pb.DropSetRequest(set="broken"))
        assert not broken.exists()


@pytest.mark.parametrize("method", ["GetSet", "DropSet", "ListVersions"])
@pytest.mark.parametrize(("name", "code"), [("", "INVALID_ARGUMENT"), ("bird", "NOT_FOUND"), ("../birds", "NOT_FOUND")])
async def test_sets_that_are_not_there(home, method, name, code):
    async with served(home) as server:
        found, _, _ = await refusal(getattr(server.stub, method)(getattr(pb, f"{method}Request")(set=name)))
        assert found.name == code
