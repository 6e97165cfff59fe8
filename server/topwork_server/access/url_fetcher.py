"""Fetches files of media by URL for callers: from allowed hosts, at addresses that were checked, bounded in time and number.

httpcore2 speaks HTTP: it keeps no cookies, follows no redirects, reads no proxies from the environment and unpacks nothing. Each
request has a connection of its own, so that none goes to an address that was checked for another.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from functools import partial

import httpcore2

from topwork_server import __version__
from topwork_server.access.fetch_policy import FetchPolicy, RemoteUrl, is_public, not_public
from topwork_server.errors import InvalidInput, NotReady
from topwork_server.types import Modality

#: Files that one server fetches at a time.
PLACES = 64
#: Names that are looked up at a time.
RESOLVING = 4
#: Redirects of one URL.
MOST_REDIRECTS = 5
#: Addresses of a host that are tried.
MOST_ADDRESSES = 3
#: Seconds to find and to reach one address; without a byte; and in all, to which each MiB that came adds one.
CONNECT, PAUSE, WHOLE = 5.0, 10.0, 30.0
MIB = 1 << 20
REDIRECTS = (301, 302, 303, 307, 308)
#: Types of files whose server does not know them; of S3's the second. None at all means the same.
UNTOLD = ("", "application/octet-stream", "binary/octet-stream")
MEDIA = {"image": Modality.IMAGE, "video": Modality.VIDEO, "audio": Modality.AUDIO}

#: Finds the addresses of a host, for a port.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class RemoteFile:
    """A file that its server is about to send. `modality` is what its type says, and `length` its bytes; None where these
    are not told."""

    def __init__(self, url: RemoteUrl, response: httpcore2.Response, scope: asyncio.Timeout) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        self.url, self._response, self._scope = url, response, scope
        if response.status != 200:
            raise NotReady(f"{url.place} answered {response.status}", remedy="see that the URL leads to a file without a login")
        if (encoding := headers.get(b"content-encoding", "identity").strip().lower()) not in ("", "identity"):
            raise InvalidInput(f"{url.place} sent it packed ({encoding[:40]})", remedy="let the server send the file as it is")
        kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        self.modality = MEDIA.get(kind.partition("/")[0])
        if not self.modality and kind not in UNTOLD:
            raise InvalidInput(f"{url.place} sent {kind[:80]}", remedy="name the URL of a picture, video or recording itself")
        length = headers.get(b"content-length", "")
        self.length = int(length) if length.isdecimal() and len(length) < 20 else None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Its bytes as they come. NotReady where they stop, or come too slowly."""
        end, came = self._scope.when() or 0.0, 0
        async with aclosing(self._response.aiter_stream()) as parts:
            async for part in parts:
                came += len(part)
                if not self._scope.expired():
                    self._scope.reschedule(end + came / MIB)
                yield part


class UrlFetcher:
    """Fetches for one server. `resolve` finds the addresses of hosts. Made on the running loop."""

    def __init__(self, policy: FetchPolicy, resolve: Resolve | None = None) -> None:
        self._policy, self._resolve = policy, resolve or _SystemResolver()
        self._tls = httpcore2.default_ssl_context()
        self._places = asyncio.Semaphore(PLACES)

    def check(self, text: str) -> RemoteUrl:
        """Parse a URL. InvalidInput where it is none, or is not allowed."""
        return self._policy.check(text)

    @asynccontextmanager
    async def open(self, url: RemoteUrl) -> AsyncIterator[RemoteFile]:
        """Ask for a file, following redirects. InvalidInput where one leads elsewhere than is allowed, or to what is no media;
        NotReady where the other server fails."""
        first = url
        async with self._places:
            try:
                async with asyncio.timeout(WHOLE) as scope:
                    for _ in range(MOST_REDIRECTS + 1):
                        async with self._asked(url) as response:
                            location = _location(response)
                            if location is None:
                                yield RemoteFile(url, response, scope)
                                return
                        url = self._redirected(url, location)
                    raise NotReady(f"{first.place} redirects more than {MOST_REDIRECTS} times", remedy="name where it leads")
            except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError) as error:
                raise NotReady(f"{url.place} {_reason(error)}", remedy="try again later, or send the file's own bytes") from None
            except TimeoutError:
                if not scope.expired():
                    raise
                raise NotReady(f"{url.place} is too slow", remedy="try again later, or send the file's own bytes") from None

    def _redirected(self, url: RemoteUrl, location: str) -> RemoteUrl:
        try:
            return self._policy.check(url.joined(location))
        except (InvalidInput, ValueError) as error:
            why = error.message if isinstance(error, InvalidInput) else "to no URL"
            raise InvalidInput(f"{url.place} redirects: {why}", remedy=getattr(error, "remedy", "")) from None

    @asynccontextmanager
    async def _asked(self, url: RemoteUrl) -> AsyncIterator[httpcore2.Response]:
        scheme, host = url.scheme.encode(), url.host.encode()
        pinned = _PinnedBackend(await self._addresses(url))
        origin = httpcore2.Origin(scheme, host, url.port)
        headers: dict[bytes | str, bytes | str] = {
            "Host": url.authority,
            "User-Agent": f"topwork/{__version__}",
            "Accept": "image/*, video/*, audio/*, application/octet-stream;q=0.9",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        async with httpcore2.AsyncHTTPConnection(origin, self._tls, network_backend=pinned) as connection:
            request = httpcore2.Request(
                "GET",
                httpcore2.URL(scheme=scheme, host=host, port=url.port, target=url.target),
                headers=headers,
                extensions={"timeout": {"connect": CONNECT, "read": PAUSE, "write": PAUSE}},
            )
            yield await connection.handle_async_request(request)

    async def _addresses(self, url: RemoteUrl) -> Sequence[str]:
        """The addresses of a host, resolved this once. InvalidInput unless all are public, or it is one that is allowed."""
        if url.address:
            return [url.host]
        try:
            async with asyncio.timeout(CONNECT):
                found = [ipaddress.ip_address(one) for one in await self._resolve(url.host, url.port)]
        except (OSError, ValueError):  # TimeoutError is an OSError
            found = []
        if not found or not all(map(is_public, found)):
            raise not_public(url)
        return [str(one) for one in found[:MOST_ADDRESSES]]


class _PinnedBackend(httpcore2.AnyIOBackend):
    """Connects to one of these addresses, whatever the name, which is for TLS and its certificate alone."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        for address in self._addresses[:-1]:
            try:
                return await super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await super().connect_tcp(self._addresses[-1], port, timeout, local_address, socket_options)


class _SystemResolver:
    """Asks the system, in threads of its own: a name server that does not answer holds up no other work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVING, "resolve")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _location(response: httpcore2.Response) -> str | None:
    """Return where an answer redirects to; None where it does not."""
    if response.status not in REDIRECTS:
        return None
    return next((value.decode("utf-8", "replace") for name, value in response.headers if name.lower() == b"location"), None)


def _reason(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"has a certificate that does not hold: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return "does not speak TLS as it should"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpcore2.ConnectTimeout | httpcore2.ConnectError):
        return "cannot be reached"
    if isinstance(error, httpcore2.TimeoutException):
        return f"sent nothing for {PAUSE:g} s"
    return "broke off" if isinstance(error, httpcore2.NetworkError) else "does not speak HTTP as it should"
