"""TLS and keys of a client: what it trusts and shows, where its key may go, and why a server's TLS was not to be had."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import TypeAlias

import grpc

from topwork.errors import InvalidInput

File: TypeAlias = str | PathLike[str]
HTTPS = "https://"
#: Seconds of each step in which a server is asked, once a call has failed, what it speaks.
PROBE = 1.0
CA_VARIABLE, KEY_VARIABLE = "TOPWORK_CA", "TOPWORK_API_KEY"
#: What gRPC says of a handshake that failed -> the reason, and what to do.
_FAILURES: Mapping[str, tuple[str, str]] = {
    r"certificate has expired": (
        "its certificate, or that of its authority, has expired",
        "renew it on the server; is the clock of this machine right?",
    ),
    r"certificate is not yet valid": ("its certificate is not valid yet", "is the clock of this machine right?"),
    r"CERTIFICATE_VERIFY_FAILED": (
        "its certificate is of an authority that is not known here",
        f"pass `ca`, the PEM file of that authority, or set ${CA_VARIABLE}",
    ),
    r"Hostname Verification Check failed|not in peer certificate": (
        "its certificate is for other names",
        "call the server by a name that is in its certificate, or give it one that has this name",
    ),
    r"WRONG_VERSION_NUMBER|HTTP_REQUEST": ("it speaks no TLS", "if that is meant, give its address without https://"),
}


def address(target: str) -> str:
    """The address as gRPC takes it: without https://, whose usual port is 443."""
    if not target.startswith(HTTPS):
        return target
    rest = target.removeprefix(HTTPS).removesuffix("/")
    return rest if re.search(r":\d+$", rest) and not rest.endswith("]") else f"{rest}:443"


def credentials(ca: File | None, certificate: File | None, key: File | None) -> grpc.ChannelCredentials:
    """The credentials of a channel: what it trusts (the file, that of $TOPWORK_CA, or the authorities that come with gRPC), and
    the certificate that it shows. Raises InvalidInput that names the file."""
    if (certificate is None) != (key is None):
        given, other = ("certificate", "key") if key is None else ("key", "certificate")
        raise InvalidInput(f"{given} is given without {other}", remedy=f"pass `{other}` too, its PEM file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca = ca if ca is not None else os.environ.get(CA_VARIABLE) or None
    roots = None if ca is None else _read(ca, "ca")
    if ca is not None:
        with _explained(ca, "has no certificate of an authority"):
            context.load_verify_locations(ca)
    if certificate is None or key is None:
        return grpc.ssl_channel_credentials(roots)
    chain, private = _read(certificate, "certificate"), _read(key, "key")
    with _explained(key, f"is no private key of the certificate {os.fspath(certificate)}"):
        context.load_cert_chain(certificate, key, password=_no_password)
    return grpc.ssl_channel_credentials(roots, private, chain)


def _read(file: File, parameter: str) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read()
    except OSError as error:
        raise InvalidInput(
            f"{os.fspath(file)} cannot be read: {error.strerror}", remedy=f"`{parameter}` is the path of a PEM file"
        ) from error


@contextmanager
def _explained(file: File, what: str) -> Iterator[None]:
    """Turn OpenSSL's errors about a file into InvalidInput."""
    try:
        yield
    except (OSError, ValueError) as error:  # of which SSLError is one
        raise InvalidInput(f"{os.fspath(file)} {what}", remedy="it must be PEM, and not encrypted") from error


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def key_header(api_key: str | None, target: str, encrypted: bool, insecure: bool) -> tuple[tuple[str, str], ...]:
    """The metadata that carries the key, or that of $TOPWORK_API_KEY; none without a key. Raises InvalidInput, which does not
    show the key, for one that cannot be sent, and for one that would go over a network in plaintext."""
    key = api_key if api_key is not None else os.environ.get(KEY_VARIABLE) or None
    if key is None:
        return ()
    named = "api_key" if api_key is not None else f"${KEY_VARIABLE}"
    if not re.fullmatch(r"[!-~]+", key):
        raise InvalidInput(f"{named} is no key", remedy="pass it as it was printed: letters, digits and signs, without spaces")
    if not encrypted and not insecure and not stays_here(target):
        raise InvalidInput(
            f"{named} would go to {target} in plaintext, where others can read it",
            remedy=f"connect with TLS: https://{target}, or pass `insecure`",
        )
    return (("authorization", f"Bearer {key}"),)


def stays_here(target: str) -> bool:
    """Tell whether what is sent to an address does not leave this machine: unlike a name that merely begins like one of it."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = re.sub(r"^(dns:(///?)?|ipv4:|ipv6:)", "", target).rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def failure(details: str, target: str) -> tuple[str, str] | None:
    """The reason and the remedy of a connection that was not made, where TLS is the reason: from gRPC's details, or, where they
    leave it open, from the server itself, which is asked for at most a few seconds."""
    for pattern, found in _FAILURES.items():
        if re.search(pattern, details):
            return found
    if not re.search(r"Socket closed|Connection reset|Broken pipe", details):
        return None
    encrypted = target.startswith(HTTPS)
    speaks_tls, refused = _probe(address(target))
    if speaks_tls and not encrypted:
        return "it speaks TLS, and was called in plaintext", f"give its address as https://{target}"
    if refused and encrypted:
        return (
            "it asks clients for a certificate of an authority that it knows",
            "pass `certificate` and `key`, PEM files that this authority issued",
        )
    return None


def _probe(target: str) -> tuple[bool, bool]:
    """Tell whether a server speaks TLS, and whether it ends the connection of a client without a certificate."""
    host, _, port = target.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    greeted = False
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE) as raw, context.wrap_socket(raw) as connection:
            greeted = True
            return True, not connection.recv(1)  # a server that takes the client begins with its SETTINGS
    except TimeoutError:
        return greeted, False
    except ssl.SSLError as error:
        return greeted or "ALERT" in (error.reason or ""), "CERTIFICATE" in (error.reason or "")
    except (OSError, ValueError):
        return greeted, greeted
