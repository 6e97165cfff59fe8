"""Channels of both clients, checks of addresses, and reasons why there was no answer from one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import grpc

from topwork._transport import tls
from topwork._transport.calls import Method
from topwork.errors import InvalidInput

#: Schemes of gRPC's own names, whose rest is gRPC's to read.
SCHEMES = ("ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:", "google-c2p:")
#: Environment variables that gRPC takes a proxy from, the first that is set.
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
#: What gRPC says of a connection that was not made -> what a person reads.
REASONS: Mapping[str, str] = {
    r"Domain name not found|Misformatted domain name|address lookup failed": "there is no host of that name",
    r"HTTP proxy returned response code (\d+)": r"the proxy answered \1",
    r"Failed parsing HTTP/2|http1\.x": "what listens there is no gRPC server",
    r"No route to host|Network is unreachable": "there is no way to it",
    r"Connection refused": "Connection refused",
}


def check_target(target: str) -> str:
    """The address as it is. Raises InvalidInput where none can be reached by it."""
    instead = "pass the server's HOST:PORT, such as 127.0.0.1:50051, or https://HOST:PORT where it speaks TLS"
    if not target:
        raise InvalidInput("target is empty", remedy=instead)
    if target.startswith(SCHEMES):
        return target
    if target.startswith(tls.HTTPS):
        return tls.HTTPS + _checked(tls.address(target), target, instead)
    if web := re.match(r"(http|grpcs?|tcp)://(?P<rest>[^/]*)", target):
        remedy = "pass HOST:PORT without it" + (f": {web['rest']}" if re.search(r":\d+$", web["rest"]) else "")
        raise InvalidInput(f"{target!r} begins with a scheme", remedy=remedy)
    _checked(re.sub(r"^dns:(//[^/]*/)?", "", target), target, instead)
    return target


def _checked(plain: str, target: str, instead: str) -> str:
    found = re.fullmatch(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]@]+):(?P<port>\d+)", plain)
    if not found or not 0 < int(found["port"][:6]) < 1 << 16:
        raise InvalidInput(f"{target!r} is no address with a port (1 to 65535)", remedy=instead)
    return plain


def is_local(target: str) -> bool:
    """Tell whether the address is this machine, which is reached without a proxy."""
    return re.match(r"(ipv4:|ipv6:|dns:/*)?(127\.|localhost\b|\[?::1\b)|unix", target) is not None


def proxy_variable() -> str | None:
    """The environment variable that gRPC takes its proxy from, if one is set."""
    return next((name for name in PROXIES if os.environ.get(name)), None)


def is_proxy(uri: str) -> bool:
    """Tell whether gRPC can go through it: it reports others on stderr, and goes without."""
    return re.match(r"http://([^@/]*@)?[^\s:/@]", uri) is not None


def unreached_reason(details: str) -> str:
    """Say why no connection was made, from gRPC's details."""
    for pattern, plain in REASONS.items():
        if found := re.search(pattern, details):
            return found.expand(plain)
    return re.sub(r"^failed to connect to all addresses; last error: .*: ", "", details)


def unreached_remedy(target: str) -> str:
    """Say what to do about a server that does not answer."""
    proxy = None if is_local(tls.address(target)) else proxy_variable()
    if proxy and not is_proxy(os.environ[proxy]):
        return f"${proxy} is no http://HOST:PORT, so calls go through no proxy: write it so, or unset it"
    if proxy is None:
        return "start a server with `topwork serve`, or give its address"
    return f"calls go through the proxy of ${proxy}: set no_grpc_proxy to the server's host where that is wrong"


LARGEST_MESSAGE = 64 << 20


def connect(api: Any, target: str, gzip: bool, credentials: Any) -> Any:
    """A channel of `api`: grpc or grpc.aio."""
    target = tls.address(target)
    arguments = options(target)
    compression = grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression
    if credentials is None:
        return api.insecure_channel(target, arguments, compression)
    return api.secure_channel(target, credentials, arguments, compression)


def stub(channel: Any, method: Method[Any, Any]) -> Any:
    """A callable for one method, of either API."""
    return getattr(channel, method.kind)(method.path, method.request.SerializeToString, method.reply.FromString)


def options(target: str) -> list[tuple[str, Any]]:
    """Channel arguments. What a server answers is for the server to limit; what it takes is 64 MiB a message."""
    chosen: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", LARGEST_MESSAGE),
        ("grpc.max_receive_message_length", -1),
        # A call that nothing is heard of for a minute may sit on a lost connection.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # A retry finds a server that has just come back, though connecting to it failed a moment ago.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.enable_retries", 0),  # `retry.py` knows more: how long, and what must not be done twice
    ]
    proxy = proxy_variable()
    if is_local(target) or (proxy and not is_proxy(os.environ[proxy])):
        chosen.append(("grpc.enable_http_proxy", 0))
    return chosen
