"""Rules of which URLs the server may fetch for its callers: hosts that its operator named, at addresses of the public internet.

A URL is parsed once, strictly, and what was parsed is what is connected to: no other reader of it may take it for another place.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from topwork._display.excerpts import excerpt

from topwork_server.errors import InvalidInput, StartError

#: In the place of a host: all.
ANY_HOST = "*"
PORTS = {"https": 443, "http": 80}
LONGEST_URL = 8192
#: What some readers of URLs pass over or take for a slash.
_ODD = re.compile(r"[\x00-\x1f\x7f\\]")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
#: The last label of what the WHATWG's parser reads as an IPv4 address (url.spec.whatwg.org, "ends in a number").
_NUMBER = re.compile(r"([0-9]+|0x[0-9a-f]*)")
#: Characters that stay as they are in the target of a request.
_SAFE = "%/?:@!$&'()*+,;=~[]"
#: Global unicast (RFC 4291, section 2.4): all other IPv6 addresses are local, or hold one of IPv4, as mapped ones and NAT64's do.
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
#: Parts of it, and of IPv4's public ranges, that lead elsewhere: Teredo and protocols of the IETF, 6to4 and its relays,
#: documentation, and the address at which Azure's machines find the services of their host.
_ELSEWHERE = tuple(
    map(ipaddress.ip_network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "192.88.99.0/24", "168.63.129.16/32"))
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class RemoteUrl:
    """A parsed URL. `host` is a name in small letters without a final dot, or an address in its usual form, without brackets;
    `target` is its path with the query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def address(self) -> Address | None:
        """The address that stands in the place of a name."""
        return _address(self.host)

    @property
    def authority(self) -> str:
        """The host, and the port where it is not the usual one, as in the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def place(self) -> str:
        """The place where it is, without what it asks for there, which may be a secret."""
        return f"{self.scheme}://{self.authority}"

    def joined(self, location: str) -> str:
        """Resolve where a redirect leads, relative to this URL."""
        return urljoin(self.place + self.target, location)


@dataclass(frozen=True, slots=True)
class FetchRule:
    """A host that may be fetched from, by one scheme at one port: a name, `*.` and the end of names, an address, or ANY_HOST."""

    scheme: str
    host: str
    port: int

    def allows(self, url: RemoteUrl) -> bool:
        if (url.scheme, url.port) != (self.scheme, self.port):
            return False
        return self.host in (url.host, ANY_HOST) or (self.host.startswith("*.") and url.host.endswith(self.host[1:]))


class FetchPolicy:
    """The rules of `--allow-fetch`. StartError for one that names no host."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self.rules = tuple(map(_rule, hosts))

    @property
    def open_to_all(self) -> bool:
        """Tell whether a host need not be named."""
        return any(rule.host == ANY_HOST for rule in self.rules)

    def check(self, text: str) -> RemoteUrl:
        """Parse a URL. InvalidInput where it is none, or is not allowed."""
        url = parse_url(text)
        allowed_as = [rule.host for rule in self.rules if rule.allows(url)]
        if not allowed_as:
            named = url.authority if url.scheme == "https" else url.place
            raise InvalidInput(
                f"this server does not fetch from {url.place}",
                remedy=f"send the file's own bytes as a data URI, or serve with --allow-fetch {named} too",
            )
        if url.address and url.host not in allowed_as and not is_public(url.address):
            raise not_public(url)
        return url


def not_public(url: RemoteUrl) -> InvalidInput:
    """The refusal of a host that is not at public addresses. It does not tell whether there is such a name, or which address it
    has: these are not the caller's to learn."""
    return InvalidInput(
        f"{url.place} was not found at a public address",
        remedy="send the file's own bytes as a data URI; the server's operator may allow a private address by its number",
    )


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the public internet: not private, of this machine or this network, shared by a provider,
    reserved, for groups, or another one in disguise (IPv4 within IPv6)."""
    if isinstance(address, ipaddress.IPv6Address) and (address not in _GLOBAL_IPV6 or address.scope_id):
        return False
    return address.is_global and not address.is_multicast and not any(address in network for network in _ELSEWHERE)


def parse_url(text: str) -> RemoteUrl:
    """Parse a URL of http or https. InvalidInput where it is none, or is written so that readers differ about its host."""
    try:
        parts, port = _parts(text)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return RemoteUrl(parts.scheme, _host(parts.hostname or "", parts.netloc), port, quote(target, safe=_SAFE))
    except ValueError as error:
        raise InvalidInput(f"{excerpt(text)} is no URL that can be fetched: {error}", remedy="write https://HOST/PATH") from None


def _rule(text: str) -> FetchRule:
    try:
        parts, port = _parts(text if "://" in text else f"https://{text}")
        if parts.path.removeprefix("/") or parts.query or parts.fragment:
            raise ValueError("it has more than a host and a port")
        if (name := parts.hostname or "") == ANY_HOST:
            return FetchRule(parts.scheme, ANY_HOST, port)
        host = _host(name.removeprefix("*."), parts.netloc)
        if name.startswith("*.") and _address(host):
            raise ValueError("an address has no parts")
        if host == "localhost":
            raise ValueError("names are not fetched from addresses of this machine: write 127.0.0.1")
        return FetchRule(parts.scheme, f"*.{host}" if name.startswith("*.") else host, port)
    except ValueError as error:
        raise StartError(
            f"--allow-fetch {text[:100]!r} names no host: {error}",
            remedy="write HOST, *.HOST or HOST:PORT, after http:// where it has no TLS, or '*' for all",
        ) from None


def _parts(url: str) -> tuple[SplitResult, int]:
    """The parts of a URL and its port. ValueError with the reason where it is odd."""
    if len(url) > LONGEST_URL:
        raise ValueError("it is too long")
    if _ODD.search(url):
        raise ValueError("it has control characters or backslashes")
    parts = urlsplit(url)
    if parts.scheme not in PORTS:
        raise ValueError("it is neither of https nor of http")
    if "@" in parts.netloc:
        raise ValueError("it has a user or a password")
    port = PORTS[parts.scheme] if parts.port is None else parts.port
    if not port:
        raise ValueError("there is no port 0")
    return parts, port


def _host(name: str, authority: str) -> str:
    """The host in its usual form. ValueError with the reason where it is none."""
    if authority.startswith("["):
        if "%" in name or authority.partition("]")[2][:1] not in ("", ":"):
            raise ValueError("its address has more than an address")
        return str(ipaddress.IPv6Address(name))
    if not name.isascii():
        raise ValueError("its host has letters that are not ASCII: write its IDNA form, xn--...")
    name = name.removesuffix(".")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        return str(ipaddress.IPv4Address(name))  # four decimal numbers: octal ones, and fewer, are refused
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise ValueError("it has no host, or one with other than letters, digits, hyphens and dots")
    return name


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
