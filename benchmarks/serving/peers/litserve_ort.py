"""LitServe and onnxruntime."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

from benchmarks.serving.peers import Item, Rows, Subject
from benchmarks.serving.peers.framing import rows_of
from benchmarks.serving.peers.over_http import HttpPeer, Request


class LitServe(HttpPeer):
    name = "litserve"
    parts = ("text", "pictures")
    environment = "litserve"
    packages = ("litserve", "onnxruntime", "tokenizers")
    batch: ClassVar[int] = 1
    """Requests at most that are computed together: in the order of arrival, more cost more padding than they gain."""

    def command(self, subject: Subject, port: int) -> list[str]:
        return [
            "-m", "benchmarks.serving.peers.servers.litserve_server", "--artifact", str(subject.artifact),
            "--threads", str(subject.threads), "--port", str(port), "--batch", str(self.batch),
        ]  # fmt: skip

    def request(self, items: Sequence[Item]) -> Request:
        asked: dict[str, list[str]] = {"texts": [i for i in items if isinstance(i, str)]}
        if not asked["texts"]:
            asked = {"files": [base64.b64encode(i).decode() for i in items if isinstance(i, bytes)]}
        return Request("/predict", json.dumps(asked).encode(), {"Content-Type": "application/json"})

    def rows(self, body: bytes, headers: Mapping[str, str], count: int) -> Rows:
        return rows_of(body, count)


PEERS = (LitServe,)
