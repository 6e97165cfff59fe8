"""Topwork itself, as `topwork serve` with its defaults, through its asynchronous client on one connection."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchmarks.processes import end_processes, start_server, tree
from benchmarks.serving.parts import PARTS
from benchmarks.serving.peers import Item, Model, Peer, Rows
from benchmarks.serving.results import installed

if TYPE_CHECKING:
    from topwork import AsyncClient


class Topwork(Peer):
    """Topwork on plain onnxruntime in fp32."""

    name = "topwork cpu"
    parts: ClassVar[tuple[str, ...]] = ("text", "pictures", "video", "words")
    most_items = 256
    streams = True
    provider: ClassVar[str] = "cpu"
    _process: subprocess.Popen[str] | None = None
    _client: AsyncClient | None = None
    _encoder = _address = ""
    _first: Sequence[Item] = ()

    def start(self, model: Model) -> str:
        flags = ("--provider", self.provider, "--threads", str(model.threads), "--feature-cache", "0")
        self._process, address = start_server(model.home, *flags)
        self._address = f"{address} {model.encoder}"
        self._first = PARTS[model.part].items()[:1]
        return self._address

    def stop(self) -> None:
        if self._process is not None:
            end_processes(tree([self._process.pid]))
            self._process.wait()

    def pids(self) -> Sequence[int]:
        return [self._process.pid] if self._process else []

    packages: ClassVar[tuple[str, ...]] = ("topwork-server", "onnxruntime-gpu", "grpcio")

    def versions(self) -> dict[str, str]:
        return {name: version for name in self.packages if (version := installed(name))}

    def device(self) -> str:
        from topwork import Client

        target, _, encoder = self._address.rpartition(" ")
        with Client(target, timeout=300) as client:
            numerics = client.embed(encoder, self._first).numerics
        assert numerics is not None
        return f"{numerics.provider} {numerics.precision}"

    async def connect(self, address: str) -> None:
        from topwork import AsyncClient

        target, _, self._encoder = address.rpartition(" ")
        # A refusal is counted as one, and not tried again.
        self._client = AsyncClient(target, timeout=300, retry_for=0)

    async def embed(self, items: Sequence[Item]) -> Rows:
        assert self._client is not None
        return np.asarray(await self._client.embed(self._encoder, list(items)))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


class TopworkAuto(Topwork):
    """Topwork on what computes fastest here at a parity of 0.999. For words that is the same as above."""

    name = "topwork auto"
    parts = ("text", "pictures", "video")
    provider = "auto"

    packages = (*Topwork.packages, "onnxruntime-ep-openvino")


PEERS = (Topwork, TopworkAuto)
