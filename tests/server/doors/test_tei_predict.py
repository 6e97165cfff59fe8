"""TEI's classifiers, over both wires: heads of classes and labels on texts and on pairs of texts."""

from __future__ import annotations

import asyncio

import door_heads
import fake_engine
import grpc
import huggingface_hub
import numpy as np
import pytest
from http_calls import get, post
from huggingface_hub import InferenceClient
from topwork_server import TextItem
from topwork_server.doors.protocols import tei_pb2

MOOD = {"x-model": "mood"}


def served(home, *heads, **settings):
    door_heads.publish(home, *(heads or ("mood", "tags", "size", "ready")))
    return fake_engine.served(home, http="127.0.0.1:0", **settings)


def probabilities(text):
    """Of the classes of `mood`, in their own order."""
    scores = np.exp([0, len(text) - 3, 2 * len(text) - 12])
    return scores / scores.sum()


def method(server, name, kind=tei_pb2.PredictRequest, call="unary_unary"):
    return getattr(server.channel, call)(f"/tei.v1.Predict/{name}", kind.SerializeToString, tei_pb2.PredictResponse.FromString)


async def test_a_text_has_all_classes_the_best_first(tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, "/predict", {"inputs": "hello"}, MOOD)
        assert [one["label"] for one in reply.json] == ["long", "short", "huge: very"]
        expected = sorted(probabilities("hello"), reverse=True)
        assert [one["score"] for one in reply.json] == pytest.approx(expected, abs=1e-5)
        assert (reply.headers["x-fingerprint"], reply.headers["x-compute-characters"]) == ("a" * 64, "5")
        assert reply.headers["x-queue-time"] == "500"
        assert server.app.requests.counts["Tei.Predict", "OK"] == 1


async def test_raw_scores_are_those_before_the_softmax(tmp_path):
    door_heads.publish(tmp_path, "mood", temperature=4.0)
    async with fake_engine.served(tmp_path, http="127.0.0.1:0") as server:
        raw = await post(server.ready.http, "/predict", {"inputs": "hello", "raw_scores": True}, MOOD)
        assert [(one["label"], one["score"]) for one in raw.json] == [("long", 2), ("short", 0), ("huge: very", -2)]
        cooled = np.exp(np.array([2, 0, -2]) / 4)
        plain = await post(server.ready.http, "/predict", {"inputs": "hello"}, MOOD)
        assert [one["score"] for one in plain.json] == pytest.approx(cooled / cooled.sum(), abs=1e-5)


@pytest.mark.parametrize(
    ("inputs", "items", "batch"),
    [
        ("a", [TextItem("a")], False),
        (["a"], [TextItem("a")], False),
        (["a", "b"], [TextItem("a", "b")], False),
        ([["a"]], [TextItem("a")], True),
        ([["a"], ["b", "c"]], [TextItem("a"), TextItem("b", "c")], True),
    ],
)
async def test_inputs_are_texts_pairs_and_lists_of_them(inputs, items, batch, tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, "/predict", {"inputs": inputs}, MOOD)
        assert server.engine.asked[-1][1] == items
        lists = reply.json if batch else [reply.json]
        assert [len(one) for one in lists] == [3] * len(items)


async def test_a_head_of_labels_and_settings_of_the_request(tmp_path):
    async with served(tmp_path) as server:
        headers = {"x-model": "tags", "x-priority": "high", "x-timeout-ms": "60000"}
        reply = await post(server.ready.http, "/predict", {"inputs": "hello", "truncate": True}, headers)
        labels = {one["label"]: one["score"] for one in reply.json}
        assert labels == pytest.approx({"a": 1 / (1 + np.e), "b": 1 / (1 + np.exp(-2))}, abs=1e-5)
        params, _ = server.engine.asked[-1]
        assert (params.options, params.priority.name) == ({"truncate": True}, "HIGH")
        assert params.deadline is not None


async def test_options_of_the_training_stay_where_texts_are_cut(tmp_path):
    door_heads.publish(tmp_path, "mood", encoder_options={"scale": 2})
    async with fake_engine.served(tmp_path, http="127.0.0.1:0") as server:
        await post(server.ready.http, "/predict", {"inputs": "hello", "truncate": True}, MOOD)
        await post(server.ready.http, "/predict", {"inputs": "hello"}, MOOD)
        assert [params.options for params, _ in server.engine.asked] == [{"scale": 2, "truncate": True}, {"scale": 2}]


async def test_an_encoder_that_came_with_one_classifier_is_one(tmp_path):
    async with served(tmp_path / "home", "tags", default_encoder="ready") as server:
        refused = await post(server.ready.http, "/predict", {"inputs": "hello"})
        assert (refused.status, refused.json["error_type"]) == (424, "Backend")
        door_heads.bring(server, tmp_path / "one", "mood", "size")
        assert (await post(server.ready.http, "/predict", {"inputs": "hello"})).json[0]["label"] == "long"
        by_name = await post(server.ready.http, "/predict", {"inputs": "hello"}, {"x-model": "ready/mood"})
        assert by_name.json[0]["label"] == "long"
        door_heads.bring(server, tmp_path / "two", "mood", "tags")
        several = await post(server.ready.http, "/predict", {"inputs": "hello"})
        assert (several.status, "ready/mood or ready/tags" in several.json["error"]) == (422, True)


async def test_the_root_and_info_are_by_the_kind_of_the_model(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # it would refuse this machine's address too
    async with served(tmp_path, default_encoder="ready") as server:
        assert len((await post(server.ready.http, "/", {"inputs": "hello"})).json[0]) == fake_engine.DIM
        for path in ("/", "/invocations"):
            assert (await post(server.ready.http, path, {"inputs": "hello"}, MOOD)).json[0]["label"] == "long"
        client = InferenceClient(f"http://{server.ready.http}", headers=MOOD, timeout=30)
        found = await asyncio.to_thread(client.text_classification, "hello")
        assert found.label == "long"  # of TEI's list, which the client takes for one of several
        told = (await get(server.ready.http, "/info", MOOD)).json
        assert (told["model_id"], told["model_sha"]) == ("mood", "a" * 64)
        assert told["model_type"] == {
            "classifier": {
                "id2label": {"0": "short", "1": "long", "2": "huge: very"},
                "label2id": {"short": 0, "long": 1, "huge: very": 2},
            }
        }
        assert "embedding" in (await get(server.ready.http, "/info")).json["model_type"]
        assert (await get(server.ready.http, "/health", MOOD)).status == 200
        assert (await get(server.ready.http, "/health", {"x-model": "head:nosuch"})).status == 503
        info = server.channel.unary_unary(
            "/tei.v1.Info/Info", tei_pb2.InfoRequest.SerializeToString, tei_pb2.InfoResponse.FromString
        )
        told = await info(b"", metadata=[("x-model", "head:ready")])
        assert (told.model_type, told.model_id) == (tei_pb2.MODEL_TYPE_CLASSIFIER, "ready")


async def test_texts_and_pairs_over_grpc(tmp_path):
    async with served(tmp_path) as server:
        model = [("x-model", "mood")]
        call = method(server, "Predict")(tei_pb2.PredictRequest(inputs="hello", raw_scores=True), metadata=model)
        reply = await call
        assert [(one.label, one.score) for one in reply.predictions] == [("long", 2), ("short", 0), ("huge: very", -2)]
        assert (reply.metadata.compute_chars, reply.metadata.queue_time_ns) == (5, 500_000_000)
        assert ("x-fingerprint", "a" * 64) in [tuple(one) for one in await call.trailing_metadata()]
        pair = tei_pb2.PredictPairRequest(inputs=["hello", "you"], truncate=True)
        await method(server, "PredictPair", tei_pb2.PredictPairRequest)(pair, metadata=model)
        params, items = server.engine.asked[-1]
        assert (params.options, items) == ({"truncate": True}, [TextItem("hello", "you")])
        for texts in ([], ["a"], ["a", "b", "c"]):
            wrong = method(server, "PredictPair", tei_pb2.PredictPairRequest)(
                tei_pb2.PredictPairRequest(inputs=texts), metadata=model
            )
            code, message, _ = await fake_engine.refusal(wrong)
            assert (code, f"{len(texts)} texts" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)


@pytest.mark.parametrize(("name", "kind"), [("PredictStream", "PredictRequest"), ("PredictPairStream", "PredictPairRequest")])
async def test_streams_answer_in_order(name, kind, tmp_path):
    async with served(tmp_path) as server:
        kind = getattr(tei_pb2, kind)
        stream = method(server, name, kind, "stream_stream")(metadata=[("x-model", "mood")])
        for text in ("hello", "a"):
            await stream.write(kind(inputs=text if name == "PredictStream" else [text, "b"]))
        await stream.done_writing()
        assert [reply.predictions[0].label async for reply in stream] == ["long", "short"]
        assert all(params.wait for params, _ in server.engine.asked)


#: Bodies, headers, the status and TEI's kind of each, and a word of its message.
WRONG = {
    "no model": ({"inputs": "a"}, {}, 422, "Validation", "x-model"),
    "unknown": ({"inputs": "a"}, {"x-model": "moot"}, 404, "Validation", "mood"),
    "a regression": ({"inputs": "a"}, {"x-model": "size"}, 424, "Backend", "regression"),
    "nothing": ({"inputs": []}, MOOD, 400, "Empty", "no inputs"),
    "an empty one": ({"inputs": [[]]}, MOOD, 422, "Validation", "item 0"),
    "three": ({"inputs": ["a", "b", "c"]}, MOOD, 422, "Validation", "pair"),
    "mixed": ({"inputs": [["a"], "b"]}, MOOD, 422, "Validation", "item 1"),
    "numbers": ({"inputs": [1]}, MOOD, 422, "Validation", "inputs"),
    "too many": ({"inputs": [["a"]] * 5}, MOOD, 422, "Validation", "at most 4"),
    "a bad one": ({"inputs": [["a"], ["bad"]]}, MOOD, 422, "Validation", "item 1"),
    "fingerprint": ({"inputs": "a"}, {**MOOD, "x-fingerprint": "0"}, 424, "Backend", "fingerprint"),
    "left": ({"inputs": "a", "truncate": True, "truncation_direction": "left"}, MOOD, 422, "Validation", "truncation_direction"),
    "crash": ({"inputs": "crash"}, MOOD, 424, "Backend", "internal error"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong_requests(wrong, tmp_path):
    body, headers, status, kind, word = WRONG[wrong]
    async with served(tmp_path, max_items=4) as server:
        reply = await post(server.ready.http, "/predict", body, headers)
        assert (reply.status, reply.json["error_type"], word in reply.json["error"]) == (status, kind, True), reply.body
        assert (await post(server.ready.http, "/predict", {"inputs": "hello"}, MOOD)).status == 200
        wrong_method = await get(server.ready.http, "/predict")
        assert (wrong_method.status, wrong_method.json["error_type"]) == (405, "Validation")
