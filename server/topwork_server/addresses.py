"""Addresses that a server listens on: parsed, bound, and refused with the reason."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Sequence

import grpc

from topwork_server.errors import StartError

log = logging.getLogger(__name__)


def bind(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None = None) -> str:
    """Bind to HOST:PORT (port 0: any free one), with TLS where it has credentials, and return the address with the port that it
    got."""
    remedy = "--listen HOST:PORT"
    if parse_address(listen)[1]:  # tells why an address is refused, where gRPC only says that it is
        listening_socket(listen, remedy)[0].close()
    try:
        bound = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    except RuntimeError as error:
        raise _cannot_listen(listen, error, remedy) from error
    return f"{listen.rpartition(':')[0]}:{bound}"


def listening_socket(listen: str, remedy: str) -> tuple[socket.socket, str]:
    """A socket bound to HOST:PORT, and its address. StartError where it cannot be had; `remedy` says how to choose another."""
    host, port = parse_address(listen)
    try:
        bound = socket.create_server((host, port), family=_family(host))
    except OSError as error:
        raise _cannot_listen(listen, error, remedy) from error
    return bound, f"{listen.rpartition(':')[0]}:{bound.getsockname()[1]}"


def first_free_socket(listens: Sequence[str], remedy: str) -> tuple[socket.socket, str]:
    """A socket bound to the first of these addresses that no other program has, and its address; a warning tells where it is not
    the first of all. StartError as of `listening_socket`, of the first address where all are taken."""
    taken: StartError | None = None
    for listen in listens:
        try:
            found = listening_socket(listen, remedy)
        except StartError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
                raise
            taken = taken or error
            continue
        if taken:
            log.warning("%s; listening on %s instead (choose another with %s)", taken.message, found[1], remedy)
        return found
    assert taken is not None, "there is an address"
    raise taken


def _cannot_listen(listen: str, error: Exception, remedy: str) -> StartError:
    return StartError(
        f"cannot listen on {listen}: {bind_failure(error)}", remedy=f"stop what listens there, or choose another with {remedy}"
    )


def bind_failure(error: Exception) -> str:
    """The system's own words; `socket.create_server` adds the address to them, which the caller names better."""
    return str(getattr(error, "strerror", None) or error).partition(" (while")[0]


def parse_address(listen: str) -> tuple[str, int]:
    """Parse an address: ("::1", 50051) of "[::1]:50051"."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise StartError(f"{listen!r} is no address to listen on", remedy="write HOST:PORT, such as 127.0.0.1:50051")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
