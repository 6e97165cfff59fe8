"""Certificates for tests of TLS: an authority of the test's own, and files of what it issues."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
from topwork_server.access.certificates import Authority, Issued

HOSTS = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Pair:
    """The files of a server's certificate, and the authority that issued it."""

    cert: Path
    key: Path
    ca: Path
    authority: Authority

    @property
    def settings(self) -> dict[str, Path]:
        """The fields of Config."""
        return {"tls_cert": self.cert, "tls_key": self.key}

    def credentials(self, client: Issued | None = None) -> grpc.ChannelCredentials:
        """Credentials of a channel that trusts the authority."""
        return grpc.ssl_channel_credentials(
            self.authority.certificate, client.key if client else None, client.certificate if client else None
        )

    def context(self) -> ssl.SSLContext:
        """A TLS context of a client of HTTP that trusts the authority."""
        return ssl.create_default_context(cadata=self.authority.certificate.decode())

    def replace(self, issued: Issued) -> None:
        """Put another certificate in the place of the one that is there, as a renewal does."""
        put(self.key, issued.key)
        put(self.cert, issued.certificate)


def pair(folder: Path, hosts: tuple[str, ...] = HOSTS, days: float = 30, authority: Authority | None = None) -> Pair:
    """Issue a server's certificate and write its files."""
    authority = authority or Authority()
    issued = authority.issue(hosts, days)
    folder.mkdir(parents=True, exist_ok=True)
    found = Pair(folder / "server.pem", folder / "server.key", folder / "ca.pem", authority)
    found.replace(issued)
    put(found.ca, authority.certificate)
    return found


def put(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, in one step."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.chmod(0o600)
    new.replace(path)


def serial(pem: str | bytes) -> int:
    from cryptography import x509

    return x509.load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem).serial_number
