"""General servers with onnxruntime and a handler as their user would write it: mosec, LitServe, and Triton by nvidia-pytriton."""

from __future__ import annotations

import base64
import json
import os
import sysconfig
from collections.abc import Mapping, Sequence
from typing import ClassVar

from benchmarks.serving.peers import Item, Model, Rows
from benchmarks.serving.peers.framing import pack, rows_of
from benchmarks.serving.peers.http_peer import HttpPeer, Request

LENGTH = "Inference-Header-Content-Length"


class HandlerPeer(HttpPeer):
    """A program of `servers/` that takes the same arguments as the others there."""

    parts: ClassVar[tuple[str, ...]] = ("text", "pictures")
    server: ClassVar[str]
    batch: ClassVar[int] = 1
    """Requests at most that are computed together: in the order of arrival, more cost more padding than they gain."""
    options: ClassVar[tuple[str, ...]] = ()

    def command(self, model: Model, port: int) -> list[str]:
        return [
            "-m", f"benchmarks.serving.peers.servers.{self.server}", "--artifact", str(model.artifact),
            "--threads", str(model.threads), "--port", str(port), "--batch", str(self.batch), *self.options,
        ]  # fmt: skip

    def rows(self, body: bytes, headers: Mapping[str, str], count: int) -> Rows:
        return rows_of(body, count)


class Mosec(HandlerPeer):
    name = "mosec"
    server = "mosec_server"
    environment = "mosec"
    packages: ClassVar[tuple[str, ...]] = ("mosec", "onnxruntime", "tokenizers")

    def request(self, items: Sequence[Item]) -> Request:
        return Request("/inference", pack(items))


class MosecByLength(Mosec):
    """Mosec with more code of its user's than its documentation shows: the handler sorts what came together by length."""

    name = "mosec-by-length"
    parts = ("text",)
    batch = 64
    options: ClassVar[tuple[str, ...]] = ("--by-length",)


class MosecOpenvino(MosecByLength):
    """And on the provider that Topwork takes by itself."""

    name = "mosec-by-length-openvino"
    packages = (*Mosec.packages, "onnxruntime-ep-openvino")
    options = ("--by-length", "--provider", "openvino")

    def device(self) -> str:
        return "openvino bf16"


class LitServe(HandlerPeer):
    name = "litserve"
    server = "litserve_server"
    environment = "litserve"
    packages = ("litserve", "onnxruntime", "tokenizers")

    def request(self, items: Sequence[Item]) -> Request:
        texts = [item for item in items if isinstance(item, str)]
        files = [base64.b64encode(item).decode() for item in items if isinstance(item, bytes)]
        asked = {"texts": texts} if texts else {"files": files}
        return Request("/predict", json.dumps(asked).encode(), {"Content-Type": "application/json"})


class Triton(HandlerPeer):
    """Triton's Python backend, over the binary form of its HTTP protocol."""

    name = "triton"
    server = "triton_server"
    environment = "pytriton"
    packages = ("nvidia-pytriton", "onnxruntime", "tokenizers")

    def variables(self, model: Model) -> dict[str, str]:
        """Return the environment of the backend, which is linked with libpython, and must find that of the interpreter, not
        another build of the same release."""
        folders = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH", "")]
        return super().variables(model) | {"LD_LIBRARY_PATH": ":".join(filter(None, folders))}

    def request(self, items: Sequence[Item]) -> Request:
        packed = pack(items)
        asked = {
            "name": "item", "datatype": "BYTES", "shape": [len(items), 1], "parameters": {"binary_data_size": len(packed)},
        }  # fmt: skip
        header = json.dumps({"inputs": [asked], "outputs": [{"name": "row", "parameters": {"binary_data": True}}]}).encode()
        return Request("/v2/models/embed/infer", header + packed, {LENGTH: str(len(header))})

    def rows(self, body: bytes, headers: Mapping[str, str], count: int) -> Rows:
        """Read the rows that follow a header in JSON."""
        return rows_of(body[int(headers[LENGTH]) :], count)


PEERS = (Mosec, MosecByLength, MosecOpenvino, LitServe, Triton)
