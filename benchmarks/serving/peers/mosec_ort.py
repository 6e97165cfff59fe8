"""mosec and onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from benchmarks.serving.peers import Item, Rows, Subject
from benchmarks.serving.peers.framing import pack, rows_of
from benchmarks.serving.peers.over_http import HttpPeer, Request


class Mosec(HttpPeer):
    name = "mosec"
    parts: ClassVar[tuple[str, ...]] = ("text", "pictures")
    environment = "mosec"
    packages: ClassVar[tuple[str, ...]] = ("mosec", "onnxruntime", "tokenizers")
    batch: ClassVar[int] = 1
    """Requests at most that are computed together: in the order of arrival, more cost more padding than they gain."""
    options: ClassVar[tuple[str, ...]] = ()

    def command(self, subject: Subject, port: int) -> list[str]:
        return [
            "-m", "benchmarks.serving.peers.servers.mosec_server", "--artifact", str(subject.artifact),
            "--threads", str(subject.threads), "--port", str(port), "--batch", str(self.batch),
            *self.options,
        ]  # fmt: skip

    def request(self, items: Sequence[Item]) -> Request:
        return Request("/inference", pack(items))

    def rows(self, body: bytes, headers: Mapping[str, str], count: int) -> Rows:
        return rows_of(body, count)


class MosecByLength(Mosec):
    """With more code of its user's than its documentation shows: the handler sorts what came together by length."""

    name = "mosec-by-length"
    parts = ("text",)
    batch = 64
    options: ClassVar[tuple[str, ...]] = ("--by-length",)


class MosecOpenvino(MosecByLength):
    """And on the provider that Topwork takes by itself."""

    name = "mosec-by-length-openvino"
    packages: ClassVar[tuple[str, ...]] = (*Mosec.packages, "onnxruntime-ep-openvino")
    options = ("--by-length", "--provider", "openvino")

    def device(self) -> str:
        return "openvino bf16"


PEERS = (Mosec, MosecByLength, MosecOpenvino)
