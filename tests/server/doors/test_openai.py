"""OpenAI's routes, by its own client, and by hand where that cannot be made to err."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from pathlib import Path

import fake_engine
import numpy as np
import openai
import pytest
from http_calls import get, post
from topwork_server.errors import Overloaded

PATH = "/v1/embeddings"
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n").decode()


def served(home, **settings):
    return fake_engine.served(home, http="127.0.0.1:0", **settings)


def called(server, **fields):
    """A call of OpenAI's client, from another thread."""

    def call():
        with openai.OpenAI(base_url=f"http://{server.ready.http}/v1", api_key="any", max_retries=0) as client:
            return client.embeddings.create(**{"model": "ready", **fields})

    return asyncio.to_thread(call)


async def test_the_client_gets_rows_of_unit_length_in_either_encoding(tmp_path):
    async with served(tmp_path) as server:
        usual = await called(server, input=["hello", "a"])
        lists = await called(server, input=["hello", "a"], encoding_format="float")
        assert [one.index for one in usual.data] == [0, 1]
        assert usual.model == "ready"
        for one, other in zip(usual.data, lists.data, strict=True):
            assert np.linalg.norm(one.embedding) == pytest.approx(1, abs=1e-6)
            assert len(one.embedding) == len(other.embedding)
        assert server.app.requests.counts["OpenAI.Embeddings", "OK"] == 2


async def test_models_are_listed_with_their_fingerprints(tmp_path):
    async with served(tmp_path) as server:
        listed = (await get(server.ready.http, "/v1/models")).json
        assert listed["object"] == "list"
        ready = next(one for one in listed["data"] if one["id"] == "ready")
        assert len(ready["fingerprint"]) == 64
        assert (await get(server.ready.http, "/v1/models/ready")).json == ready
        assert (await get(server.ready.http, "/v1/models/nosuch")).json["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("fields", "kind", "word"),
    [
        ({"model": "nosuch", "input": "x"}, openai.NotFoundError, "nosuch"),
        ({"input": []}, openai.BadRequestError, "0 inputs"),
        ({"input": ["x"] * 2049}, openai.BadRequestError, "2,048"),
        ({"input": "bad"}, openai.BadRequestError, "item 0"),
        ({"input": "x", "dimensions": -1}, openai.BadRequestError, "-1"),
        ({"input": "x", "dimensions": 1000}, openai.BadRequestError, "1000"),
        ({"input": "x", "encoding_format": "hex"}, openai.BadRequestError, "hex"),
        ({"input": [1, -2]}, openai.BadRequestError, "token ids"),
        ({"input": "x", "extra_headers": {"x-fingerprint": "0" * 64}}, openai.BadRequestError, "fingerprint"),
        ({"input": "x", "extra_headers": {"x-priority": "urgent"}}, openai.BadRequestError, "urgent"),
        ({"input": "wait", "extra_headers": {"x-timeout-ms": "50"}}, openai.InternalServerError, "time"),
        ({"input": "crash"}, openai.InternalServerError, "internal error"),
        ({"input": "http://x/cat.png", "extra_body": {"modality": "image"}}, openai.BadRequestError, "fetches no URLs"),
        ({"input": "data:image/png,x", "extra_body": {"modality": "image"}}, openai.BadRequestError, "base64"),
        ({"input": "data:image/png;base64,?", "extra_body": {"modality": "image"}}, openai.BadRequestError, "base64"),
    ],
)
async def test_the_clients_own_exceptions_tell_what_was_wrong(fields, kind, word, tmp_path):
    async with served(tmp_path) as server:
        with pytest.raises(kind, match=word):
            await called(server, **fields)
        assert (await called(server, input="x")).data


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 5_000_000, b'{"input": 1}', b'{"input": "x", "messages": []}']
)
async def test_bodies_that_no_client_sends(body, tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, PATH, body)
        assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")


async def test_pictures_come_as_data_uris_and_as_parts_of_messages(tmp_path):
    async with served(tmp_path) as server:
        by_uri = await post(server.ready.http, PATH, {"model": "ready", "input": PNG, "modality": "image", "normalize": False})
        part = {"type": "image_url", "image_url": {"url": PNG}}
        messages = [{"role": "user", "content": [part]}]
        by_part = await post(server.ready.http, PATH, {"model": "ready", "messages": messages, "normalize": False})
        for reply in (by_uri, by_part):
            assert reply.json["data"][0]["embedding"][0] == 6  # bytes of the picture


async def test_rows_come_as_plain_bytes(tmp_path):
    async with served(tmp_path) as server:
        body = {
            "model": "ready",
            "input": ["hello", "a"],
            "encoding_format": "bytes",
            "embed_dtype": "float16",
            "normalize": False,
        }
        reply = await post(server.ready.http, PATH, body)
        described = json.loads(reply.headers["metadata"])["data"]
        rows = np.frombuffer(reply.body, "<f2").reshape(2, *described[0]["shape"])
        assert rows[:, 0].tolist() == [5, 1]
        assert (described[1]["start"], described[1]["end"]) == (rows[0].nbytes, rows.nbytes)


async def test_the_default_encoder_and_the_header_name_a_model(tmp_path):
    async with served(tmp_path) as server:
        assert (await post(server.ready.http, PATH, {"input": "x"})).status == 400
        reply = await post(server.ready.http, PATH, {"input": "x"}, {"x-model": "ready", "x-request-id": "mine"})
        assert (reply.status, reply.headers["x-request-id"], len(reply.headers["x-fingerprint"])) == (200, "mine", 64)
    async with served(tmp_path / "second", default_encoder="ready") as server:
        assert (await post(server.ready.http, PATH, {"input": "x"})).status == 200


async def test_a_full_queue_tells_when_to_come_back(tmp_path, monkeypatch):
    async with served(tmp_path) as server:

        async def full(*_):
            raise Overloaded("the queue is full", retry_after=0.25)

        monkeypatch.setattr(server.engine, "embed", full)
        reply = await post(server.ready.http, PATH, {"model": "ready", "input": "x"})
        assert (reply.status, reply.headers["retry-after-ms"]) == (429, "250")


async def test_the_snippets_of_the_first_page_run(tmp_path):
    text = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
    snippets = [one for one in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "openai" in one]
    curls = re.findall(r"curl -d '(.*?)' .\n +http://127.0.0.1:8080(\S+)", text)
    assert snippets
    assert curls
    async with served(tmp_path) as server:
        server.catalog.add_ranker()
        for snippet in snippets:
            code = snippet.replace("127.0.0.1:8080", server.ready.http).replace("all-minilm-l6-v2", "ready")
            found: dict[str, object] = {}
            await asyncio.to_thread(exec, code, found)
            assert len(found["rows"]) == 2
        for body, path in curls:
            assert (await post(server.ready.http, path, body.replace("all-minilm-l6-v2", "ready").encode())).status == 200


async def test_the_fields_of_jina_and_nim_are_taken(tmp_path):
    async with served(tmp_path) as server:
        given = [{"text": "hello"}, {"image": PNG}, {"image": PNG.partition(",")[2]}]
        reply = await post(server.ready.http, PATH, {"model": "ready", "input": given, "normalized": False})
        assert [one["embedding"][0] for one in reply.json["data"]] == [5, 6, 6]
        for fields, role in (({"task": "retrieval.query"}, "query"), ({"input_type": "search_document"}, "document"), ({}, None)):
            assert (await post(server.ready.http, PATH, {"model": "ready", "input": "x", **fields})).status == 200
            assert server.engine.asked[-1][0].role == role
        bits = await post(server.ready.http, PATH, {"model": "ready", "input": "x", "embedding_type": "ubinary"})
        assert bits.json["data"][0]["embedding"] == [255]
        for wrong in ({"task": "poetry"}, {"input": [{}]}, {"input": [{"text": "a", "image": PNG}]}):
            assert (await post(server.ready.http, PATH, {"model": "ready", "input": "x", **wrong})).status == 400
