"""Addresses that other machines reach: refused without TLS and authentication, and opened aloud."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys

import pytest
from certificates import pair, put
from fake_engine import served
from topwork_server.access.exposure import check_exposed, is_loopback
from topwork_server.errors import StartError

REACHED = ["0.0.0.0:0", "[::]:0", "0:0", "192.0.2.7:50051", "[::ffff:0.0.0.0]:0", "[::ffff:192.0.2.7]:0", "[fe80::1]:0", "10.1:0"]
LOOPBACK = ["127.0.0.1:0", "127.1.2.3:50051", "[::1]:0", "localhost:0", "[::ffff:127.0.0.1]:0", "127.1:0", "2130706433:0"]


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_is_free(address):
    check_exposed(address, tls=False, authenticated=False, insecure=False)


@pytest.mark.parametrize("address", REACHED)
def test_other_addresses_need_tls_and_authentication(address, caplog):
    for tls, authenticated, missing in (
        (False, False, "no TLS and no authentication"),
        (True, False, "no authentication"),
        (False, True, "no TLS"),
    ):
        with pytest.raises(StartError, match=missing) as caught:
            check_exposed(address, tls=tls, authenticated=authenticated, insecure=False)
        assert address in caught.value.message
        assert "--insecure" in caught.value.remedy
    check_exposed(address, tls=True, authenticated=True, insecure=False)
    assert not caplog.text


def test_what_insecure_opens_is_told(caplog):
    check_exposed("0.0.0.0:1", tls=False, authenticated=False, insecure=True)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 2
    assert all("0.0.0.0:1" in line for line in told)
    assert "delete sets" in caplog.text


def test_a_name_is_what_it_resolves_to(monkeypatch):
    both = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (number, 0)) for number in ("127.0.0.1", "192.0.2.7")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert not is_loopback("machine:50051")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both[:1])
    assert is_loopback("machine:50051")


@pytest.mark.parametrize("port", ["listen", "http"])
async def test_a_server_is_exposed_on_neither_port(tmp_path, port):
    with pytest.raises(StartError, match="other machines"):
        async with served(tmp_path, **({"address": "0.0.0.0:0"} if port == "listen" else {"http": "0.0.0.0:0"})):
            pass


async def test_a_server_with_tls_and_certificates_of_clients_is_reached(tmp_path, caplog):
    made = pair(tmp_path / "tls")
    put(tmp_path / "clients.pem", made.authority.certificate)
    async with served(tmp_path, "0.0.0.0:0", http="0.0.0.0:0", **made.settings, tls_client_ca=tmp_path / "clients.pem") as server:
        assert server.ready.tls
    assert "insecure" not in caplog.text


def test_the_refusal_of_the_command_line(tmp_path):
    command = [sys.executable, "-m", "topwork.cli", "serve", "--home", str(tmp_path), "--listen", "0.0.0.0:0", "--http", "off"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 2
    assert "--insecure" in found.stderr
    assert found.stderr.splitlines()[-1].startswith("topwork: other machines reach 0.0.0.0:0")
