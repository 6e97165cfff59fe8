"""Bad requests that any door may get: the status and the form of errors are the door's own, and the next request is answered."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import door_heads
import fake_engine
import pytest
import sample_heads
import toy_jobs
from http_calls import call, get, post
from oip_calls import asked, called
from topwork_server.doors.protocols import tei_pb2 as pb
from topwork_server.heads.training_log import TrainingRecord

TEXTS = {"name": "TEXT", "datatype": "BYTES", "shape": [1], "data": ["hello"]}
INFER = "/v2/models/ready/infer"
JSON = {"content-type": "application/json"}
#: By path: a good body, the status of a bad one, and the keys that lead to the message of an error.
DOORS = {
    "/v1/embeddings": ({"input": "hello"}, 400, ("error", "message")),
    "/v2/embed": ({"texts": ["hello"]}, 400, ("message",)),
    "/embed": ({"inputs": "hello"}, 422, ("error",)),
    "/v1/embed/texts": ({"texts": ["hello"]}, 400, ("detail",)),
    INFER: ({"inputs": [TEXTS]}, 400, ("error",)),
}


def served(home):
    return fake_engine.served(home, http="127.0.0.1:0", default_encoder="ready")


def message_of(reply, keys):
    found = reply.json
    for key in keys:
        found = found[key]
    return found


@pytest.mark.parametrize("path", DOORS)
async def test_bodies_and_headers_that_are_wrong_at_each_door(path, tmp_path):
    good, status, keys = DOORS[path]
    body = json.dumps(good).encode()
    async with served(tmp_path) as server:
        for sent, headers, word in (
            (body, {"x-timeout-ms": "9" * 5000}, "x-timeout-ms"),
            (body, {"x-timeout-ms": "0"}, "x-timeout-ms"),
            (body, {"x-priority": "0"}, "priority"),
            (b"\xff", {}, "JSON"),
            (b'{"x":' + b"[" * 5_000_000, {}, "JSON"),
            (gzip.compress(body) + b"x", {"content-encoding": "gzip"}, "behind"),
            (gzip.compress(body) * 2, {"content-encoding": "gzip"}, "behind"),
            (zlib.compress(body) + b"more", {"content-encoding": "deflate"}, "4 bytes behind"),
        ):
            reply = await post(server.ready.http, path, sent, headers)
            assert (reply.status, word in message_of(reply, keys)) == (status, True), reply.body[:300]
        assert (await post(server.ready.http, path, gzip.compress(body), {"content-encoding": "gzip"})).status == 200
        counted = Counter({code: count for (_, code), count in server.app.requests.counts.items()})
        assert counted == {"INVALID_ARGUMENT": 3, "OK": 1}  # what came whole


async def test_what_a_body_unpacks_to_is_counted_and_let_go(tmp_path):
    async with served(tmp_path) as server:
        budget = server.app.budget
        body = gzip.compress(json.dumps({"input": "wait", "user": "x" * (1 << 22)}).encode())
        waiting = asyncio.create_task(post(server.ready.http, "/v1/embeddings", body, {"content-encoding": "gzip"}))
        async with asyncio.timeout(30):
            while not server.engine.asked:
                await asyncio.sleep(0.01)
        assert budget.used > 1 << 22
        server.engine.gate.set()
        assert (await waiting).status == 200
        assert budget.used == 0


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/metrics", ("message",)),
        ("/docs", ("message",)),
        ("/openapi.json", ("message",)),
        ("/health/live", ("message",)),
        ("/health/ready", ("message",)),
        ("/rerank", ("error",)),
        ("/v1/rerank", ("message",)),
        *((path, keys) for path, (_, _, keys) in DOORS.items()),
    ],
)
async def test_other_methods_are_refused_in_the_form_of_the_door(path, keys, tmp_path):
    async with served(tmp_path) as server:
        reply = await asyncio.to_thread(call, server.ready.http, "PUT", path)
        assert reply.status == 405
        assert reply.headers["allow"] in message_of(reply, keys)
        unserved = await asyncio.to_thread(call, server.ready.http, "PUT", "/v2/logging")
        assert (unserved.status, "log settings" in unserved.json["error"]) == (501, True)


@pytest.mark.parametrize("axis", [-1, 1 << 63, 10**4000])
async def test_axes_of_no_length(axis, tmp_path):
    async with served(tmp_path) as server:
        tensor = {"name": "TEXT", "datatype": "INT64", "shape": [1, *[axis] * 20], "data": [1]}
        body = json.dumps({"inputs": [{**tensor, "shape": "SHAPE"}]}).replace('"SHAPE"', f"[1{f', {axis}' * 20}]")
        reply = await post(server.ready.http, INFER, body.encode())
        assert (reply.status, "shape" in reply.json["error"]) == (400, True)


async def test_axes_whose_product_is_long(tmp_path):
    async with served(tmp_path) as server:
        request = asked(datatype="INT64", shape=[1, *[(1 << 63) - 1] * 31], raw=bytes(8))
        code, message, _ = await fake_engine.refusal(called(server, "ModelInfer", request))
        assert (code.name, "8 bytes" in message) == ("INVALID_ARGUMENT", True)


@pytest.mark.parametrize(
    ("uri", "word"),
    [
        ("HTTP://a/b.png", "fetches no URLs"),
        (" https://a/b.png", "fetches no URLs"),
        ("s3://a/b.png", "fetches no URLs"),
        ("file:/a", "fetches no URLs"),
        ("data:text/plain;base64,aGk=", "no data URI"),
        ("data:image/png,abc", "no data URI"),
        ("data:image/png;base64,!", "base64"),
        ("abc", "base64"),
    ],
)
async def test_what_is_no_data_uri(uri, word, tmp_path):
    async with served(tmp_path) as server:
        for path, body in (
            ("/v1/embeddings", {"input": [uri], "modality": "image"}),
            ("/v1/embeddings", {"messages": [{"content": [{"type": "image_url", "image_url": {"url": uri}}]}]}),
            ("/v1/embeddings", {"input": [{"image": uri}]}),
            ("/v2/embed", {"images": [uri]}),
        ):
            reply = await post(server.ready.http, path, body)
            assert (reply.status, "item 0" in reply.body.decode(), word in reply.body.decode()) == (400, True, True)


async def test_schemes_and_kinds_are_read_in_any_case(tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, "/v2/embed", {"images": ["DATA:Image/PNG;BASE64,aGk="]})
        assert reply.status == 200


async def test_a_part_without_its_picture_is_no_text(tmp_path):
    async with served(tmp_path) as server:
        part = {"type": "image_url", "text": "hello"}
        await post(server.ready.http, "/v1/embeddings", {"messages": [{"content": [part]}]})
        assert not [item for _, items in server.engine.asked for item in items if getattr(item, "text", "")]


@pytest.mark.parametrize("value", [None, 0, 1.5, "true", [True], {}])
async def test_flags_that_are_neither_true_nor_false(value, tmp_path):
    async with served(tmp_path) as server:
        for path, body, word in (
            (INFER, {"inputs": [TEXTS], "parameters": {"binary_data_output": value}}, "binary_data_output"),
            (INFER, {"inputs": [TEXTS], "outputs": [{"name": "pooled", "parameters": {"binary_data": value}}]}, "binary_data"),
            ("/v2/repository/models/ready/unload", {"parameters": {"unload_dependents": value}}, "unload_dependents"),
        ):
            reply = await post(server.ready.http, path, body)
            assert (reply.status, word in reply.json["error"]) == (400, True), reply.body


async def test_errors_tell_of_surrogates_as_far_as_they_can(tmp_path):
    async with served(tmp_path) as server:
        for value in (rb'"\ud800"', rb'"\udc00\ud800"', rb'{"\ud800": 1}'):
            for path, key in (("/topwork.v1.Encoders/Embed", "message"), ("/v2/embed", "message"), ("/embed", "error")):
                field = {"/v2/embed": b"texts", "/embed": b"inputs"}.get(path, b"items")
                reply = await post(server.ready.http, path, b'{"%s": %s}' % (field, value), JSON)
                assert (reply.status in (400, 422), bool(reply.json[key])) == (True, True), reply.body


async def test_a_head_in_training_is_not_ready_at_any_door(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(toy_jobs.__file__).parent))
    async with served(tmp_path) as server:
        job = server.app.state.jobs.start("train", "late", "toy_jobs:creep", {})
        record = TrainingRecord(replace(sample_heads.head("late").definition, name="late"), job.id)
        server.app.state.heads._trainings.add(record)
        http = server.ready.http
        for path, body, status, key in (
            ("/v2/models/late/infer", {"inputs": [TEXTS]}, 503, "error"),
            ("/predict", {"inputs": "hello"}, 424, "error"),
            ("/topwork.v1.Heads/Predict", {"settings": {"heads": ["late"]}, "items": {"items": [{"text": "a"}]}}, 400, "message"),
        ):
            reply = await post(http, path, body, {"x-model": "late"})
            assert (reply.status, "in training" in reply.json[key]) == (status, True), reply.body
            assert "wait" in reply.json[key]
        assert (await get(http, "/v2/models/late/ready")).status == 400
        assert (await get(http, "/v2/models/late")).status == 503
        [found] = [one for one in (await post(http, "/v2/repository/index")).json if one["name"] == "late"]
        assert (found["state"], "training" in found["reason"]) == ("UNAVAILABLE", True)
        code, message, _ = await fake_engine.refusal(called(server, "ModelInfer", asked(b"a", model_name="late")))
        assert (code.name, "in training" in message) == ("UNAVAILABLE", True)
        stub = server.channel.unary_unary("/tei.v1.Predict/Predict", pb.PredictRequest.SerializeToString)
        code, message, _ = await fake_engine.refusal(stub(pb.PredictRequest(inputs="a"), metadata=[("x-model", "late")]))
        assert (code.name, "in training" in message) == ("FAILED_PRECONDITION", True)


async def test_outputs_that_are_named_twice_and_inputs_that_are_sent_twice(tmp_path):
    door_heads.publish(tmp_path, "mood")
    region = {"shared_memory_region": "a", "shared_memory_byte_size": 9}
    async with served(tmp_path) as server:
        for model, output in (("ready", "pooled"), ("mood", "probabilities")):
            path, ranked = f"/v2/models/{model}/infer", {"name": output, "parameters": {"classification": 2}}
            reply = await post(server.ready.http, path, {"inputs": [TEXTS], "outputs": [{"name": output}] * 100_000})
            assert (reply.status, f"{output}' is named twice" in reply.json["error"]) == (400, True)
            request = asked(b"a", outputs=[output] * 2, model_name=model)
            code, message, _ = await fake_engine.refusal(called(server, "ModelInfer", request))
            assert (code.name, "twice" in message) == ("INVALID_ARGUMENT", True)
        reply = await post(server.ready.http, path, {"inputs": [TEXTS], "outputs": [{"name": output}, ranked]})
        assert [one["datatype"] for one in reply.json["outputs"]] == ["FP32", "BYTES"]
        reply = await post(server.ready.http, INFER, {"inputs": [{**TEXTS, "parameters": region}]})
        assert (reply.status, "beside shared_memory_region" in reply.json["error"]) == (400, True)
