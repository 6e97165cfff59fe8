"""infinity-emb, with each of its engines that run on a CPU: torch, and onnxruntime by optimum."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from benchmarks.serving.peers import Item, Rows, Subject
from benchmarks.serving.peers.over_http import HttpPeer, Request
from benchmarks.serving.peers.weights import sentence_transformer

MODEL = "served"


class Infinity(HttpPeer):
    """It sorts what waits by length, and batches it. Rows come as base64 of float32, which costs it less than JSON numbers."""

    name = "infinity-torch"
    environment = "infinity"
    packages: ClassVar[tuple[str, ...]] = ("infinity-emb", "torch", "sentence-transformers", "transformers")
    engine: ClassVar[str] = "torch"
    batch: ClassVar[int] = 32
    options: ClassVar[tuple[str, ...]] = ("--no-bettertransformer",)

    def command(self, subject: Subject, port: int) -> list[str]:
        return [
            "-m", "benchmarks.serving.peers.servers.infinity_server", "v2", "--model-id", str(sentence_transformer(subject)),
            "--served-model-name", MODEL, "--engine", self.engine, "--device", "cpu", "--dtype", "float32",
            "--batch-size", str(self.batch), "--no-model-warmup", "--host", "127.0.0.1", "--port", str(port), *self.options,
        ]  # fmt: skip

    def variables(self, subject: Subject) -> dict[str, str]:
        return super().variables(subject) | {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}

    def request(self, items: Sequence[Item]) -> Request:
        asked = {"model": MODEL, "input": list(items), "encoding_format": "base64"}
        return Request("/embeddings", json.dumps(asked).encode(), {"Content-Type": "application/json"})

    def rows(self, body: bytes, headers: Mapping[str, str], count: int) -> Rows:
        said = json.loads(body)["data"]
        return np.stack([np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in said])


class InfinityOptimum(Infinity):
    name = "infinity-optimum"
    packages = ("infinity-emb", "optimum", "optimum-onnx", "onnxruntime", "transformers")
    engine = "optimum"
    options = ("--pooling-method", "mean")  # else it takes the first token's row, whatever the folder says


class InfinityOpenvino(InfinityOptimum):
    """It takes that provider where a build of onnxruntime has it, in fp32: there is no option to say otherwise."""

    name = "infinity-openvino"
    environment = "infinity-openvino"
    packages = ("infinity-emb", "optimum", "optimum-onnx", "onnxruntime-openvino", "transformers")

    def device(self) -> str:
        return "openvino fp32"


PEERS = (Infinity, InfinityOptimum, InfinityOpenvino)
