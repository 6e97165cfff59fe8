"""LightlyStudio's protocol of remote embedders, by the conformance kit that it ships and by hand; `colors` reads pictures and
texts."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import fake_engine
import numpy as np
import pytest
import real_server
from http_calls import call, get, post
from lightly_studio_serve import cli
from lightly_studio_serve.protocol import DescribeResponse, EmbeddingsResponse
from real_server import ToyEncoders
from topwork_server.doors.file_parts import files_of
from topwork_server.doors.request_body import MAX_MESSAGE
from topwork_server.errors import InvalidInput
from topwork_server.runtime.export import publish_towers
from toy_towers import COLORS, colors_spec, picture

TEXTS, IMAGES, VIDEOS = "/v1/embed/texts", "/v1/embed/images/bytes", "/v1/embed/videos/bytes"
READY = {"x-model": "ready"}


def form(*files, name="files", filename="a.png", boundary="cut"):
    """A body of those files, and the headers that say so."""
    named = f'; filename="{filename}"' if filename else ""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode()
    body = b"".join(head + data + b"\r\n" for data in files) + f"--{boundary}--\r\n".encode()
    return body, {"content-type": f"multipart/form-data; boundary={boundary}"}


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    """The address of a server whose default encoder reads pictures and texts."""
    home, plugins = tmp_path_factory.mktemp("home"), ToyEncoders()
    plugins.specs.append(colors_spec())
    publish_towers(home, colors_spec(), lambda tower: Path())
    with real_server.started(home, plugins, http="127.0.0.1:0", default_encoder="colors", max_items=9) as ready:
        yield ready.http


def served(home, **settings):
    return fake_engine.served(home, http="127.0.0.1:0", **settings)


def posted(address, path, *files, **how):
    body, headers = form(*files, **how)
    return call(address, "POST", path, body, headers)


def test_the_conformance_kit_passes(colors, capsys):
    assert cli.main(["conformance", f"http://{colors}"]) == 0
    printed = capsys.readouterr().out
    assert [line.split("  ")[-1].strip() for line in printed.splitlines() if line.startswith(("text", "image", "video"))] == [
        "passed",
        "passed",
        "not advertised",
    ]


def test_pictures_and_texts_are_in_the_space_that_is_described(colors):
    described = DescribeResponse.model_validate_json(call(colors, "GET", "/v1/describe").body)
    assert (described.ready, described.dimension, described.capabilities) == (True, 3, ["image_bytes", "text"])
    assert described.limits.max_batch_size == 9
    pictures = EmbeddingsResponse.model_validate_json(posted(colors, IMAGES, *map(picture, COLORS.values())).body)
    texts = EmbeddingsResponse.model_validate_json(call(colors, "POST", TEXTS, {"texts": list(COLORS)}).body)
    assert pictures.space_key == texts.space_key == described.space_key
    assert pictures.kept_indices == texts.kept_indices == [0, 1, 2]
    assert (np.array(pictures.embeddings) @ np.array(texts.embeddings).T).argmax(1).tolist() == [0, 1, 2]


def test_files_that_cannot_be_read_are_left_out(colors):
    files = [b"none", picture((250, 5, 5)), b"", picture((5, 5, 250))]
    found = EmbeddingsResponse.model_validate_json(posted(colors, IMAGES, *files).body)
    assert found.kept_indices == [1, 3]
    assert np.argmax(found.embeddings, axis=1).tolist() == [0, 2]
    none = EmbeddingsResponse.model_validate_json(posted(colors, IMAGES, b"none").body)
    assert (none.kept_indices, none.embeddings, none.dimension) == ([], [], 3)


def test_bytes_of_files_are_kept_whatever_they_are():
    files = [b"", b"\r\n", b"\r\n--cu", b"--cut", bytes(range(256)) * 999, b"\r\n--cux\r\n"]
    body, headers = form(*files)
    assert files_of(body, headers["content-type"], "files", 9) == files


async def test_texts_that_are_bad_are_left_out_and_long_ones_cut(tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, TEXTS, {"texts": ["a", "bad", "aaa"]}, READY)
        assert reply.json["kept_indices"] == [0, 2]
        assert [row[0] for row in reply.json["embeddings"]] == [1, 3]
        assert reply.headers["x-fingerprint"] == reply.json["space_key"] == "a" * 64
        assert server.engine.asked[0][0].options == {"truncate": True}
        assert (await post(server.ready.http, TEXTS, {"texts": []}, READY)).json["embeddings"] == []
        assert server.app.requests.counts["Lightly.Embed", "OK"] == 2


async def test_a_fault_of_the_server_is_no_bad_item(tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, TEXTS, {"texts": ["a", "crash"]}, READY)
        assert (reply.status, list(reply.json)) == (500, ["detail"])
        assert "secret" not in reply.json["detail"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "word"),
    [
        (*form(), 400, "no files"),
        (*form(b"x", filename=""), 400, "without a file name"),
        (*form(b"x", name="file"), 400, "'file'"),
        (*form(*[b"x"] * 10), 413, "9"),
        (form(b"x")[0][:-4], form()[1], 400, "whole"),
        (form(b"x")[0][:30], form()[1], 400, "whole"),
        (b"", form()[1], 400, "whole"),
        (b"hello", form()[1], 400, "boundary"),
        (b"x" * 99, {"content-type": "multipart/form-data"}, 400, "boundary"),
        (b"x", {"content-type": "application/json"}, 400, "multipart"),
        (b"x", {}, 400, "multipart"),
        (*form(b"x", boundary="b" * 999), 400, "oundary"),
        (form(b"x", filename="a" * 99999)[0], form()[1], 400, "header"),
        (form(b"x")[0], {**form()[1], "x-model": "nosuch"}, 404, "nosuch"),
        (form(b"x")[0], {**form()[1], "x-model": "letters"}, 400, "reads text"),
        (form(picture((9, 9, 9)))[0], {**form()[1], "x-fingerprint": "f" * 64}, 400, "fingerprint"),
    ],
)
def test_what_is_wrong_with_files_is_told(body, headers, status, word, colors):
    reply = call(colors, "POST", IMAGES, body, headers)
    assert (reply.status, list(reply.json)) == (status, ["detail"])
    assert word in reply.json["detail"]


def test_an_encoder_of_pictures_reads_no_videos(colors):
    reply = posted(colors, VIDEOS, b"x")
    assert reply.status == 400
    assert "reads image and text" in reply.json["detail"]


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"texts": ["x"] * 10}, 413, "9"),
        ({"texts": "x"}, 400, "texts"),
        ({}, 400, "texts"),
        (b"x", 400, "JSON"),
    ],
)
def test_what_is_wrong_with_texts_is_told(body, status, word, colors):
    reply = call(colors, "POST", TEXTS, body)
    assert (reply.status, list(reply.json)) == (status, ["detail"])
    assert word in reply.json["detail"]


def test_a_body_over_the_limit_that_is_described_is_refused(colors):
    limit = call(colors, "GET", "/v1/describe").json["limits"]["max_request_bytes"]
    assert limit == MAX_MESSAGE
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is refused by its length, before it is sent
        assert posted(colors, IMAGES, bytes(limit)).status == 413


async def test_an_encoder_that_is_not_ready_is_503_and_none_is_400(tmp_path):
    async with served(tmp_path) as server:
        address = server.ready.http
        for reply in (
            await get(address, "/v1/describe", {"x-model": "absent"}),
            await post(address, TEXTS, {"texts": ["x"]}, {"x-model": "absent"}),
        ):
            assert reply.status == 503
            assert "topwork pull absent" in reply.json["detail"]
        nameless = await get(address, "/v1/describe")
        assert nameless.status == 400
        assert "--default-encoder" in nameless.json["detail"]


async def test_it_says_that_it_is_not_ready_while_the_server_stops(tmp_path):
    async with served(tmp_path) as server:
        assert (await get(server.ready.http, "/v1/describe", READY)).json["ready"] is True
        await server.app.health.enter_graceful_shutdown()
        assert (await get(server.ready.http, "/v1/describe", READY)).json["ready"] is False


async def test_large_bodies_count_in_the_message_budget_while_they_are_embedded(tmp_path):
    async with served(tmp_path) as server:
        sending = asyncio.create_task(post(server.ready.http, TEXTS, {"texts": ["wait", "x" * (1 << 20)]}, READY))
        await server.engine.until(lambda engine: engine.running == 1)
        assert server.app.budget.used >= 1 << 20
        server.engine.gate.set()
        assert (await sending).status == 200
        assert server.app.budget.used == 0


def test_an_empty_boundary_is_none():
    with pytest.raises(InvalidInput, match="boundary"):
        files_of(b"", 'multipart/form-data; boundary=""', "files", 9)
