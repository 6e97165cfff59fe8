"""Addresses of servers: which can be one, and why there was no answer from one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

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


def check(target: str) -> str:
    """The address as it is. Raises InvalidInput where none can be reached by it."""
    remedy = "pass the server's HOST:PORT, such as 127.0.0.1:50051"
    if not target:
        raise InvalidInput("target is empty", remedy=remedy)
    if target.startswith(SCHEMES):
        return target
    if web := re.match(r"(https?|grpcs?|tcp)://(?P<rest>[^/]*)", target):
        said = "pass HOST:PORT without it" + (f": {web['rest']}" if re.search(r":\d+$", web["rest"]) else "")
        raise InvalidInput(f"{target!r} begins with a scheme", remedy=said)
    plain = re.sub(r"^dns:(//[^/]*/)?", "", target)
    found = re.fullmatch(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):(?P<port>\d+)", plain)
    if not found or not 0 < int(found["port"][:6]) < 1 << 16:
        raise InvalidInput(f"{target!r} is no address with a port (1 to 65535)", remedy=remedy)
    return target


def is_local(target: str) -> bool:
    """Whether the address is this machine, which no proxy stands before."""
    return re.match(r"(ipv4:|ipv6:|dns:/*)?(127\.|localhost\b|\[?::1\b)|unix", target) is not None


def proxy_variable() -> str | None:
    """The environment variable that gRPC takes its proxy from, if one is set."""
    return next((name for name in PROXIES if os.environ.get(name)), None)


def is_proxy(uri: str) -> bool:
    """Tell whether gRPC can go through it: it reports others on stderr, and goes without."""
    return re.match(r"http://([^@/]*@)?[^\s:/@]", uri) is not None


def reason(details: str) -> str:
    """Why no connection was made, out of what gRPC says."""
    for pattern, plain in REASONS.items():
        if found := re.search(pattern, details):
            return found.expand(plain)
    return re.sub(r"^failed to connect to all addresses; last error: .*: ", "", details)


def remedy(target: str) -> str:
    """What to do about a server that does not answer."""
    proxy = None if is_local(target) else proxy_variable()
    if proxy and not is_proxy(os.environ[proxy]):
        return f"${proxy} is no http://HOST:PORT, so calls go through no proxy: write it so, or unset it"
    if proxy is None:
        return "start a server with `topwork serve`, or give its address"
    return f"calls go through the proxy of ${proxy}: set no_grpc_proxy to the server's host where that is wrong"
