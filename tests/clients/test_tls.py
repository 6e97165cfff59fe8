"""Clients of servers with TLS: what they trust and show, where their key goes, and what the errors name."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import certificates
import grpc
import pytest
import topwork
from both_clients import ClientFactory
from certificates import Pair, put
from cli_command import Command
from fake_server import FakeServer
from topwork._transport import tls
from topwork_server.access.certificates import Authority

SECRET = "tw_0123456789abcdef"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOPWORK_API_KEY", raising=False)
    monkeypatch.delenv("TOPWORK_CA", raising=False)


@pytest.fixture
def made(tmp_path: Path) -> Pair:
    return certificates.pair(tmp_path / "tls")


@contextmanager
def serving(made: Pair, client_ca: bytes | None = None) -> Iterator[FakeServer]:
    pair = [(made.key.read_bytes(), made.cert.read_bytes())]
    with FakeServer(credentials=grpc.ssl_server_credentials(pair, client_ca, client_ca is not None)) as server:
        yield server


def refused(target: str, code: str, **settings: Any) -> topwork.Unavailable:
    """The error of a call, which comes at once though the client would go on for a minute."""
    began = time.monotonic()
    with topwork.Client(target, retry_for=60, **settings) as client, pytest.raises(topwork.Unavailable, match=code) as caught:
        client.encoders()
    assert time.monotonic() - began < 20
    return caught.value


@pytest.mark.parametrize("asynchronous", [False, True])
def test_calls_and_streams_go_through_tls_with_the_key(made: Pair, asynchronous: bool, runner: asyncio.Runner) -> None:
    with serving(made) as server:
        factory = ClientFactory(asynchronous, f"https://{server.target}", runner)
        client = factory.open(ca=made.ca, api_key=SECRET)
        assert client.encoder("letters").name == "letters"
        assert [len(rows) for rows in client.embed_stream("letters", ["1", "2"])] == [2]
        sent = [metadata.get("authorization") for metadata in server.metadata]
        assert sent
        assert set(sent) == {f"Bearer {SECRET}"}
        factory.close()


def test_the_environment_names_key_and_authority(made: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPWORK_API_KEY", SECRET)
    monkeypatch.setenv("TOPWORK_CA", str(made.ca))
    with serving(made) as server, topwork.Client(f"https://{server.target}/") as client:
        client.encoder("letters")
        assert server.metadata[-1]["authorization"] == f"Bearer {SECRET}"


def test_a_client_shows_its_certificate(made: Pair, tmp_path: Path) -> None:
    issued = made.authority.issue(["someone"], client=True)
    put(tmp_path / "mine.pem", issued.certificate)
    put(tmp_path / "mine.key", issued.key)
    mine = {"certificate": str(tmp_path / "mine.pem"), "key": str(tmp_path / "mine.key")}
    with serving(made, made.authority.certificate) as server:
        with topwork.Client(f"https://{server.target}", ca=str(made.ca), **mine) as client:
            assert client.encoder("letters").name == "letters"
        found = refused(f"https://{server.target}", "asks clients for a certificate", ca=made.ca)
        assert "`certificate`" in found.remedy
    with serving(made, Authority().certificate) as server:
        refused(f"https://{server.target}", "asks clients for a certificate", ca=made.ca, **mine)


def test_an_authority_that_is_not_known(made: Pair, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    put(other, Authority().certificate)
    with serving(made) as server:
        for settings in ({}, {"ca": other}):
            assert "`ca`" in refused(f"https://{server.target}", "authority that is not known", **settings).remedy


def test_a_name_that_the_certificate_does_not_have(tmp_path: Path) -> None:
    made = certificates.pair(tmp_path, hosts=("elsewhere.example",))
    with serving(made) as server:
        refused(f"https://{server.target}", "other names", ca=made.ca)


def test_a_certificate_that_has_expired(tmp_path: Path) -> None:
    made = certificates.pair(tmp_path, days=-1)
    with serving(made) as server:
        refused(f"https://{server.target}", "expired", ca=made.ca)


def test_a_server_without_tls(server: FakeServer) -> None:
    assert "without https://" in refused(f"https://{server.target}", "no TLS").remedy


def test_a_server_with_tls_that_is_called_in_plaintext(made: Pair) -> None:
    for client_ca in (None, made.authority.certificate):
        with serving(made, client_ca) as server:
            found = refused(server.target, "speaks TLS")
            assert f"https://{server.target}" in found.remedy


def test_a_server_that_is_away_is_waited_for(made: Pair) -> None:
    client = topwork.Client("https://127.0.0.1:1", ca=made.ca, retry_for=0.3)
    with client, pytest.raises(topwork.Unavailable, match="Connection refused"):
        client.encoders()


@pytest.mark.parametrize(
    ("target", "here"),
    [
        ("127.0.0.1:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("dns:///localhost:1", True),
        ("ipv4:127.0.0.2:1", True),
        ("unix:/tmp/a", True),
        ("127.0.0.1.evil.example:1", False),
        ("localhost.evil.example:1", False),
        ("10.0.0.1:1", False),
        ("dns:///evil.example:1", False),
        ("xds:///localhost:1", False),
    ],
)
def test_a_key_goes_in_plaintext_to_this_machine_alone(target: str, here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tls.stays_here(target) is here
    for settings in ({"api_key": SECRET}, {}):
        if not settings:
            monkeypatch.setenv("TOPWORK_API_KEY", SECRET)
        if here:
            topwork.Client(target, **settings).close()
            continue
        with pytest.raises(topwork.InvalidInput, match="in plaintext") as caught:
            topwork.Client(target, **settings)
        assert SECRET not in str(caught.value)
        topwork.Client(target, insecure=True, **settings).close()
    topwork.Client("https://evil.example:1", api_key=SECRET).close()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"ca": "nowhere.pem"}, "nowhere.pem cannot be read"),
        ({"ca": "mine.key"}, "no certificate of an authority"),
        ({"certificate": "mine.pem"}, "without key"),
        ({"key": "mine.key"}, "without certificate"),
        ({"certificate": "mine.pem", "key": "other.key"}, "no private key of the certificate"),
        ({"api_key": "two words"}, "api_key is no key"),
        ({"api_key": ""}, "api_key is no key"),
        ({"api_key": SECRET, "metadata": [("authorization", "Bearer me")]}, "both have an authorization"),
        ({"ca": "mine.pem", "credentials": grpc.ssl_channel_credentials()}, "beside credentials"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], word: str, made: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.ca.parent)
    issued = made.authority.issue(["someone"], client=True)
    put(Path("mine.pem"), issued.certificate)
    put(Path("mine.key"), issued.key)
    put(Path("other.key"), made.authority.issue(["other"]).key)
    with pytest.raises(topwork.InvalidInput, match=word) as caught:
        topwork.Client("https://127.0.0.1:1", **settings)
    assert SECRET not in str(caught.value)


def test_files_of_tls_need_https(made: Pair) -> None:
    with pytest.raises(topwork.InvalidInput, match="plaintext") as caught:
        topwork.Client("127.0.0.1:1", ca=made.ca)
    assert "https://127.0.0.1:1" in caught.value.remedy


@pytest.mark.parametrize("kind", [topwork.Client, topwork.AsyncClient])
def test_a_key_is_not_shown(kind: Any) -> None:
    client = kind("127.0.0.1:1", api_key=SECRET)
    assert SECRET not in repr(client) + repr(client._connection)
    assert pickle.loads(pickle.dumps(client))._sent == client._sent


def test_the_command_line(made: Pair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPWORK_API_KEY", SECRET)
    with serving(made) as server:
        command = Command(f"https://{server.target}", capsys)
        assert command("encoders", "--ca", made.ca) == 0
        assert server.metadata[-1]["authorization"] == f"Bearer {SECRET}"
        assert command("encoders") == 1
        assert "--ca" in command.stderr
        assert SECRET not in command.stderr
    command = Command("embed.example:50051", capsys)
    assert command("encoders") == 1
    assert "--insecure" in command.stderr
    assert SECRET not in command.stderr
