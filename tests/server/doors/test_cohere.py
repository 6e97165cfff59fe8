"""Cohere's embeddings, by its own client, and by hand where that cannot be made to err."""

from __future__ import annotations

import asyncio
import base64
import re

import cohere
import fake_engine
import httpx
import numpy as np
import pytest
from http_calls import post
from topwork_server.doors.cohere import typed
from topwork_server.types import Role

PATH = "/v2/embed"
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n").decode()
BODY = {"model": "ready", "input_type": "search_document", "texts": ["hello", "a"]}


def served(home, **settings):
    return fake_engine.served(home, http="127.0.0.1:0", **settings)


async def called(server, **fields):
    """What Cohere's client makes of the reply; it runs in another thread."""
    with httpx.Client() as connection:
        client = cohere.ClientV2(api_key="any", base_url=f"http://{server.ready.http}", httpx_client=connection)
        return await asyncio.to_thread(client.embed, **{"model": "ready", "input_type": "search_document", **fields})


async def test_the_client_gets_rows_of_every_type_at_once(tmp_path):
    async with served(tmp_path) as server:
        types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
        found = (await called(server, texts=["hello", "a"], embedding_types=types)).embeddings
        rows = np.float32(found.float_)
        assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)
        assert [np.frombuffer(base64.b64decode(one), "<f4").tolist() for one in found.base64] == rows.tolist()
        assert np.abs(np.int16(found.int8)).max(axis=1).tolist() == [127, 127]
        assert (np.int16(found.uint8) - 128).tolist() == found.int8
        assert found.ubinary == [[255], [255]]  # no number is below 0
        assert found.binary == [[127], [127]]
        assert server.app.requests.counts["Cohere.Embed", "OK"] == 1


def test_bits_say_which_numbers_are_zero_or_more_the_first_one_highest():
    rows = np.float32([[-1, 0, 1, -1, -1, -1, -1, -1, 2, -2]])
    [unsigned], [signed] = typed(rows, "ubinary"), typed(rows, "binary")
    assert unsigned.tolist() == [0b01100000, 0b10000000]
    assert signed.tolist() == [0b01100000 - 128, 0]


async def test_a_client_that_says_nothing_gets_floats_and_what_they_took(tmp_path):
    async with served(tmp_path) as server:
        found = await called(server, texts=["hello"], output_dimension=2)
        assert np.shape(found.embeddings.float_) == (1, 2)
        assert found.texts == ["hello"]
        assert found.meta.billed_units.input_tokens == 0
        reply = await post(server.ready.http, PATH, BODY)
        assert list(reply.json["embeddings"]) == ["float"]
        assert len(reply.headers["x-fingerprint"]) == 64


@pytest.mark.parametrize(
    ("input_type", "role"),
    [("search_query", Role.QUERY), ("search_document", Role.DOCUMENT), ("classification", None), (None, None)],
)
async def test_the_type_of_input_is_a_role(input_type, role, tmp_path):
    async with served(tmp_path) as server:
        assert (await post(server.ready.http, PATH, {**BODY, "input_type": input_type})).status == 200
        assert server.engine.asked[0][0].role is role


async def test_texts_are_cut_unless_they_may_not_be(tmp_path):
    async with served(tmp_path) as server:
        for truncate in ({}, {"truncate": "END"}, {"truncate": "NONE"}):
            assert (await post(server.ready.http, PATH, {**BODY, **truncate})).status == 200
        assert [params.options for params, _ in server.engine.asked] == [{"truncate": True}, {"truncate": True}, {}]


async def test_pictures_come_as_data_uris_and_as_parts_of_inputs(tmp_path):
    async with served(tmp_path) as server:
        by_uri = await called(server, images=[PNG], input_type="image")
        part = {"type": "image_url", "image_url": {"url": PNG}}
        by_part = await called(server, inputs=[{"content": [part]}, {"content": [{"type": "text", "text": "hello"}]}])
        assert by_uri.meta.billed_units.images == 1
        assert len(by_part.embeddings.float_) == 2
        assert [type(item).__name__ for item in server.engine.asked[1][1]] == ["ImageItem", "TextItem"]


@pytest.mark.parametrize(
    ("fields", "kind", "word"),
    [
        ({"model": "nosuch", "texts": ["x"]}, cohere.NotFoundError, "nosuch"),
        ({}, cohere.BadRequestError, "no inputs"),
        ({"texts": ["x"], "images": [PNG]}, cohere.BadRequestError, "more than one"),
        ({"texts": []}, cohere.BadRequestError, "0 inputs"),
        ({"texts": ["x"] * 2049}, cohere.BadRequestError, "2,048"),
        ({"texts": ["x", "bad"]}, cohere.BadRequestError, "item 1"),
        ({"texts": ["x"], "output_dimension": 0}, cohere.BadRequestError, "0 dimensions"),
        ({"texts": ["x"], "output_dimension": 1000}, cohere.BadRequestError, "1000"),
        ({"texts": ["x"], "embedding_types": []}, cohere.BadRequestError, "embedding_types"),
        ({"texts": ["x"], "embedding_types": ["int4"]}, cohere.BadRequestError, "int4"),
        ({"texts": ["x"], "input_type": "poem"}, cohere.BadRequestError, "poem"),
        ({"texts": ["x"], "truncate": "START"}, cohere.BadRequestError, "start"),
        ({"texts": ["x"], "truncate": "MIDDLE"}, cohere.BadRequestError, "MIDDLE"),
        ({"texts": ["x"], "max_tokens": 9}, cohere.BadRequestError, "max_tokens"),
        ({"images": ["http://x/cat.png"]}, cohere.BadRequestError, "fetches no URLs"),
        ({"images": ["data:image/png;base64,?"]}, cohere.BadRequestError, "item 0.*base64"),
        ({"inputs": [{"content": []}]}, cohere.BadRequestError, "0 parts"),
        ({"texts": ["crash"]}, cohere.InternalServerError, "internal error"),
    ],
)
async def test_the_clients_own_exceptions_tell_what_was_wrong(fields, kind, word, tmp_path):
    async with served(tmp_path) as server:
        with pytest.raises(kind) as caught:
            await called(server, request_options={"max_retries": 0}, **fields)
        assert re.search(word, caught.value.body["message"])
        assert (await called(server, texts=["x"])).embeddings.float_


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 5_000_000, b'{"texts": "x"}', b'{"texts": [1]}'])
async def test_bodies_that_no_client_sends(body, tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, PATH, body)
        assert reply.status == 400
        assert reply.json["message"]
