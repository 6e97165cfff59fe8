"""`topwork keys self-signed`: what it writes serves, is for the names that were given, and is not written over."""

from __future__ import annotations

import json
import ssl
from stat import S_IMODE

import pytest
from topwork.cli import main


def made(capsys, folder, *hosts: str) -> dict[str, str]:
    assert main(["keys", "self-signed", "--json", "--out", str(folder), "--host", *hosts]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_certificate_for_names_and_addresses(tmp_path, capsys):
    files = made(capsys, tmp_path / "tls", "embed.example.com", "10.0.0.7", "2001:db8::7")
    assert S_IMODE((tmp_path / "tls" / "server.key").stat().st_mode) == 0o600
    trusting = ssl.create_default_context(cafile=files["ca"])
    for host, fits in (
        ("embed.example.com", True),
        ("10.0.0.7", True),
        ("2001:db8::7", True),
        ("localhost", True),
        ("other", False),
    ):
        assert handshake(files, trusting, host) is fits, host


def handshake(files: dict[str, str], trusting: ssl.SSLContext, host: str) -> bool:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(files["certificate"], files["key"])
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [trusting.wrap_bio(back, there, server_hostname=host), serving.wrap_bio(there, back, server_side=True)]
    for end in ends * 3:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_files_are_not_written_over(tmp_path, capsys):
    files = made(capsys, tmp_path, "a.example")
    before = (tmp_path / "server.key").read_bytes()
    assert main(["keys", "self-signed", "--out", str(tmp_path), "--host", "b.example"]) == 1
    assert "--out" in capsys.readouterr().err
    assert (tmp_path / "server.key").read_bytes() == before
    assert set(tmp_path.iterdir()) == {tmp_path / name for name in ("ca.pem", "server.pem", "server.key")}
    assert files["key"] == str(tmp_path / "server.key")


@pytest.mark.parametrize("host", ["embed.example.com:50051", "https://a", "", "two names", "1.2.3", "fe80::1%eth0"])
def test_names_that_no_host_has(tmp_path, capsys, host):
    assert main(["keys", "self-signed", "--out", str(tmp_path / "tls"), "--host", host]) == 1
    assert "no name of a host" in capsys.readouterr().err
    assert not (tmp_path / "tls").exists()


def test_it_shows_how_to_serve_and_to_connect(tmp_path, capsys):
    assert main(["keys", "self-signed", "--out", str(tmp_path / "a b"), "--host", "[2001:db8::7]"]) == 0
    out = capsys.readouterr().out
    assert "https://[2001:db8::7]:50051" in out
    assert f"--tls-key '{tmp_path}/a b/server.key'" in out
