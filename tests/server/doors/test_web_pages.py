"""What pages of web sites may do with a server: those of allowed origins read its replies, all others are refused."""

from __future__ import annotations

import asyncio

import fake_engine
import pytest
from http_calls import call, post
from topwork_server.config import Config
from topwork_server.errors import StartError

PAGE = "http://localhost:3000"
EMBED = "/topwork.v1.Encoders/Embed"
HELLO = {"settings": {"encoder": "ready"}, "items": [{"text": "hello"}]}
#: What the pages of OpenAI's, of gRPC-Web's and of TEI's clients ask for before they send.
ASKED = "authorization,content-type,x-grpc-web,x-model,x-stainless-lang"


def served(home, *origins):
    return fake_engine.served(home, http="127.0.0.1:0", allow_origin=origins)


async def preflight(server, path, origin, method="POST"):
    headers = {"origin": origin, "access-control-request-method": method, "access-control-request-headers": ASKED}
    return await asyncio.to_thread(call, server.ready.http, "OPTIONS", path, None, headers)


@pytest.mark.parametrize("allowed", [(PAGE,), ("https://app.example", PAGE), ("*",)])
async def test_allowed_pages_may_ask_and_read_what_every_door_replies(allowed, tmp_path):
    bodies = {
        EMBED: (HELLO, 200),
        "/v1/embeddings": ({"model": "ready", "input": "hello"}, 200),
        "/embed": ({"inputs": "hello"}, 422),  # no encoder is named: a page reads why
        "/nothing": ({}, 404),
    }
    async with served(tmp_path, *allowed) as server:
        for path, (body, status) in bodies.items():
            asked = await preflight(server, path, PAGE)
            assert asked.status == 200
            assert "POST" in asked.headers["access-control-allow-methods"]
            assert set(ASKED.split(",")) <= set(asked.headers["access-control-allow-headers"].split(","))
            reply = await post(server.ready.http, path, body, {"origin": PAGE})
            assert reply.status == status, reply.body
            for one in (asked, reply):
                assert one.headers["access-control-allow-origin"] in (PAGE, "*")
            assert reply.headers["access-control-expose-headers"] == "*"
            assert "access-control-allow-credentials" not in reply.headers


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "http://localhost:3001", "https://localhost:3000", "null"])
@pytest.mark.parametrize("allowed", [(), (PAGE,)])
async def test_other_pages_are_refused_before_anything_is_done(origin, allowed, tmp_path):
    async with served(tmp_path, *allowed) as server:
        for reply in (await preflight(server, EMBED, origin), await post(server.ready.http, EMBED, HELLO, {"origin": origin})):
            assert reply.status == 403
            assert "--allow-origin" in reply.json["message"]
            assert "access-control-allow-origin" not in reply.headers
        assert not server.app.requests.counts


async def test_callers_that_are_no_pages_and_the_servers_own_pages_are_answered_as_before(tmp_path):
    async with served(tmp_path, PAGE) as server:
        for headers in ({}, {"origin": f"http://{server.ready.http}"}):
            reply = await post(server.ready.http, EMBED, HELLO, headers)
            assert reply.status == 200
            assert reply.headers.get("access-control-allow-origin") != PAGE


def test_origins_are_read_as_browsers_send_them(tmp_path, monkeypatch):
    given = ("http://LocalHost:3000/", "https://app.example:443", "http://[::1]:80", "chrome-extension://abc", "*")
    expected = ("http://localhost:3000", "https://app.example", "http://[::1]", "chrome-extension://abc", "*")
    assert Config(home=tmp_path, allow_origin=given).allow_origin == expected
    monkeypatch.setenv("TOPWORK_ALLOW_ORIGIN", " ".join(given))
    assert Config(home=tmp_path).allow_origin == expected


@pytest.mark.parametrize(
    "wrong",
    [
        "localhost:3000",
        "localhost",
        "http://",
        "",
        "null",
        "http://a/b",
        "http://a?b",
        "http://u@a",
        "http://a:x",
        "http://ü.de",
        "http://*.a",
    ],
)
def test_what_is_no_origin_is_refused_at_the_start(wrong, tmp_path):
    with pytest.raises(StartError, match=r"no origin.*SCHEME://HOST"):
        Config(home=tmp_path, allow_origin=(PAGE, wrong))
