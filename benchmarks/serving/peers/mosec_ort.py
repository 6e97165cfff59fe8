"""mosec and onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from benchmarks.serving.peers import Item, Rows, Subject
from benchmarks.serving.peers.framing import pack, rows_of
from benchmarks.serving.peers.over_http import HttpPeer, Request


class Mosec(HttpPeer):
    name = "mosec"
    parts = ("text", "pictures")
    environment = "mosec"
    packages = ("mosec", "onnxruntime", "tokenizers")
    batch: ClassVar[int] = 8

    def command(self, subject: Subject, port: int) -> list[str]:
        return [
            "-m", "benchmarks.serving.peers.servers.mosec_server", "--artifact", str(subject.artifact),
            "--threads", str(subject.threads), "--port", str(port), "--batch", str(self.batch),
        ]  # fmt: skip

    def request(self, items: Sequence[Item]) -> Request:
        return Request("/inference", pack(items))

    def rows(self, body: bytes, headers: Mapping[str, str], count: int) -> Rows:
        return rows_of(body, count)


PEERS = (Mosec,)
