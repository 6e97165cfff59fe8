"""Reranking, by Cohere's own client, and in the forms of Jina, TEI and vLLM; the encoder `ranker` prefers long documents."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import cohere
import fake_engine
import grpc
import httpx
import pytest
from http_calls import get, post
from topwork_server import TextItem
from topwork_server.doors.protocols import tei_pb2 as pb

DOCUMENTS = ["aa", "aaaa", "a"]
RANK = {"model": "ranker", "query": "aa", "documents": DOCUMENTS}
TEI = {"query": "aa", "texts": DOCUMENTS}


@asynccontextmanager
async def served(home, **settings):
    async with fake_engine.served(home, http="127.0.0.1:0", **settings) as server:
        server.catalog.add_ranker()
        yield server


async def called(server, client, **fields):
    """What Cohere's client makes of the reply; it runs in another thread."""
    with httpx.Client() as connection:
        made = client(api_key="any", base_url=f"http://{server.ready.http}", httpx_client=connection)
        return await asyncio.to_thread(made.rerank, **fields)


def sigmoid(score):
    return pytest.approx(1 / (1 + math.exp(-score)), abs=1e-6)


async def test_coheres_client_gets_the_documents_in_order(tmp_path):
    async with served(tmp_path) as server:
        found = await called(server, cohere.ClientV2, model="ranker", query="aa", documents=DOCUMENTS, top_n=2)
        assert [(one.index, one.relevance_score) for one in found.results] == [(1, sigmoid(2)), (0, sigmoid(0))]
        documents = [{"text": "b"}, "bbb"]
        found = await called(server, cohere.Client, model="ranker", query="aa", documents=documents, return_documents=True)
        assert [(one.index, one.document.text) for one in found.results] == [(1, "bbb"), (0, "b")]
        assert server.app.requests.counts["Rerank.Rerank", "OK"] == 2


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_pairs_go_to_the_encoder_as_one_request(path, tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, path, {**RANK, "documents": ["a", {"text": "bb"}], "raw_scores": True})
        assert reply.json["results"] == [{"index": 1, "relevance_score": 0.0}, {"index": 0, "relevance_score": -1.0}]
        assert reply.json["usage"]["total_tokens"] == 0
        assert reply.headers["x-fingerprint"] == fake_engine.SCORE.fingerprint
        [(params, items)] = server.engine.asked
        assert items == [TextItem("aa", "a"), TextItem("aa", "bb")]
        assert params.options == {"truncate": True}


async def test_equal_scores_stay_in_the_order_of_the_documents(tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, "/rerank", {**RANK, "documents": ["x", "yy", "z", "w"]})
        assert [one["index"] for one in reply.json["results"]] == [1, 0, 2, 3]


@pytest.mark.parametrize("path", ["/", "/invocations"])
async def test_teis_root_ranks_where_the_model_does(path, tmp_path):
    async with served(tmp_path, default_encoder="ranker") as server:
        reply = await post(server.ready.http, path, {**TEI, "raw_scores": True})
        assert reply.json == [{"index": i, "score": score} for i, score in ((1, 2.0), (0, 0.0), (2, -1.0))]
        wrong = await post(server.ready.http, path, {"inputs": "aa"})
        assert (wrong.status, wrong.json["error_type"], "query" in wrong.json["error"]) == (422, "Validation", True)
        wrong = await post(server.ready.http, path, TEI, {"x-model": "ready"})
        assert (wrong.status, wrong.json["error_type"], "inputs" in wrong.json["error"]) == (422, "Validation", True)


async def test_texts_tell_teis_form(tmp_path):
    async with served(tmp_path, default_encoder="ranker") as server:
        reply = await post(server.ready.http, "/rerank", {**TEI, "return_text": True})
        assert reply.json[0] == {"index": 1, "score": sigmoid(2), "text": "aaaa"}
        raw = await post(server.ready.http, "/rerank", {**TEI, "raw_scores": True, "truncate": True})
        assert raw.json == [{"index": i, "score": score} for i, score in ((1, 2.0), (0, 0.0), (2, -1.0))]
        assert [params.options for params, _ in server.engine.asked] == [{}, {"truncate": True}]


async def test_the_most_tokens_of_a_document_are_an_option_of_the_encoder(tmp_path):
    async with served(tmp_path) as server:
        assert (await post(server.ready.http, "/rerank", {**RANK, "max_tokens_per_doc": 7})).status == 200
        assert server.engine.asked[0][0].options == {"truncate": True, "pair_tokens": 7}


@pytest.mark.parametrize(
    ("body", "scores"),
    [
        ({"queries": "aa", "documents": DOCUMENTS}, [0, 2, -1]),
        ({"text_1": ["a", "aaa"], "text_2": ["b", "bb"]}, [0, -1]),
        ({"text_1": "a", "text_2": "bb"}, [1]),
    ],
)
@pytest.mark.parametrize("path", ["/score", "/v1/score"])
async def test_scores_come_in_the_order_of_the_pairs(path, body, scores, tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, path, {"model": "ranker", **body})
        assert [(one["index"], one["object"]) for one in reply.json["data"]] == [(i, "score") for i in range(len(scores))]
        assert [one["score"] for one in reply.json["data"]] == [sigmoid(score) for score in scores]


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"model": ""}, 400, "model"),
        ({"model": "ready"}, 400, "cross-encoder"),
        ({"model": "ready", "tap": "tokens"}, 400, "token"),
        ({"documents": None}, 400, "no documents"),
        ({"documents": []}, 400, "0 documents"),
        ({"documents": ["x"] * 2049}, 400, "2,048"),
        ({"documents": [{"title": "x"}]}, 400, "text"),
        ({"documents": [1]}, 400, "documents"),
        ({"texts": ["x"]}, 400, "both"),
        ({"query": None}, 400, "query"),
        ({"query": "bad"}, 400, "item 0"),
        ({"documents": ["x", "bad"]}, 400, "item 1"),
        ({"top_n": 0}, 400, "top_n"),
        ({"max_tokens_per_doc": -1}, 400, "max_tokens_per_doc"),
        ({"relevant_spans": {"mode": "sentence"}}, 400, "relevant_spans"),
        ({"query": "crash", "documents": ["x"], "model": "ready"}, 500, "internal error"),
    ],
)
async def test_what_cannot_be_ranked_is_told_in_coheres_form(fields, status, word, tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, "/v2/rerank", {**RANK, **fields})
        assert reply.status == status
        assert word in reply.json["message"]
        assert (await post(server.ready.http, "/v2/rerank", RANK)).status == 200


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"queries": "x"}, "text_2"),
        ({"queries": "x", "text_1": "x", "documents": "y"}, "both"),
        ({"queries": ["x", "y"], "documents": ["z"]}, "2 queries"),
        ({"queries": "x", "documents": []}, "0 documents"),
        ({"queries": [], "documents": []}, "0 documents"),
        ({"queries": {"x": 1}, "documents": ["z"]}, "queries"),
    ],
)
async def test_what_makes_no_pairs(body, word, tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, "/score", {"model": "ranker", **body})
        assert reply.status == 400
        assert word in reply.json["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 5_000_000])
async def test_bodies_that_are_no_request(body, tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, "/v2/rerank", body)
        assert reply.status == 400
        assert reply.json["message"]
        reply = await post(server.ready.http, "/rerank", body)
        assert (reply.status, reply.json["error_type"]) == (422, "Validation")


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_errors_have_the_form_of_the_body_at_each_path(path, tmp_path):
    async with served(tmp_path, default_encoder="ranker") as server:
        of_tei = await post(server.ready.http, path, {"query": "aa", "texts": ["x", "bad"]})
        assert (of_tei.status, of_tei.json["error_type"]) == (422, "Validation")
        assert "item 1" in of_tei.json["error"]
        of_cohere = await post(server.ready.http, path, {"query": "aa", "documents": ["texts", '"texts":', "bad"]})
        assert of_cohere.status == 400
        assert "item 2" in of_cohere.json["message"]
        broken = await post(server.ready.http, path, b'{"query": "aa", "texts": ["x"')
        assert broken.json["error_type"] == "Validation"


@pytest.mark.parametrize(
    ("fields", "status", "kind", "word"),
    [
        ({"texts": []}, 400, "Empty", "no inputs"),
        ({"texts": ["x"] * 1025}, 422, "Validation", "1,024"),
        ({"texts": [1]}, 422, "Validation", "texts"),
        ({"query": None}, 422, "Validation", "query"),
        ({"model": "ready"}, 424, "Backend", "cross-encoder"),
        ({"model": "ready", "query": "crash"}, 424, "Backend", "internal error"),
        ({"truncate": True, "truncation_direction": "Left"}, 422, "Validation", "left"),
        ({"top_n": 0}, 422, "Validation", "top_n"),
    ],
)
async def test_what_cannot_be_ranked_is_told_in_teis_form(fields, status, kind, word, tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, "/rerank", {"model": "ranker", **TEI, **fields})
        assert (reply.status, reply.json["error_type"]) == (status, kind)
        assert word in reply.json["error"]


async def test_teis_form_tells_what_it_took(tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, "/rerank", TEI, {"x-model": "ranker"})
        assert reply.headers["x-compute-characters"] == str(3 * len("aa") + sum(map(len, DOCUMENTS)))
        assert (reply.headers["x-tokenization-time"], reply.headers["x-queue-time"]) == ("250", "500")
        assert {"x-compute-tokens", "x-compute-time", "x-total-time", "x-inference-time"} <= reply.headers.keys()
        assert reply.headers["x-fingerprint"] == fake_engine.SCORE.fingerprint


def rerank(server, **fields):
    """A call of tei.v1.Rerank/Rerank."""
    call = server.channel.unary_unary("/tei.v1.Rerank/Rerank", None, pb.RerankResponse.FromString)
    return call(pb.RerankRequest(**fields).SerializeToString(), metadata=[("x-model", "ranker")])


def rerank_stream(server, requests):
    call = server.channel.stream_unary(
        "/tei.v1.Rerank/RerankStream", lambda one: one.SerializeToString(), pb.RerankResponse.FromString
    )
    return call(iter(requests), metadata=[("x-model", "ranker")])


async def test_a_model_that_ranks_is_described_as_a_reranker(tmp_path):
    async with served(tmp_path, default_encoder="ranker") as server:
        info = (await get(server.ready.http, "/info")).json
        assert info["model_type"] == {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
        call = server.channel.unary_unary("/tei.v1.Info/Info", None, pb.InfoResponse.FromString)
        assert (await call(b"")).model_type == pb.MODEL_TYPE_RERANKER
        assert (await call(b"", metadata=[("x-model", "ready")])).model_type == pb.MODEL_TYPE_EMBEDDING


async def test_grpc_ranks_and_tells_what_it_took(tmp_path):
    async with served(tmp_path) as server:
        call = rerank(server, query="aa", texts=DOCUMENTS, return_text=True, truncate=True)
        reply = await call
        assert [(one.index, one.text, one.score) for one in reply.ranks] == [
            (i, DOCUMENTS[i], sigmoid(score)) for i, score in ((1, 2), (0, 0), (2, -1))
        ]
        took = reply.metadata
        assert (took.compute_chars, took.tokenization_time_ns, took.queue_time_ns) == (13, 250_000_000, 500_000_000)
        assert ("x-fingerprint", fake_engine.SCORE.fingerprint) in list(await call.trailing_metadata())
        assert server.engine.asked[0][0].options == {"truncate": True}
        raw = await rerank(server, query="aa", texts=DOCUMENTS, raw_scores=True)
        assert [(one.score, one.HasField("text")) for one in raw.ranks] == [(2, False), (0, False), (-1, False)]
        assert server.app.requests.counts["tei.v1.Rerank/Rerank", "OK"] == 2


async def test_grpc_ranks_a_stream_as_one(tmp_path):
    async with served(tmp_path, max_items=64) as server:
        lengths = [(i * 7) % 150 for i in range(150)]  # each once
        texts = ["x" * (1 + length) for length in lengths]
        first = pb.RerankStreamRequest(query="a", text=texts[0], raw_scores=True, return_text=True)
        call = rerank_stream(server, [first, *(pb.RerankStreamRequest(query="a", text=text) for text in texts[1:])])
        reply = await call
        assert [one.score for one in reply.ranks] == list(range(149, -1, -1))
        assert all(one.text == texts[one.index] for one in reply.ranks)
        assert reply.metadata.compute_chars == 150 + sum(map(len, texts))
        assert reply.metadata.queue_time_ns == 3 * 500_000_000
        assert [len(items) for _, items in server.engine.asked] == [64, 64, 22]
        assert all(params.wait for params, _ in server.engine.asked)
        assert ("x-fingerprint", fake_engine.SCORE.fingerprint) in list(await call.trailing_metadata())


async def test_each_text_of_a_stream_may_be_cut_or_not(tmp_path):
    async with served(tmp_path) as server:
        cut = [False, True, True, False]
        reply = await rerank_stream(server, [pb.RerankStreamRequest(query="a", text="x", truncate=one) for one in cut])
        assert len(reply.ranks) == 4
        assert [(params.options, len(items)) for params, items in server.engine.asked] == [
            ({}, 1),
            ({"truncate": True}, 2),
            ({}, 1),
        ]


async def test_grpc_tells_what_cannot_be_ranked(tmp_path):
    async with served(tmp_path, max_items=4) as server:
        invalid, failed = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
        for fields, code, word in (
            ({"texts": []}, invalid, "no inputs"),
            ({"texts": ["x"] * 5}, invalid, "at most 4"),
            ({"texts": ["x", "bad"]}, invalid, "item 1"),
            ({"texts": ["x"], "truncation_direction": 1, "truncate": True}, invalid, "left"),
            ({"texts": ["x"], "truncation_direction": 7}, invalid, "truncation_direction"),
        ):
            found = await fake_engine.refusal(rerank(server, query="a", **fields))
            assert found[0] is code
            assert word in found[1]
        call = server.channel.unary_unary("/tei.v1.Rerank/Rerank", None, pb.RerankResponse.FromString)
        request = pb.RerankRequest(query="a", texts=["x"]).SerializeToString()
        assert (await fake_engine.refusal(call(request, metadata=[("x-model", "ready")])))[0] is failed
        assert (await fake_engine.refusal(rerank_stream(server, [])))[0] is invalid
        texts = [pb.RerankStreamRequest(query="a", text="bad" if i == 6 else "x") for i in range(9)]
        code, message, _ = await fake_engine.refusal(rerank_stream(server, texts))
        assert (code, "item 6" in message) == (invalid, True)


async def test_the_request_may_insist_on_a_fingerprint_and_on_its_time(tmp_path):
    async with served(tmp_path) as server:
        other = await post(server.ready.http, "/rerank", RANK, {"x-fingerprint": "0" * 64})
        assert (other.status, "fingerprint" in other.json["message"]) == (400, True)
        late = await post(server.ready.http, "/rerank", {**RANK, "query": "wait"}, {"x-timeout-ms": "50"})
        assert late.status == 504


async def test_what_has_no_truncation_is_not_asked_to_cut(tmp_path):
    @dataclass(frozen=True)
    class Options:
        """None."""

    class Uncut(fake_engine.FakeEncoder):
        options = Options

    async with served(tmp_path) as server:
        ranker = server.catalog.entries["ranker"]
        server.catalog.entries["ranker"] = replace(ranker, spec=replace(ranker.spec, encoder=Uncut))
        for path, body in (("/rerank", RANK), ("/score", {"model": "ranker", "queries": "aa", "documents": "a"})):
            assert (await post(server.ready.http, path, body)).status == 200
        assert [asked.options for asked, _ in server.engine.asked] == [{}, {}]
