"""What the peers over HTTP share: a program in an environment of its own, and one POST a request over kept connections."""

from __future__ import annotations

import urllib.request
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar
from urllib.error import HTTPError

from benchmarks.serving.peers import Item, Peer, Rows, Subject, environments
from benchmarks.serving.peers.processes import Program, free_port

if TYPE_CHECKING:
    from aiohttp import ClientSession

#: What is asked first, until it is answered.
FIRST = "the first request"


@dataclass(frozen=True)
class Request:
    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/octet-stream"})


class HttpPeer(Peer):
    """`command`, `request` and `rows` are all that differs. An address is a URL without a path."""

    environment: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    """Whose versions are reported."""

    def __init__(self) -> None:
        self._program: Program | None = None
        self._session: ClientSession | None = None

    @abstractmethod
    def command(self, subject: Subject, port: int) -> list[str]:
        """Without the interpreter of the environment, which runs it."""

    @abstractmethod
    def request(self, items: Sequence[Item]) -> Request: ...

    @abstractmethod
    def rows(self, body: bytes, headers: Mapping[str, str], count: int) -> Rows:
        """Of an answer to a request of `count` items."""

    def variables(self, subject: Subject) -> dict[str, str]:
        """Environment variables beside the harness's own."""
        return {"OMP_NUM_THREADS": str(subject.threads), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}

    def first_items(self, subject: Subject) -> list[Item]:
        if subject.part == "text":
            return [FIRST]
        return [_grey_picture()]

    def missing(self) -> str | None:
        return environments.missing(self.environment)

    def versions(self) -> dict[str, str]:
        return environments.versions(self.environment, *self.packages)

    def start(self, subject: Subject) -> str:
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        command = [str(environments.python_of(self.environment)), *self.command(subject, port)]
        self._program = Program(command, self.variables(subject))
        first = self.request(self.first_items(subject))
        try:
            self._program.wait_until(lambda: _post(address, first))
        except BaseException:
            self.stop()
            raise
        return address

    def stop(self) -> None:
        if self._program:
            self._program.stop()
        self._program = None

    def pids(self) -> Sequence[int]:
        return [self._program.pid] if self._program else []

    async def connect(self, address: str) -> None:
        from aiohttp import ClientSession, ClientTimeout, TCPConnector

        self._session = ClientSession(address, connector=TCPConnector(limit=0), timeout=ClientTimeout(total=120))

    async def embed(self, items: Sequence[Item]) -> Rows:
        assert self._session is not None, "connect first"
        request = self.request(items)
        async with self._session.post(request.path, data=request.body, headers=request.headers) as answer:
            body = await answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{self.name} answered {answer.status}: {body[:200]!r}")
            return self.rows(body, answer.headers, len(items))

    async def close(self) -> None:
        if self._session:
            await self._session.close()
        self._session = None


def _post(address: str, request: Request) -> None:
    """OSError where it is not answered yet; RuntimeError where it is refused for what it holds."""
    asked = urllib.request.Request(address + request.path, request.body, dict(request.headers))
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            answer.read()
    except HTTPError as error:
        if error.code in (400, 415, 422):
            raise RuntimeError(f"{address}{request.path} answered {error.code}: {error.read()[:500]!r}") from error
        raise


def _grey_picture() -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (64, 48), (128, 128, 128)).save(file, "JPEG")
    return file.getvalue()
