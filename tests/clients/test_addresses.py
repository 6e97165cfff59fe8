"""Addresses that no server can have, and servers that are away, are others, or stand behind a proxy: what the error names."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import topwork
from cli_command import Command
from topwork._transport.channel import check_target


class Pages(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Nothing to the standard error of the test."""


@pytest.fixture
def web() -> Iterator[str]:
    """A server of pages, which is also a proxy that refuses."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def other() -> Iterator[str]:
    """A gRPC server without any service of ours."""
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("", "target is empty"),
        ("127.0.0.1", "no address with a port"),
        ("127.0.0.1:", "no address with a port"),
        ("127.0.0.1:99999", "no address with a port"),
        ("127.0.0.1:0", "no address with a port"),
        ("not an address:1", "no address with a port"),
        ("::1:50051", "no address with a port"),
        ("http://127.0.0.1:50051/", "pass HOST:PORT without it: 127.0.0.1:50051"),
        ("grpcs://example.org", "begins with a scheme"),
        ("https://", "no address with a port"),
        ("https://127.0.0.1:50051/v1", "no address with a port"),
        ("https://me:secret@example.org", "no address with a port"),
    ],
)
def test_addresses_that_cannot_be(target: str, key: str) -> None:
    for kind in (topwork.Client, topwork.AsyncClient):
        with pytest.raises(topwork.InvalidInput, match="HOST:PORT") as caught:
            kind(target)
        assert key in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "localhost:1",
        "https://localhost:1",
        "[::1]:50051",
        "a-b.example.org:65535",
        "unix:/tmp/a",
        "dns:///host:1",
        "dns://8.8.8.8/host:1",
        "ipv4:1.2.3.4:5",
    ],
)
def test_addresses_that_can(target: str) -> None:
    assert check_target(target) == target


def command(capsys: pytest.CaptureFixture[str], target: str) -> tuple[int, str]:
    run = Command(target, capsys)
    status = run("encoders", "--timeout", "60")
    assert (run.stdout, len(run.stderr.splitlines())) == ("", 1)
    assert "Traceback" not in run.stderr
    return status, run.stderr


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    status, stderr = command(capsys, "127.0.0.1:1")
    assert status == 1
    assert "127.0.0.1:1: Connection refused" in stderr


def test_a_host_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    status, stderr = command(capsys, "nobody.invalid:50051")
    assert status == 1
    assert "no answer from nobody.invalid:50051: there is no host of that name" in stderr


def test_a_server_of_pages(web: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, stderr = command(capsys, web)
    assert status == 1
    assert "what listens there is no gRPC server" in stderr


def test_another_grpc_server(other: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, stderr = command(capsys, other)
    assert status == 1
    assert "is it a Topwork server?" in stderr


@pytest.mark.parametrize("proxy", ["nonsense", "socks5://127.0.0.1:1", "http://", "127.0.0.1:3128"])
def test_a_proxy_that_is_none_is_named_in_our_words_alone(
    proxy: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("grpc_proxy", proxy)
    with topwork.Client("nosuch.invalid:1", retry_for=0) as client, pytest.raises(topwork.Unavailable) as away:
        client.encoders(timeout=30)
    assert "$grpc_proxy is no http://HOST:PORT" in away.value.remedy
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("proxy", ["web", "127.0.0.1:1"])
def test_a_proxy_that_is_in_the_way(proxy: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: gRPC complains of proxies to its standard error, too."""
    address = request.getfixturevalue("web") if proxy == "web" else proxy
    monkeypatch.setenv("grpc_proxy", f"http://{address}")
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    words: list[Any] = [sys.executable, "-m", "topwork.cli", "encoders", "--server", "192.0.2.1:50051"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    stderr = done.stderr.splitlines()[-1]
    assert "the proxy answered 501" in stderr if proxy == "web" else "Connection refused" in stderr
    assert "calls go through the proxy of $grpc_proxy: set no_grpc_proxy" in stderr
