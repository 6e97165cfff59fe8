"""mosec with onnxruntime: `inference` takes framed items, and batches requests."""

from __future__ import annotations

import sys
from typing import Any

from mosec import Server, Worker  # type: ignore[import-not-found]

from benchmarks.serving.peers.framing import unpack
from benchmarks.serving.peers.servers.handler import arguments, handler

parsed, _ = arguments().parse_known_args()


class Embed(Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self._handler = handler(parsed)

    def deserialize(self, data: bytes) -> list[bytes]:
        return list(unpack(data))

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: Any) -> Any:
        """A request's items, or with batching those of several."""
        if parsed.batch == 1:
            return self._handler(data).tobytes()
        rows = iter(self._handler([item for request in data for item in request]))
        return [b"".join(next(rows).tobytes() for _ in request) for request in data]


if __name__ == "__main__":
    # mosec reads the command line too; its worker processes are started with the same, and look for ours.
    sys.argv += ["--address", "127.0.0.1", "--timeout", "120000", "--log-level", "warning"]
    server = Server()
    server.append_worker(Embed, num=1, max_batch_size=parsed.batch, max_wait_time=1)
    server.run()
