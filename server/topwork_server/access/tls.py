"""TLS on both ports: the files of the certificate and its key, checked at the start, and read again when they change."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from topwork_server.config import Config
from topwork_server.errors import StartError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

#: Seconds between two looks whether the files have changed. They are looked at where a connection begins.
LOOK_AGAIN = 1.0
#: What is left of a certificate's time when the log begins to warn.
SOON = timedelta(days=7)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the certificate with its chain, its private key, and the authorities of clients' certificates."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def __iter__(self) -> Any:
        return iter([self.certificate, self.key, *([self.client_ca] if self.client_ca else [])])


@dataclass(frozen=True)
class _Loaded:
    """One state of the files, for both ports."""

    context: ssl.SSLContext
    for_grpc: Any


def server_tls(config: Config) -> ServerTls | None:
    """TLS as the settings ask for it; None where they do not. StartError where it cannot be had."""
    if config.tls_cert and config.tls_key:
        return ServerTls(TlsFiles(config.tls_cert, config.tls_key, config.tls_client_ca))
    for flag, given in (
        ("--tls-cert", config.tls_cert),
        ("--tls-key", config.tls_key),
        ("--tls-client-ca", config.tls_client_ca),
    ):
        if given:
            raise StartError(
                f"{flag} is given without the rest", remedy="TLS needs a certificate and its key: --tls-cert FILE --tls-key FILE"
            )
    return None


class ServerTls:
    """Speaks TLS 1.2 and later. Files that cannot be used, be they half-written, leave what was there before, with a warning.
    Safe to use from many threads."""

    def __init__(self, files: TlsFiles) -> None:
        """StartError where the files cannot be used."""
        self._files, self._lock, self._looked = files, threading.Lock(), time.monotonic()
        self._seen = self._stamps()
        self._now = self._of_grpc = _load(files)

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Credentials for the port of gRPC. A connection that begins is given the newest files."""
        return grpc.dynamic_ssl_server_credentials(self._now.for_grpc, self._changed, bool(self._files.client_ca))

    def http_context(self) -> ssl.SSLContext:
        """A TLS context for the port of HTTP; the context of a connection is exchanged for that of the newest files."""
        context = self._now.context
        context.sni_callback = lambda connection, name, _: setattr(connection, "context", self._newest().context)
        return context

    def _changed(self) -> Any:
        newest = self._newest()
        with self._lock:
            if newest is self._of_grpc:
                return None  # as gRPC has it
            self._of_grpc = newest
            return newest.for_grpc

    def _newest(self) -> _Loaded:
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_AGAIN:
                self._look()
                self._looked = time.monotonic()
            return self._now

    def _look(self) -> None:
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps  # from before the files are read: what is written meanwhile is seen the next time
        try:
            self._now = _load(self._files)
            log.info("TLS: read %s and %s again", self._files.certificate, self._files.key)
        except StartError as error:
            log.warning("TLS goes on with the certificate from before: %s", error)

    def _stamps(self) -> Sequence[object]:
        return [_stamp(path) for path in self._files]


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return found.st_mtime_ns, found.st_size, found.st_ino


def _load(files: TlsFiles) -> _Loaded:
    """Read the files and check them. StartError that names the file and what is wrong with it."""
    chain, key = _read(files.certificate, "--tls-cert"), _read(files.key, "--tls-key")
    authorities = _read(files.client_ca, "--tls-client-ca") if files.client_ca else None
    certificate = _certificates(chain, files.certificate)[0]
    _check_key(key, files, certificate)
    _check_time(certificate, files.certificate)
    if authorities is not None and files.client_ca:
        _certificates(authorities, files.client_ca)
    if files.key.stat().st_mode & 0o007:
        log.warning("the private key %s may be used by every user of this machine: chmod 600 it", files.key)
    for_grpc = grpc.ssl_server_certificate_configuration([(key, chain)], authorities)
    return _Loaded(_context(files), for_grpc)


def _read(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}", remedy=f"name a PEM file with {flag}") from error


def _certificates(pem: bytes, path: Path) -> list[Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise StartError(
            f"{path} has no certificate that can be read", remedy="it must be PEM: -----BEGIN CERTIFICATE-----"
        ) from (error)


def _check_key(pem: bytes, files: TlsFiles, certificate: Certificate) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, None)
    except TypeError as error:
        raise StartError(
            f"the private key {files.key} is encrypted, and a server has nobody to ask for its password",
            remedy="`openssl pkey -in KEY -out PLAIN` decrypts it: keep the result at mode 600",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise StartError(
            f"{files.key} has no private key that can be read", remedy="it must be PEM: -----BEGIN PRIVATE KEY-----"
        ) from error
    if key.public_key() != certificate.public_key():
        raise StartError(
            f"the private key {files.key} is not that of the certificate {files.certificate}",
            remedy="name the pair that was made together; the server's own certificate comes first in its file",
        )
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise StartError(f"gRPC cannot use the kind of key in {files.key}", remedy="use one of ECDSA (P-256) or RSA")


def _check_time(certificate: Certificate, path: Path) -> None:
    now, begins, ends = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= ends:
        raise StartError(f"the certificate {path} has expired on {ends:%Y-%m-%d %H:%M} UTC", remedy="renew it")
    if now < begins:
        raise StartError(f"the certificate {path} is not valid before {begins:%Y-%m-%d %H:%M} UTC", remedy="is the clock right?")
    if ends - now < SOON:
        log.warning("the certificate %s expires on %s UTC", path, f"{ends:%Y-%m-%d %H:%M}")


def _context(files: TlsFiles) -> ssl.SSLContext:
    """The context of HTTP. StartError where OpenSSL refuses a file that was read well."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
        if files.client_ca:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
            context.num_tickets = 0  # else a client would come back with a ticket of the authorities from before
            context.options |= ssl.OP_NO_TICKET
    except (OSError, ValueError) as error:  # of which SSLError is one
        reason = getattr(error, "reason", None) or error
        raise StartError(f"{files.certificate} and {files.key} cannot be used for TLS: {reason}", remedy="renew them") from error
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")
