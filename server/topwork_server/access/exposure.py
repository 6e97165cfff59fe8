"""Addresses that other machines reach, and what a server needs to listen on one."""

from __future__ import annotations

import ipaddress
import logging
import socket

from topwork_server.addresses import parse_address
from topwork_server.errors import StartError

log = logging.getLogger(__name__)

_REMEDY = {
    "TLS": "--tls-cert FILE --tls-key FILE (`topwork keys self-signed` makes a pair for a first try)",
    "authentication": "a key (`topwork keys add NAME --role ROLE`), or --tls-client-ca FILE, which asks clients for certificates",
}
_OPENS = {
    "TLS": "what is sent to %s and back, keys among it, can be read and changed by whoever is on the way (--insecure)",
    "authentication": "whoever reaches %s may embed, search, read, write and delete sets, train heads and cancel jobs: nobody is "
    "asked who they are (--insecure)",
}


def check_exposed(address: str, *, tls: bool, authenticated: bool, insecure: bool) -> None:
    """Check HOST:PORT before a server listens there: loopback is free, any other needs TLS and authentication. StartError that
    says what is missing; with `insecure`, a warning of what is opened instead."""
    missing = [what for what, there in (("TLS", tls), ("authentication", authenticated)) if not there]
    if not missing or is_loopback(address):
        return
    if not insecure:
        give = " and ".join(_REMEDY[what] for what in missing)
        raise StartError(
            f"other machines reach {address}, and this server has no {' and no '.join(missing)}",
            remedy=f"give it {give}, or listen on 127.0.0.1, or open it to all as it is with --insecure",
        )
    for what in missing:
        log.warning(_OPENS[what], address)


def is_loopback(address: str) -> bool:
    """Tell whether HOST:PORT is reached from this machine alone, whatever its name resolves to. StartError where it is none."""
    host, _ = parse_address(address)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise StartError(
            f"cannot listen on {address}: {error.strerror}", remedy="name an address of this machine, such as 127.0.0.1:50051"
        ) from error
    return all(_is_loopback(str(info[4][0])) for info in found)


def _is_loopback(number: str) -> bool:
    ip = ipaddress.ip_address(number)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
