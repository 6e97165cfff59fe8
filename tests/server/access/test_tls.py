"""TLS of both ports, over real connections: versions, client certificates, renewal while connected, and files that cannot be."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import warnings
from pathlib import Path

import grpc
import pytest
from certificates import Pair, pair, put, serial
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from fake_engine import ServedApp, served
from topwork.v1 import encoders_pb2, encoders_pb2_grpc, types_pb2
from topwork_server.access.certificates import Authority
from topwork_server.access.tls import LOOK_AGAIN, ServerTls, TlsFiles
from topwork_server.errors import StartError


def ask(text: str) -> encoders_pb2.EmbedRequest:
    settings = encoders_pb2.EmbedSettings(encoder="ready")
    return encoders_pb2.EmbedRequest(settings=settings, items=[types_pb2.Item(text=text)])


async def embed(server: ServedApp, credentials: grpc.ChannelCredentials) -> None:
    async with grpc.aio.secure_channel(server.ready.address, credentials) as channel:
        await encoders_pb2_grpc.EncodersStub(channel).Embed(ask("a"), timeout=10)


def get(server: ServedApp, context: ssl.SSLContext) -> int:
    host, _, port = server.ready.http.rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=10)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    finally:
        connection.close()


def shown(address: str, context: ssl.SSLContext | None = None) -> int:
    """The serial number of the certificate that a server shows."""
    host, _, port = address.rpartition(":")
    context = context or ssl._create_unverified_context()
    with socket.create_connection((host, int(port)), 10) as raw, context.wrap_socket(raw, server_hostname=host) as found:
        return serial(ssl.DER_cert_to_PEM_cert(found.getpeercert(binary_form=True)))


def client_context(made: Pair, folder: Path, authority: Authority) -> ssl.SSLContext:
    issued = authority.issue(["someone"], client=True)
    put(folder / "client.pem", issued.certificate + issued.key)
    context = made.context()
    context.load_cert_chain(folder / "client.pem")
    return context


async def test_both_ports_speak_tls(tmp_path):
    made = pair(tmp_path / "tls")
    async with served(tmp_path / "home", http="127.0.0.1:0", **made.settings) as server:
        assert server.ready.tls
        await embed(server, made.credentials())
        assert await asyncio.to_thread(get, server, made.context()) == 200
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.encoders.Embed(ask("a"))  # in plaintext
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert len(server.engine.asked) == 1


async def test_a_certificate_is_for_its_names_alone(tmp_path):
    made = pair(tmp_path / "tls", hosts=("elsewhere.example",))
    async with served(tmp_path / "home", http="127.0.0.1:0", **made.settings) as server:
        with pytest.raises(grpc.aio.AioRpcError):
            await embed(server, made.credentials())
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            await asyncio.to_thread(get, server, made.context())


@pytest.mark.parametrize("port", ["address", "http"])
async def test_versions_and_protocols(tmp_path, port):
    made = pair(tmp_path / "tls")

    def version(least: ssl.TLSVersion, most: ssl.TLSVersion) -> tuple[str | None, str | None]:
        context = made.context()
        with warnings.catch_warnings(action="ignore"):  # of versions that nobody should use
            context.minimum_version, context.maximum_version = least, most
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else OpenSSL would not even offer TLS 1.1
        context.set_alpn_protocols(["h2", "http/1.1"])
        host, _, number = getattr(server.ready, port).rpartition(":")
        with socket.create_connection((host, int(number)), 10) as raw, context.wrap_socket(raw, server_hostname=host) as found:
            return found.version(), found.selected_alpn_protocol()

    async with served(tmp_path / "home", http="127.0.0.1:0", **made.settings) as server:
        protocol = "h2" if port == "address" else "http/1.1"
        v1, v2, v3 = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
        assert await asyncio.to_thread(version, v2, v2) == ("TLSv1.2", protocol)
        assert await asyncio.to_thread(version, v1, v3) == ("TLSv1.3", protocol)
        with pytest.raises(ssl.SSLError, match="SSL"):  # of HTTP without an alert: asyncio closes the connection
            await asyncio.to_thread(version, v1, ssl.TLSVersion.TLSv1_1)


async def test_clients_need_a_certificate_of_the_authority_that_is_named(tmp_path):
    made, clients = pair(tmp_path / "tls"), Authority("clients")
    put(tmp_path / "clients.pem", clients.certificate)
    settings = {**made.settings, "tls_client_ca": tmp_path / "clients.pem"}
    async with served(tmp_path / "home", http="127.0.0.1:0", **settings) as server:
        await embed(server, made.credentials(clients.issue(["someone"], client=True)))
        mine = client_context(made, tmp_path, clients)
        assert await asyncio.to_thread(get, server, mine) == 200
        assert await asyncio.to_thread(get, server, mine) == 200
        others = Authority("clients")  # of the same name, with another key
        with pytest.raises(grpc.aio.AioRpcError):
            await embed(server, made.credentials())
        with pytest.raises(grpc.aio.AioRpcError):
            await embed(server, made.credentials(others.issue(["someone"], client=True)))
        for context in (made.context(), client_context(made, tmp_path, others)):
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
                await asyncio.to_thread(get, server, context)
        assert len(server.engine.asked) == 1


async def until_shown(address: str, number: int) -> None:
    while await asyncio.to_thread(shown, address) != number:
        await asyncio.sleep(LOOK_AGAIN / 10)


@pytest.mark.timeout(60)
async def test_files_that_change_are_read_again_while_clients_stay_connected(tmp_path, caplog):
    made = pair(tmp_path / "tls")
    async with served(tmp_path / "home", http="127.0.0.1:0", **made.settings) as server:
        async with grpc.aio.secure_channel(server.ready.address, made.credentials()) as channel:
            stub = encoders_pb2_grpc.EncodersStub(channel)
            await stub.Embed(ask("a"))
            before = serial(made.cert.read_bytes())
            assert await asyncio.to_thread(shown, server.ready.http) == before
            renewed = made.authority.issue(("localhost", "127.0.0.1"))
            made.replace(renewed)
            await until_shown(server.ready.http, serial(renewed.certificate))
            await until_shown(server.ready.address, serial(renewed.certificate))
            await stub.Embed(ask("a"))  # on the connection from before
        await embed(server, made.credentials())
        assert await asyncio.to_thread(get, server, made.context()) == 200


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", ["half", "other key", "missing", "expired"])
async def test_files_that_cannot_be_used_leave_those_from_before(tmp_path, caplog, damage):
    made = pair(tmp_path / "tls")
    before = serial(made.cert.read_bytes())
    async with served(tmp_path / "home", http="127.0.0.1:0", **made.settings) as server:
        if damage == "half":
            made.cert.write_bytes(made.cert.read_bytes()[:300])
        elif damage == "other key":
            put(made.key, made.authority.issue(["localhost"]).key)
        elif damage == "missing":
            made.key.unlink()
        else:
            made.replace(made.authority.issue(("127.0.0.1",), days=-1))
        while "certificate from before" not in caplog.text:
            await embed(server, made.credentials())
            assert await asyncio.to_thread(shown, server.ready.http) == before
            await asyncio.sleep(LOOK_AGAIN / 10)
        assert caplog.text.count("certificate from before") == 1
        renewed = made.authority.issue(("localhost", "127.0.0.1"))
        made.replace(renewed)
        await until_shown(server.ready.address, serial(renewed.certificate))
        await until_shown(server.ready.http, serial(renewed.certificate))


@pytest.mark.timeout(60)
async def test_authorities_of_clients_are_exchanged_too(tmp_path):
    made, first, second = pair(tmp_path / "tls"), Authority("first"), Authority("second")
    put(tmp_path / "clients.pem", first.certificate)
    settings = {**made.settings, "tls_client_ca": tmp_path / "clients.pem"}
    async with served(tmp_path / "home", http="127.0.0.1:0", **settings) as server:
        old = client_context(made, tmp_path, first)
        new = client_context(made, tmp_path, second)
        assert await asyncio.to_thread(get, server, old) == 200
        put(tmp_path / "clients.pem", second.certificate)
        await asyncio.sleep(LOOK_AGAIN)
        assert await asyncio.to_thread(get, server, new) == 200
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            await asyncio.to_thread(get, server, old)
        await embed(server, made.credentials(second.issue(["someone"], client=True)))
        with pytest.raises(grpc.aio.AioRpcError):
            await embed(server, made.credentials(first.issue(["someone"], client=True)))


def pem(key: object, encryption: object = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


@pytest.mark.parametrize(
    ("damage", "word", "remedy"),
    [
        ("no certificate", "No such file", "--tls-cert"),
        ("no key", "No such file", "--tls-key"),
        ("a folder", "directory", "--tls-cert"),
        ("no pem", "no certificate", "PEM"),
        ("no pem key", "no private key", "PEM"),
        ("other key", "not that of the certificate", "pair"),
        ("encrypted", "encrypted", "openssl"),
        ("expired", "expired", "renew"),
        ("no client ca", "No such file", "--tls-client-ca"),
        ("empty client ca", "no certificate", "PEM"),
    ],
)
def test_files_that_cannot_be_refuse_the_start(tmp_path, damage, word, remedy):
    made, ca = pair(tmp_path), None
    match damage:
        case "no certificate":
            made.cert.unlink()
        case "no key":
            made.key.unlink()
        case "a folder":
            made.cert.unlink()
            made.cert.mkdir()
        case "no pem":
            made.cert.write_bytes(b"\x30\x82")
        case "no pem key":
            made.key.write_text("secret")
        case "other key":
            put(made.key, pem(rsa.generate_private_key(65537, 2048)))
        case "encrypted":
            put(made.key, pem(load_pem_private_key(made.key.read_bytes(), None), BestAvailableEncryption(b"secret")))
        case "expired":
            made.replace(made.authority.issue(["localhost"], days=-1))
        case "no client ca":
            ca = tmp_path / "nowhere.pem"
        case "empty client ca":
            ca = tmp_path / "empty.pem"
            ca.write_text("")
    with pytest.raises(StartError, match=word) as caught:
        ServerTls(TlsFiles(made.cert, made.key, ca))
    assert remedy in caught.value.remedy
    assert "secret" not in str(caught.value)


def test_a_key_that_others_may_read_is_warned_of(tmp_path, caplog):
    made = pair(tmp_path)
    made.key.chmod(0o644)
    ServerTls(TlsFiles(made.cert, made.key))
    assert "chmod 600" in caplog.text


def test_a_certificate_that_soon_expires_is_warned_of(tmp_path, caplog):
    made = pair(tmp_path, days=2)
    ServerTls(TlsFiles(made.cert, made.key))
    assert "expires on" in caplog.text


async def test_a_certificate_without_its_key_is_refused(tmp_path):
    made = pair(tmp_path / "tls")
    for flag in ("tls_cert", "tls_key", "tls_client_ca"):
        with pytest.raises(StartError, match=f"--{flag.replace('_', '-')}"):
            async with served(tmp_path / flag, **{flag: made.cert}):
                pass
