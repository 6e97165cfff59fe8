"""LitServe with onnxruntime: `predict` takes {"texts": [..]} or {"files": [base64, ..]} as JSON, and batches requests."""

# Not `from __future__ import annotations`: LitServe reads the types of requests and answers from these signatures.
import base64
from typing import Any

import litserve  # type: ignore[import-not-found]

from benchmarks.serving.peers.servers.handler import arguments, handler


class Embed(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self._handler = handler(arguments().parse_args())

    def decode_request(self, request: dict[str, Any]) -> list[bytes]:
        return (
            [item.encode() for item in request["texts"]] if "texts" in request else list(map(base64.b64decode, request["files"]))
        )

    def batch(self, inputs: list[list[bytes]]) -> list[list[bytes]]:
        return inputs

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def predict(self, requests: Any) -> Any:
        """A request's items, or with batching those of several."""
        if self.max_batch_size == 1:
            return self._handler(requests).tobytes()
        rows = iter(self._handler([item for request in requests for item in request]))
        return [b"".join(next(rows).tobytes() for _ in request) for request in requests]

    def encode_response(self, output: bytes) -> litserve.Response:
        return litserve.Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    parsed = arguments().parse_args()
    api = Embed(max_batch_size=parsed.batch, batch_timeout=0.001 if parsed.batch > 1 else 0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(host="127.0.0.1", port=parsed.port, generate_client_file=False, log_level="warning")
