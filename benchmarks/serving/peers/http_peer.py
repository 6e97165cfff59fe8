"""The parts that the peers over HTTP share: a program in an environment of its own, and one POST a request over kept
connections."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, ClassVar
from urllib.error import HTTPError

from benchmarks.processes import start
from benchmarks.serving.peers import Item, Model, Peer, Rows, environments

if TYPE_CHECKING:
    from aiohttp import ClientSession

PATIENCE = 180.0
"""Seconds for a server to answer its first request."""


@dataclass(frozen=True)
class Request:
    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/octet-stream"})


class Program:
    """A peer's server, which ends with all that it started. Its output goes to a file."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        settings = {"stdin": subprocess.DEVNULL, "stdout": self._output, "stderr": subprocess.STDOUT}
        self._process = start(command, env=os.environ | environment, **settings)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, answers: Callable[[], object]) -> None:
        """Wait until `answers` no longer raises OSError. RuntimeError with the end of its output where it ends before, or takes
        too long."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            try:
                answers()
            except OSError:
                time.sleep(0.2)
            else:
                return
        self._output.seek(0)
        raise RuntimeError(f"{self._process.args!r} did not start:\n{self._output.read()[-3000:].decode('utf-8', 'replace')}")

    def stop(self) -> None:
        """Ask all of its session to end, and kill what has not after ten seconds."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return


class HttpPeer(Peer):
    """`command`, `request` and `rows` are all that differs. An address is a URL without a path."""

    environment: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    """Packages whose versions are reported."""

    def __init__(self) -> None:
        self._program: Program | None = None
        self._session: ClientSession | None = None

    @abstractmethod
    def command(self, model: Model, port: int) -> list[str]:
        """Return the command without the interpreter of the environment, which runs it."""

    @abstractmethod
    def request(self, items: Sequence[Item]) -> Request: ...

    @abstractmethod
    def rows(self, body: bytes, headers: Mapping[str, str], count: int) -> Rows:
        """Read the rows of an answer to a request of `count` items."""

    def variables(self, model: Model) -> dict[str, str]:
        """Environment variables beside the harness's own."""
        return {"OMP_NUM_THREADS": str(model.threads), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}

    def missing(self) -> str | None:
        return environments.missing(self.environment)

    def versions(self) -> dict[str, str]:
        return environments.versions(self.environment, *self.packages)

    def start(self, model: Model) -> str:
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        command = [str(environments.python_of(self.environment)), *self.command(model, port)]
        self._program = Program(command, self.variables(model))
        first = self.request(["the first request" if model.part == "text" else _gray_picture()])
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
    """Send a request. OSError where it is not answered yet; RuntimeError where it is refused for what it holds."""
    asked = urllib.request.Request(address + request.path, request.body, dict(request.headers))
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            answer.read()
    except HTTPError as error:
        if error.code in (400, 415, 422):
            raise RuntimeError(f"{address}{request.path} answered {error.code}: {error.read()[:500]!r}") from error
        raise


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def _gray_picture() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (64, 48), (128, 128, 128)).save(file, "JPEG")
    return file.getvalue()
