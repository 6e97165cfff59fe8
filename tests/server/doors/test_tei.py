"""TEI's routes and methods, by the hub's own client, and by hand where that cannot be made to err."""

from __future__ import annotations

import asyncio
import copy

import fake_engine
import grpc
import huggingface_hub.constants
import numpy as np
import pytest
from http_calls import get, post
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from topwork_server import Prompt, Role
from topwork_server.doors.protocols import tei_pb2 as pb
from topwork_server.errors import ExportFailed, InvalidInput, NotReady, Overloaded, Unavailable

READY = {"x-model": "ready"}


def served(home, **settings):
    return fake_engine.served(home, **{"http": "127.0.0.1:0", "default_encoder": "ready", **settings})


def unary(server, method, reply):
    """A stub of a method of tei.v1, as generated code has it."""
    return server.channel.unary_unary(f"/tei.v1.{method}", None, reply.FromString)


def stream(server, method, reply):
    return server.channel.stream_stream(f"/tei.v1.{method}", lambda one: one.SerializeToString(), reply.FromString)


@pytest.fixture
def online(monkeypatch):
    """The hub's client refuses any address, this machine's too, where the environment says that there is no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def inference(server):
    return InferenceClient(f"http://{server.ready.http}", headers=READY, timeout=30)


async def test_a_name_of_a_role_stands_for_the_prompt_that_the_model_has_for_it(online, tmp_path, monkeypatch):
    prompts = [Prompt("search_query", "Q: ", Role.QUERY), Prompt("passage", "P: ", Role.DOCUMENT)]
    monkeypatch.setattr(fake_engine.FakeEncoder, "prompts", classmethod(lambda cls, folder: prompts))
    async with fake_engine.served(tmp_path, http="127.0.0.1:0", default_encoder="ready") as server:
        for name, role, options in (
            ("query", Role.QUERY, {}),
            ("document", Role.DOCUMENT, {}),
            ("passage", None, {"prompt_name": "passage"}),
            ("title", None, {"prompt_name": "title"}),
        ):
            await asyncio.to_thread(inference(server).feature_extraction, "hi", prompt_name=name)
            asked = server.engine.asked[-1][0]
            assert (asked.role, asked.options) == (role, options)


async def test_the_hubs_client_gets_rows_of_unit_length(online, tmp_path):
    async with served(tmp_path) as server:
        rows = await asyncio.to_thread(inference(server).feature_extraction, ["hello", "a"])
        assert rows.shape == (2, fake_engine.DIM)
        assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 1], abs=1e-6)
        raw = await asyncio.to_thread(inference(server).feature_extraction, "hello", normalize=False, truncate=True)
        assert raw[0, 0] == 5
        assert server.engine.asked[-1][0].options == {"truncate": True}
        assert server.app.requests.counts["Tei.ByKind", "OK"] == 2


async def test_the_hubs_client_compares_sentences_and_tells_what_was_wrong(online, tmp_path):
    async with served(tmp_path) as server:
        client = InferenceClient(f"http://{server.ready.http}/similarity", headers=READY, timeout=30)
        found = await asyncio.to_thread(client.sentence_similarity, "hello", ["hello", "hi"])
        assert found[0] == pytest.approx(1, abs=1e-6)
        assert found[1] < found[0]
        with pytest.raises(HfHubHTTPError, match="good one"):
            await asyncio.to_thread(inference(server).feature_extraction, "bad")


@pytest.mark.parametrize("path", ["/", "/embed", "/invocations"])
async def test_each_path_embeds_and_tells_what_it_took(path, tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, path, {"inputs": ["hello", [1, 2]], "dimensions": 1, "normalize": False})
        assert reply.json == [[5], [3]]
        assert reply.headers["x-fingerprint"] == "a" * 64
        told = {name: reply.headers[f"x-{name}-time"] for name in ("tokenization", "queue", "inference")}
        assert told == {"tokenization": "250", "queue": "500", "inference": "125"}
        assert (reply.headers["x-compute-type"], reply.headers["x-compute-characters"]) == ("cpu", "5")
        assert {"x-total-time", "x-compute-time", "x-compute-tokens", "x-request-id"} <= reply.headers.keys()


async def test_a_model_is_named_by_the_header_or_the_server(tmp_path):
    async with served(tmp_path, default_encoder="") as server:
        missing = await post(server.ready.http, "/embed", {"inputs": "x"})
        assert (missing.status, missing.json["error_type"]) == (422, "Validation")
        assert "x-model" in missing.json["error"]
        assert (await post(server.ready.http, "/embed", {"inputs": "x"}, READY)).status == 200
        mixed = await post(server.ready.http, "/embed", {"inputs": "x"}, {**READY, "x-fingerprint": "0" * 64})
        assert (mixed.status, mixed.json["error_type"]) == (424, "Backend")


async def test_tokens_have_rows_and_texts_have_tokens(tmp_path):
    async with served(tmp_path) as server:
        rows = (await post(server.ready.http, "/embed_all", {"inputs": ["hi", "abc"]})).json
        assert [len(one) for one in rows] == [2, 3]
        [tokens] = (await post(server.ready.http, "/tokenize", {"inputs": "hi", "prompt_name": "q"})).json
        assert tokens[0] == {"id": 1, "text": "[BEGIN]", "special": True, "start": None, "stop": None}
        assert tokens[2] == {"id": ord("h"), "text": "h", "special": False, "start": 1, "stop": 2}
        plain = (await post(server.ready.http, "/tokenize", {"inputs": ["hi"], "add_special_tokens": False})).json
        assert [one["text"] for one in plain[0]] == ["h", "i"]
        assert (await post(server.ready.http, "/decode", {"ids": [1, 104, 105]})).json == ["hi"]
        ids = {"ids": [[1, 104], [105]], "skip_special_tokens": False}
        assert (await post(server.ready.http, "/decode", ids)).json == ["[BEGIN]h", "i"]


async def test_openais_route_is_there_without_a_version(tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, "/embeddings", {"input": "hello"})
        assert reply.json["data"][0]["embedding"][0] == pytest.approx(5 / np.sqrt(26), abs=1e-6)


async def test_vertex_sends_several_requests_at_once(tmp_path):
    async with served(tmp_path) as server:
        instances = [{"inputs": "hello", "normalize": False}, {"inputs": ["a", "bc"]}]
        reply = await post(server.ready.http, "/vertex", {"instances": instances})
        assert [len(one) for one in reply.json["predictions"]] == [1, 2]
        assert reply.json["predictions"][0][0][0] == 5
        assert (await post(server.ready.http, "/vertex", {"instances": []})).status == 422


async def test_the_model_is_described(tmp_path):
    async with served(tmp_path) as server:
        info = (await get(server.ready.http, "/info")).json
        assert (info["model_id"], info["model_sha"], info["model_dtype"]) == ("ready", "a" * 64, "float32")
        assert info["model_type"] == {"embedding": {"pooling": "pooled"}}
        assert (info["max_input_length"], info["max_client_batch_size"], info["auto_truncate"]) == (16, 1024, False)


@pytest.mark.parametrize("path", ["/", "/health", "/ping"])
async def test_health_is_that_of_the_encoder(path, tmp_path):
    async with served(tmp_path) as server:
        assert (await get(server.ready.http, path)).status == 200
        for name in ("absent", "nosuch"):
            reply = await get(server.ready.http, path, {"x-model": name})
            assert (reply.status, reply.json["error_type"]) == (503, "Unhealthy")
        server.app.requests.refuse()
        assert (await get(server.ready.http, path)).status == 503


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "word"),
    [
        ("/embed", b"", 422, "Validation", "empty"),
        ("/embed", b"{", 422, "Validation", "JSON"),
        ("/embed", b"\xff", 422, "Validation", "JSON"),
        ("/embed", b"[" * 5_000_000, 422, "Validation", "body"),
        ("/embed", b'{"inputs": ' + b"[" * 5_000_000, 422, "Validation", "body"),
        ("/embed", {}, 422, "Validation", "inputs"),
        ("/embed", {"inputs": 1}, 422, "Validation", "inputs"),
        ("/embed", {"inputs": [["x"]]}, 422, "Validation", "inputs"),
        ("/embed", {"inputs": []}, 400, "Empty", "no inputs"),
        ("/embed", {"inputs": [[]]}, 422, "Validation", "token ids"),
        ("/embed", {"inputs": [1, -2]}, 422, "Validation", "token ids"),
        ("/embed", {"inputs": ["x"] * 1025}, 422, "Validation", "1,024"),
        ("/embed", {"inputs": ["x", "bad"]}, 422, "Validation", "item 1"),
        ("/embed", {"inputs": "x", "dimensions": -1}, 422, "Validation", "-1"),
        ("/embed", {"inputs": "x", "dimensions": 1000}, 422, "Validation", "1000"),
        ("/embed", {"inputs": "x", "truncate": "yes"}, 422, "Validation", "truncate"),
        ("/embed", {"inputs": "x", "truncate": True, "truncation_direction": "Left"}, 422, "Validation", "left"),
        ("/embed", {"inputs": "x", "truncation_direction": "up"}, 422, "Validation", "up"),
        ("/embed", {"inputs": "crash"}, 424, "Backend", "internal error"),
        ("/embed_all", {"inputs": []}, 400, "Empty", "no inputs"),
        ("/embed_sparse", {"inputs": "x"}, 424, "Backend", "sparse"),
        ("/similarity", {"inputs": {"source_sentence": "x", "sentences": []}}, 400, "Empty", "sentences"),
        ("/similarity", {"inputs": "x"}, 422, "Validation", "inputs"),
        ("/tokenize", {"inputs": []}, 400, "Empty", "no inputs"),
        ("/tokenize", {"inputs": "x" * (1 << 18) + "y"}, 422, "Validation", "262,145 characters"),
        ("/decode", {"ids": []}, 400, "Empty", "no inputs"),
        ("/decode", {"ids": [-1]}, 422, "Validation", "token ids"),
        ("/vertex", {"instances": [{"inputs": "x"}, {"inputs": "bad"}]}, 422, "Validation", "good one"),
    ],
)
async def test_errors_have_teis_form_and_status(path, body, status, kind, word, tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, path, body)
        assert (reply.status, reply.json["error_type"]) == (status, kind)
        assert word in reply.json["error"]
        assert (await post(server.ready.http, "/embed", {"inputs": "x"})).status == 200


@pytest.mark.parametrize("path", ["/embed", "/embed_all", "/info"])
async def test_an_unknown_model_is_named(path, tmp_path):
    async with served(tmp_path) as server:
        named = {"x-model": "nosuch"}
        reply = await (
            get(server.ready.http, path, named) if path == "/info" else post(server.ready.http, path, {"inputs": "x"}, named)
        )
        assert (reply.status, reply.json["error_type"]) == (404, "Validation")
        assert "nosuch" in reply.json["error"]


async def test_an_encoder_without_a_tokenizer_tells_so(tmp_path):
    async with served(tmp_path, default_encoder="words") as server:
        reply = await post(server.ready.http, "/tokenize", {"inputs": "x"})
        assert (reply.status, reply.json["error_type"]) == (422, "Validation")
        assert "words" in reply.json["error"]


async def test_a_full_queue_and_a_deadline_are_told(tmp_path, monkeypatch):
    async with served(tmp_path) as server:
        late = await post(server.ready.http, "/embed", {"inputs": "wait"}, {"x-timeout-ms": "50"})
        assert (late.status, late.json["error_type"]) == (504, "Overloaded")

        async def full(*_):
            raise Overloaded("the queue is full", retry_after=0.25)

        monkeypatch.setattr(server.engine, "embed", full)
        reply = await post(server.ready.http, "/embed", {"inputs": "x"})
        assert (reply.status, reply.json["error_type"], reply.headers["retry-after-ms"]) == (429, "Overloaded", "250")


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (Unavailable("stopping"), 503, "Unhealthy", grpc.StatusCode.UNAVAILABLE),
        (NotReady("no weights"), 424, "Backend", grpc.StatusCode.FAILED_PRECONDITION),
        (ExportFailed("no graph"), 424, "Backend", grpc.StatusCode.FAILED_PRECONDITION),
        (Overloaded("full"), 429, "Overloaded", grpc.StatusCode.RESOURCE_EXHAUSTED),
        (InvalidInput("too long"), 422, "Validation", grpc.StatusCode.INVALID_ARGUMENT),
        (RuntimeError("a secret"), 424, "Backend", grpc.StatusCode.INTERNAL),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
async def test_each_kind_of_error_has_teis_status_on_both_wires(error, status, kind, code, tmp_path, monkeypatch):
    async with served(tmp_path) as server:

        async def failing(*_):
            raise copy.copy(error)

        monkeypatch.setattr(server.engine, "embed", failing)
        for path, body in (
            ("/embed", {"inputs": "x"}),
            ("/embed_all", {"inputs": "x"}),
            ("/similarity", {"inputs": {"source_sentence": "x", "sentences": ["y"]}}),
            ("/rerank", {"query": "x", "texts": ["y"]}),
        ):
            reply = await post(server.ready.http, path, body)
            assert (path, reply.status, reply.json["error_type"]) == (path, status, kind)
            assert reply.json.keys() == {"error", "error_type"}
            assert "secret" not in reply.json["error"]
        for method, request in (
            ("Embed/Embed", pb.EmbedRequest(inputs="x")),
            ("Embed/EmbedAll", pb.EmbedAllRequest(inputs="x")),
            ("Rerank/Rerank", pb.RerankRequest(query="x", texts=["y"])),
        ):
            call = unary(server, method, pb.EmbedResponse)
            found, _, info = await fake_engine.refusal(call(request.SerializeToString()))
            assert (found, info.reason) == (code, "TopworkError" if isinstance(error, RuntimeError) else type(error).__name__)
        embed = stream(server, "Embed/EmbedStream", pb.EmbedResponse)(iter([pb.EmbedRequest(inputs="x")]))
        assert (await fake_engine.refusal(anext(aiter(embed))))[0] is code
        rank = server.channel.stream_unary(
            "/tei.v1.Rerank/RerankStream", lambda one: one.SerializeToString(), pb.RerankResponse.FromString
        )
        assert (await fake_engine.refusal(rank(iter([pb.RerankStreamRequest(query="x", text="y")]))))[0] is code


async def test_a_body_over_the_limit_is_413(tmp_path):
    async with served(tmp_path) as server:
        for path in ("/embed", "/rerank", "/tokenize"):
            reply = await post(server.ready.http, path, b"{", {"content-length": str((64 << 20) + 1)})
            assert (path, reply.status, reply.json["error_type"]) == (path, 413, "Validation")


async def test_grpc_embeds_and_tells_what_it_took(tmp_path):
    async with served(tmp_path) as server:
        embed = unary(server, "Embed/Embed", pb.EmbedResponse)
        call = embed(pb.EmbedRequest(inputs="hello", normalize=False, dimensions=2, truncate=True).SerializeToString())
        reply = await call
        assert list(reply.embeddings) == [5, 1]
        took = reply.metadata
        assert (took.compute_chars, took.tokenization_time_ns, took.queue_time_ns) == (5, 250_000_000, 500_000_000)
        assert took.inference_time_ns == 125_000_000
        assert ("x-fingerprint", "a" * 64) in list(await call.trailing_metadata())
        assert server.engine.asked[-1][0].options == {"truncate": True}
        unit = await embed(pb.EmbedRequest(inputs="hello").SerializeToString())
        assert np.linalg.norm(unit.embeddings) == pytest.approx(1, abs=1e-6)
        assert server.app.requests.counts["tei.v1.Embed/Embed", "OK"] == 2


async def test_grpc_names_a_model_in_metadata(tmp_path):
    async with served(tmp_path, default_encoder="") as server:
        embed, request = unary(server, "Embed/Embed", pb.EmbedResponse), pb.EmbedRequest(inputs="x").SerializeToString()
        assert (await embed(request, metadata=[("x-model", "ready")])).embeddings
        for metadata, code in (
            ([], grpc.StatusCode.INVALID_ARGUMENT),
            ([("x-model", "nosuch")], grpc.StatusCode.NOT_FOUND),
            ([("x-model", "ready"), ("x-fingerprint", "0" * 64)], grpc.StatusCode.FAILED_PRECONDITION),
            ([("x-model", "ready"), ("x-priority", "urgent")], grpc.StatusCode.INVALID_ARGUMENT),
        ):
            assert (await fake_engine.refusal(embed(request, metadata=metadata)))[0] is code


async def test_grpc_streams_answer_in_order_and_end_with_the_first_error(tmp_path):
    async with served(tmp_path) as server:
        embed = stream(server, "Embed/EmbedStream", pb.EmbedResponse)
        texts = ["a" * (1 + i % 7) for i in range(200)]
        call = embed(iter([pb.EmbedRequest(inputs=text, normalize=False) for text in texts]))
        assert [reply.embeddings[0] async for reply in call] == [len(text) for text in texts]
        assert ("x-fingerprint", "a" * 64) in list(await call.trailing_metadata())
        assert server.engine.asked[-1][0].wait
        failing = embed(iter([pb.EmbedRequest(inputs=text) for text in ("hi", "bad", "bad", "hi")]))
        replies = []

        async def read():
            async for reply in failing:
                replies.append(reply)

        code, message, _ = await fake_engine.refusal(read())
        assert (code, len(replies)) == (grpc.StatusCode.INVALID_ARGUMENT, 1)
        assert "good one" in message
        tokens = stream(server, "Embed/EmbedAllStream", pb.EmbedAllResponse)
        found = [
            len(one.token_embeddings) async for one in tokens(iter([pb.EmbedAllRequest(inputs=text) for text in ("hi", "abc")]))
        ]
        assert found == [2, 3]


async def test_grpc_tells_tokens_and_describes_the_model(tmp_path):
    async with served(tmp_path) as server:
        rows = await unary(server, "Embed/EmbedAll", pb.EmbedAllResponse)(pb.EmbedAllRequest(inputs="hi").SerializeToString())
        assert [len(one.embeddings) for one in rows.token_embeddings] == [fake_engine.DIM] * 2
        encode = unary(server, "Tokenize/Tokenize", pb.EncodeResponse)
        whole = await encode(pb.EncodeRequest(inputs="h", add_special_tokens=True).SerializeToString())
        assert [(one.id, one.special, one.HasField("start")) for one in whole.tokens] == [(1, True, False), (104, False, True)]
        assert [one.text for one in (await encode(pb.EncodeRequest(inputs="hi").SerializeToString())).tokens] == ["h", "i"]
        decode = unary(server, "Tokenize/Decode", pb.DecodeResponse)
        assert (await decode(pb.DecodeRequest(ids=[1, 104]).SerializeToString())).text == "[BEGIN]h"
        info = await unary(server, "Info/Info", pb.InfoResponse)(b"")
        assert (info.model_id, info.model_sha, info.max_input_length) == ("ready", "a" * 64, 16)


@pytest.mark.parametrize(
    ("method", "reply", "request_", "code", "word"),
    [
        ("Embed/Embed", pb.EmbedResponse, pb.EmbedRequest(inputs="bad"), grpc.StatusCode.INVALID_ARGUMENT, "good one"),
        ("Embed/Embed", pb.EmbedResponse, pb.EmbedRequest(inputs="crash"), grpc.StatusCode.INTERNAL, "internal error"),
        (
            "Embed/Embed",
            pb.EmbedResponse,
            pb.EmbedRequest(inputs="x", truncate=True, truncation_direction=pb.TRUNCATION_DIRECTION_LEFT),
            grpc.StatusCode.INVALID_ARGUMENT,
            "left",
        ),
        ("Embed/Embed", pb.EmbedResponse, pb.EmbedRequest(inputs="x", dimensions=99), grpc.StatusCode.INVALID_ARGUMENT, "99"),
        (
            "Embed/EmbedSparse",
            pb.EmbedSparseResponse,
            pb.EmbedSparseRequest(inputs="x"),
            grpc.StatusCode.FAILED_PRECONDITION,
            "sparse",
        ),
        ("Tokenize/Decode", pb.DecodeResponse, pb.DecodeRequest(), grpc.StatusCode.INVALID_ARGUMENT, "token ids"),
    ],
)
async def test_grpc_errors_have_teis_codes(method, reply, request_, code, word, tmp_path):
    async with served(tmp_path) as server:
        found, message, _ = await fake_engine.refusal(unary(server, method, reply)(request_.SerializeToString()))
        assert found is code
        assert word in message


async def test_grpc_takes_long_texts_and_refuses_bytes_that_are_no_message(tmp_path):
    async with served(tmp_path) as server:
        embed = unary(server, "Embed/Embed", pb.EmbedResponse)
        long = pb.EmbedRequest(inputs="a" * 5_000_000, normalize=False)
        assert (await embed(long.SerializeToString())).embeddings[0] == 5_000_000
        assert (await fake_engine.refusal(embed(b"\xff" * 5_000_000)))[0] is grpc.StatusCode.INVALID_ARGUMENT
