"""Reranking, by Cohere's own client, and in the forms of Jina, TEI and vLLM; the encoder `ranker` prefers long documents."""

from __future__ import annotations

import asyncio
import math

import cohere
import fake_engine
import httpx
import pytest
from http_calls import post
from topwork_server import TextItem

DOCUMENTS = ["aa", "aaaa", "a"]
RANK = {"model": "ranker", "query": "aa", "documents": DOCUMENTS}
TEI = {"query": "aa", "texts": DOCUMENTS}


def served(home, **settings):
    return fake_engine.served(home, http="127.0.0.1:0", **settings)


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
        reply = await post(server.ready.http, "/rerank", body)
        assert reply.status == 400
        assert reply.json["message"]


async def test_the_request_may_insist_on_a_fingerprint_and_on_its_time(tmp_path):
    async with served(tmp_path) as server:
        other = await post(server.ready.http, "/rerank", RANK, {"x-fingerprint": "0" * 64})
        assert (other.status, "fingerprint" in other.json["message"]) == (400, True)
        late = await post(server.ready.http, "/rerank", {**RANK, "query": "wait"}, {"x-timeout-ms": "50"})
        assert late.status == 504
