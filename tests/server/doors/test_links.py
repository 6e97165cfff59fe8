"""Pictures and videos by URL through the doors that have them, from servers that do their worst."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import subprocess
import threading

import cohere
import fake_engine
import httpx
import openai
import pytest
from hostile_server import answer, hostile_server, repeats, sends
from http_calls import get, post
from topwork_server import ImageItem, VideoItem
from topwork_server.access import url_fetcher
from topwork_server.access.fetch_policy import FetchPolicy
from topwork_server.access.url_fetcher import UrlFetcher
from topwork_server.doors import links
from topwork_server.errors import InvalidInput, NotReady

PNG = b"\x89PNG\r\n" + bytes(range(100))
EMBED = "/v1/embeddings"


def served(home, *hosts, **settings):
    return fake_engine.served(home, http="127.0.0.1:0", allow_fetch=hosts, **settings)


def asked(*urls, **fields):
    return {"model": "ready", "modality": "image", "input": list(urls), **fields}


async def refused(server, url, **fields):
    """The error of a request for a good picture and then this URL."""
    good = "data:image/png;base64," + base64.b64encode(PNG).decode()
    reply = await post(server.ready.http, EMBED, asked(good, url, **fields))
    assert reply.status != 200
    assert not server.engine.asked
    assert server.app.budget.used == 0
    return reply.status, reply.json["error"]["message"]


async def test_every_door_that_has_urls_of_pictures_fetches_them(tmp_path):
    async with hostile_server() as remote, served(tmp_path, remote.address) as server:
        remote.paths |= {
            "/cat.png?sig=a%2Bb": sends(answer(body=PNG, content_type="image/png")),
            "/dog": sends(b"HTTP/1.1 302 Found\r\nLocation: /dogs/1\r\n\r\n"),
            "/dogs/1": sends(answer(body=PNG * 2, content_type="binary/octet-stream")),
        }
        cat, dog = f"{remote.address}/cat.png?sig=a%2Bb", f"{remote.address}/dog"
        part = {"type": "image_url", "image_url": {"url": dog}}

        def call():
            with openai.OpenAI(base_url=f"http://{server.ready.http}/v1", api_key="secret", max_retries=0) as client:
                client.embeddings.create(model="ready", input=[cat, dog], extra_body={"modality": "image"})
            with httpx.Client() as connection:
                client = cohere.ClientV2(api_key="secret", base_url=f"http://{server.ready.http}", httpx_client=connection)
                for given in ({"images": [cat, dog]}, {"inputs": [{"content": [part]}, {"content": [part]}]}):
                    client.embed(model="ready", input_type="image", embedding_types=["float"], **given)

        await asyncio.to_thread(call)
        jina = await post(server.ready.http, EMBED, {"model": "ready", "input": [{"image": cat}, {"text": cat}]})
        chat = await post(server.ready.http, EMBED, {"model": "ready", "messages": [{"content": [part]}]})
        assert (jina.status, chat.status) == (200, 200)
        texts = [item for _, items in server.engine.asked for item in items if not isinstance(item, ImageItem)]
        pictures = [[item.data for item in items if isinstance(item, ImageItem)] for _, items in server.engine.asked]
        assert pictures == [[PNG, PNG * 2], [PNG, PNG * 2], [PNG * 2, PNG * 2], [PNG], [PNG * 2]]
        assert [item.text for item in texts] == [cat]
        for head in remote.requests:
            lines = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
            assert lines["accept-encoding"] == "identity"
            assert lines["user-agent"].startswith("topwork/")
            assert not lines.keys() & {"cookie", "authorization", "referer", "x-model", "traceparent"}


async def test_a_video_goes_to_disk_until_its_request_is_answered(tmp_path):
    video = b"\0\0\0\x18ftypmp42" * 200_000
    async with hostile_server() as remote, served(tmp_path, remote.address) as server:
        remote.paths["/clip"] = sends(answer(body=video, content_type="video/mp4"))
        reply = await post(server.ready.http, EMBED, asked(f"{remote.address}/clip", modality="video"))
        assert reply.status == 200
        [(_, [item])] = server.engine.asked
        assert isinstance(item, VideoItem)
        assert server.engine.seen[item.data] == video
        assert not item.data.exists()
        assert list((tmp_path / "spool").iterdir()) == []


async def test_nothing_is_fetched_unless_the_server_was_told_to(tmp_path):
    async with hostile_server() as remote, served(tmp_path) as server:
        status, told = await refused(server, f"{remote.address}/cat.png")
        assert status == 400
        assert "item 1" in told
        assert "--allow-fetch" in told
        assert not remote.requests


@pytest.mark.parametrize(("host", "warned"), [("*", True), ("*.example.com", False)])
async def test_a_server_that_fetches_from_everywhere_says_so_in_its_log(host, warned, tmp_path, caplog):
    async with served(tmp_path, host):
        assert ("--allow-fetch '*'" in caplog.text) == warned


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("http://127.0.0.1:1/a", "--allow-fetch http://127.0.0.1:1"),
        ("https://example.com/a", "--allow-fetch example.com"),
        ("HTTP://2130706433/a", "octets"),
        ("http://user@127.0.0.1/a", "user"),
        ("ftp://127.0.0.1/a", "ftp"),
        ("file:///etc/passwd", "file"),
        ("https://rebound.example.org/a", "public address"),
    ],
)
async def test_other_places_are_refused_before_anything_is_fetched(url, word, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", resolver_of({"rebound.example.org": ["8.8.8.8", "10.0.0.1"]}))
    async with hostile_server() as remote, served(tmp_path, remote.address, "*.example.org") as server:
        remote.paths["/cat"] = sends(answer(body=PNG, content_type="image/png"))
        status, told = await refused(server, url)
        assert (status, "item 1" in told, word in told) == (400, True, True), told
        assert "10.0.0.1" not in told


def resolver_of(names):
    real = socket.getaddrinfo

    def resolve(host, *args, **kwargs):
        if host not in names:
            return real(host, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in names[host]]

    return resolve


@pytest.mark.parametrize(
    ("location", "word"),
    [
        ("http://127.0.0.1:1/", "--allow-fetch"),
        ("http://169.254.169.254/latest/meta-data/", "--allow-fetch"),
        ("https://169.254.169.254/latest/meta-data/", "public address"),
        ("https://[::ffff:169.254.169.254]/", "public address"),
        ("https://2852039166/", "octets"),
        ("file:///etc/passwd", "neither"),
        ("//user@127.0.0.1/", "user"),
        ("http://[", "redirects"),
        ("/loop", "redirects more than 5 times"),
        (None, "answered 302"),
    ],
)
async def test_redirects_are_checked_each_and_bounded(location, word, tmp_path):
    async with hostile_server() as remote, served(tmp_path, remote.address, "*") as server:
        header = "" if location is None else f"Location: {location}\r\n"
        remote.paths["/loop"] = sends(f"HTTP/1.1 302 Found\r\n{header}Content-Length: 0\r\n\r\n".encode())
        status, told = await refused(server, f"{remote.address}/loop")
        assert (status, "item 1" in told, word in told) == (400, True, True), told
        assert len(remote.requests) == (6 if location == "/loop" else 1)


WRONG = {
    "not found": (sends(answer("404 Not Found")), 400, "answered 404"),
    "a fault": (sends(answer("503 Later", body=b"secret")), 400, "answered 503"),
    "a part": (sends(answer("206 Partial Content", body=PNG, content_type="image/png")), 400, "answered 206"),
    "a page": (sends(answer(body=b"<html>", content_type="text/html; charset=utf-8")), 400, "text/html"),
    "a video": (sends(answer(body=b"abc", content_type="video/mp4")), 400, "video"),
    "a gzip bomb": (sends(answer(body=b"\x1f\x8b", content_type="image/png", content_encoding="gzip")), 400, "gzip"),
    "gzip of the transfer": (
        sends(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        400,
        "HTTP",
    ),
    "a huge length": (sends(answer(content_type="image/png", content_length=str(1 << 40))), 413, "bytes"),
    "a length of no number": (sends(answer(content_type="image/png", content_length="-1")), 400, "HTTP"),
    "two lengths": (sends(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"), 400, "HTTP"),
    "too little": (sends(answer(body=PNG, content_type="image/png", content_length="999")), 400, "HTTP"),
    "no HTTP": (sends(b"220 ftp ready\r\n"), 400, "HTTP"),
    "nothing": (sends(), 400, "HTTP"),
    "endless headers": (repeats(b"HTTP/1.1 200 OK\r\n", b"a: " + b"b" * 4096 + b"\r\n"), 400, "HTTP"),
    "an endless body": (repeats(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n", bytes(65536)), 413, "bytes"),
    "endless chunks": (
        repeats(
            b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n", b"8000\r\n%b\r\n" % bytes(32768)
        ),
        413,
        "bytes",
    ),
    "silence": (repeats(b"", b"", 0.01), 400, "sent nothing for"),
    "a pause": (repeats(answer(body=PNG, content_type="image/png", content_length="999"), b"", 0.01), 400, "sent nothing for"),
    "a slow drip": (repeats(answer(content_type="image/png", content_length="99999"), b"x", 0.02), 400, "too slow"),
    "slow headers": (repeats(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", 0.02), 400, "too slow"),
    "endless hints": (repeats(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.02), 400, "too slow"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_server_that_does_its_worst_costs_one_error(case, tmp_path, monkeypatch):
    monkeypatch.setattr(links, "MAX_MESSAGE", 1 << 20)
    behavior, expected, word = WRONG[case]
    monkeypatch.setattr(url_fetcher, "WHOLE", 0.5 if word == "too slow" else 60)
    monkeypatch.setattr(url_fetcher, "PAUSE", 0.3 if word == "sent nothing for" else 60)
    async with hostile_server() as remote, served(tmp_path, remote.address) as server:
        remote.paths["/it"] = behavior
        status, told = await refused(server, f"{remote.address}/it")
        assert (status, "item 1" in told, word in told) == (expected, True, True), told
        assert "secret" not in told
        while remote.open:  # the connection is let go of
            await asyncio.sleep(0.01)


async def test_an_endless_video_ends_at_the_bound_of_videos_and_leaves_no_file(tmp_path):
    async with hostile_server() as remote, served(tmp_path, remote.address, max_video_bytes=3 << 20) as server:
        remote.paths["/it"] = repeats(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n", bytes(65536))
        status, told = await refused(server, f"{remote.address}/it", modality="video")
        assert (status, "item 1" in told, "video" in told) == (413, True, True), told
        assert list((tmp_path / "spool").iterdir()) == []


async def test_the_deadline_of_the_request_holds(tmp_path):
    async with hostile_server() as remote, served(tmp_path, remote.address) as server:
        remote.paths["/it"] = repeats(b"", b"", 0.01)
        reply = await post(server.ready.http, EMBED, asked(f"{remote.address}/it"), {"x-timeout-ms": "200"})
        assert reply.status == 504
        while remote.open:
            await asyncio.sleep(0.01)


async def test_a_request_fetches_a_few_at_a_time_and_ends_all_at_an_error(tmp_path):
    async with hostile_server() as remote, served(tmp_path, remote.address) as server:
        remote.paths["/it"] = sends(answer(body=PNG, content_type="image/png"))
        reply = await post(server.ready.http, EMBED, asked(*[f"{remote.address}/it"] * 50))
        assert (reply.status, len(reply.json["data"]), len(remote.requests)) == (200, 50, 50)
        assert 1 < remote.most_open <= links.AT_A_TIME
        server.engine.asked.clear()
        remote.paths |= {"/never": repeats(b"", b"", 0.01), "/gone": sends(answer("410 Gone"))}
        reply = await post(server.ready.http, EMBED, asked(f"{remote.address}/never", f"{remote.address}/gone"))
        assert (reply.status, "item 1" in reply.json["error"]["message"]) == (400, True)
        while remote.open:
            await asyncio.sleep(0.01)


async def test_a_name_server_that_does_not_answer_holds_up_nothing_else(tmp_path, monkeypatch):
    answered, asked_for, real = threading.Event(), list[str](), socket.getaddrinfo

    def resolve(host, *args, **kwargs):
        if not host.endswith(".example.org"):
            return real(host, *args, **kwargs)
        asked_for.append(host)
        answered.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(url_fetcher, "CONNECT", 60)
    async with served(tmp_path, "*.example.org") as server:
        urls = [f"https://slow{i}.example.org/a" for i in range(8)]
        waiting = [asyncio.create_task(post(server.ready.http, EMBED, asked(*urls))) for _ in range(2)]
        try:
            while len(asked_for) < url_fetcher.RESOLVING:
                await asyncio.sleep(0.01)
            models = await get(server.ready.http, "/v1/models")  # which the server reads in a thread
            assert (models.status, any(task.done() for task in waiting)) == (200, False)
            assert len(asked_for) == url_fetcher.RESOLVING
        finally:
            answered.set()
        assert [reply.status for reply in await asyncio.gather(*waiting)] == [400, 400]


async def test_requests_share_the_places_of_the_server(tmp_path, monkeypatch):
    monkeypatch.setattr(url_fetcher, "PLACES", 3)
    async with hostile_server() as remote, served(tmp_path, remote.address) as server:
        remote.paths["/it"] = sends(answer(body=PNG, content_type="image/png"))
        calls = [post(server.ready.http, EMBED, asked(*[f"{remote.address}/it"] * 20)) for _ in range(4)]
        assert [reply.status for reply in await asyncio.gather(*calls)] == [200] * 4
        assert (len(remote.requests), remote.most_open <= 3) == (80, True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of images.example.com that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    options = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=images.example.com"]
    names = ["-addext", "subjectAltName=DNS:images.example.com"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(["openssl", "req", "-x509", *options, *names, *files], check=True, capture_output=True)
    return folder


def context_of(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


async def fetched(fetcher, url):
    async with fetcher.open(fetcher.check(url)) as file:
        return b"".join([chunk async for chunk in file.chunks()])


async def test_a_name_is_resolved_once_and_its_certificate_is_for_the_name(certificate, monkeypatch):
    """The addresses of a name change between two looks (DNS rebinding): there is only one look."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    monkeypatch.setattr(url_fetcher, "is_public", lambda address: str(address) == "127.0.0.1")
    looks = []

    async def resolve(host, port):
        looks.append(host)
        return ["127.0.0.1"] if len(looks) == 1 else ["127.0.0.2"]

    async with hostile_server(context_of(certificate)) as remote:
        remote.paths["/a"] = sends(answer(body=PNG, content_type="image/png"))
        fetcher = UrlFetcher(FetchPolicy([f"*.example.com:{remote.port}"]), resolve)
        assert await fetched(fetcher, f"https://images.example.com:{remote.port}/a") == PNG
        assert looks == ["images.example.com"]
        assert f"Host: images.example.com:{remote.port}" in remote.requests[0]
        with pytest.raises(InvalidInput, match="public address"):
            await fetched(fetcher, f"https://images.example.com:{remote.port}/a")
        looks.clear()
        with pytest.raises(NotReady, match="certificate"):
            await fetched(fetcher, f"https://other.example.com:{remote.port}/a")
        assert len(remote.requests) == 1


async def test_a_certificate_that_nobody_vouches_for_is_refused(certificate):
    async with hostile_server(context_of(certificate)) as remote:
        fetcher = UrlFetcher(FetchPolicy([f"127.0.0.1:{remote.port}"]))
        with pytest.raises(NotReady, match="certificate"):
            await fetched(fetcher, f"https://127.0.0.1:{remote.port}/a")
        assert not remote.requests


async def test_a_plain_server_and_a_closed_port_are_told_apart(tmp_path):
    async with hostile_server() as remote:
        fetcher = UrlFetcher(FetchPolicy([f"127.0.0.1:{remote.port}"]))
        with pytest.raises(NotReady, match="TLS"):
            await fetched(fetcher, f"https://127.0.0.1:{remote.port}/a")
    with pytest.raises(NotReady, match="cannot be reached"):
        await fetched(fetcher, f"https://127.0.0.1:{remote.port}/a")


@pytest.mark.parametrize("found", [[], ["10.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:8.8.8.8"], ["64:ff9b::808:808"], None])
async def test_a_name_that_is_not_at_public_addresses_alone_is_refused(found):
    async def resolve(host, port):
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return found

    fetcher = UrlFetcher(FetchPolicy(["*"]), resolve)
    with pytest.raises(InvalidInput, match="public address"):
        await fetched(fetcher, "https://images.example.com/a")


async def test_proxies_of_the_environment_are_not_asked(tmp_path, monkeypatch):
    async with hostile_server() as remote, hostile_server() as proxy, served(tmp_path, remote.address) as server:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.address)
        remote.paths["/it"] = sends(answer(body=PNG, content_type="image/png"))
        assert (await post(server.ready.http, EMBED, asked(f"{remote.address}/it"))).status == 200
        assert not proxy.requests
