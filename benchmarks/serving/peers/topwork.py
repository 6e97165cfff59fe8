"""Topwork itself, as `topwork serve` with its defaults, through its asynchronous client on one connection."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchmarks.processes import die_with_parent, end_processes, tree
from benchmarks.serving.parts import PARTS
from benchmarks.serving.peers import Item, Peer, Rows, Subject

if TYPE_CHECKING:
    from topwork import AsyncClient


class Topwork(Peer):
    """On plain onnxruntime in fp32."""

    name = "topwork cpu"
    parts: ClassVar[tuple[str, ...]] = ("text", "pictures", "video", "words")
    most_items = 256
    streams = True
    provider: ClassVar[str] = "cpu"
    _process: subprocess.Popen[str] | None = None
    _client: AsyncClient | None = None
    _encoder = _address = ""
    _first: Sequence[Item] = ()

    def start(self, subject: Subject) -> str:
        command = [
            sys.executable, "-m", "topwork.cli", "serve", "--json", "--listen", "127.0.0.1:0", "--home", str(subject.home),
            "--provider", self.provider, "--threads", str(subject.threads), "--feature-cache", "0", "--log-level", "warning",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent, start_new_session=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        said = json.loads(line) if line else {"message": "it ended without a word"}
        if "address" not in said:
            raise RuntimeError(f"topwork serve: {said['message']} {said.get('remedy', '')}")
        self._address = f"{said['address']} {subject.encoder}"
        self._first = PARTS[subject.part].items()[:1]
        return self._address

    def stop(self) -> None:
        if self._process is not None:
            end_processes(tree([self._process.pid]))
            self._process.wait()

    def pids(self) -> Sequence[int]:
        return [self._process.pid] if self._process else []

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("topwork-server", "onnxruntime-gpu", "grpcio")}

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
    """On whatever computes fastest here at a parity of 0.999. For words that is the same as above."""

    name = "topwork auto"
    parts = ("text", "pictures", "video")
    provider = "auto"

    def versions(self) -> dict[str, str]:
        try:
            return super().versions() | {"onnxruntime-ep-openvino": version("onnxruntime-ep-openvino")}
        except ModuleNotFoundError:
            return super().versions()


PEERS = (Topwork, TopworkAuto)
