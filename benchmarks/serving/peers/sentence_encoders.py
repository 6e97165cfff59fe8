"""Peers that read a folder of sentence-transformers: that library in process, and infinity-emb with each of its engines that run
on a CPU: torch, and onnxruntime by optimum."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmarks.serving.peers import ENVIRONMENTS, Item, Library, Model, Rows, environments
from benchmarks.serving.peers.http_peer import HttpPeer, Request

MODEL = "served"
#: The hidden states of the last layer: Topwork's name of them, and that of the graphs that optimum reads.
TOKENS, OUTPUT = "tokens", "last_hidden_state"


class Infinity(HttpPeer):
    """Infinity, which sorts what waits by length, and batches it. Rows come as base64 of float32, which costs it less than JSON
    numbers."""

    name = "infinity-torch"
    environment = "infinity"
    packages: ClassVar[tuple[str, ...]] = ("infinity-emb", "torch", "sentence-transformers", "transformers")
    engine: ClassVar[str] = "torch"
    batch: ClassVar[int] = 32
    options: ClassVar[tuple[str, ...]] = ("--no-bettertransformer",)

    def command(self, model: Model, port: int) -> list[str]:
        return [
            "-m", "benchmarks.serving.peers.servers.infinity_server", "v2", "--model-id", str(sentence_transformer(model)),
            "--served-model-name", MODEL, "--engine", self.engine, "--device", "cpu", "--dtype", "float32",
            "--batch-size", str(self.batch), "--no-model-warmup", "--host", "127.0.0.1", "--port", str(port), *self.options,
        ]  # fmt: skip

    def variables(self, model: Model) -> dict[str, str]:
        return super().variables(model) | {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}

    def request(self, items: Sequence[Item]) -> Request:
        asked = {"model": MODEL, "input": list(items), "encoding_format": "base64"}
        return Request("/embeddings", json.dumps(asked).encode(), {"Content-Type": "application/json"})

    def rows(self, body: bytes, headers: Mapping[str, str], count: int) -> Rows:
        answers = json.loads(body)["data"]
        return np.stack([np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in answers])


class InfinityOptimum(Infinity):
    name = "infinity-optimum"
    packages = ("infinity-emb", "optimum", "optimum-onnx", "onnxruntime", "transformers")
    engine = "optimum"
    options = ("--pooling-method", "mean")  # else it takes the first token's row, against the folder's own setting


class InfinityOpenvino(InfinityOptimum):
    """Infinity on OpenVINO. It takes that provider where a build of onnxruntime has it, in fp32: there is no option to say
    otherwise."""

    name = "infinity-openvino"
    environment = "infinity-openvino"
    packages = ("infinity-emb", "optimum", "optimum-onnx", "onnxruntime-openvino", "transformers")

    def device(self) -> str:
        return "openvino fp32"


class SentenceTransformers(Library):
    """Sentence Transformers' own batching, which sorts by length, and one text at a time."""

    name = "sentence-transformers"
    environment = "sentence-transformers"

    def missing(self) -> str | None:
        return environments.missing(self.environment)

    def command(self, model: Model, items: Path, seconds: float) -> list[str]:
        return [
            str(environments.python_of(self.environment)), "-m", "benchmarks.serving.peers.servers.sentences",
            str(sentence_transformer(model)), str(items), str(seconds), str(model.threads),
        ]  # fmt: skip


def sentence_transformer(model: Model) -> Path:
    """Write a folder with the weights, tokenizer and pooling out of the weight package, and Topwork's own graph as
    onnx/model.onnx."""
    folder = ENVIRONMENTS / "weights" / model.artifact.name
    if not folder.exists():
        made = folder.with_suffix(".part")
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(_package(model), made)
        for module in json.loads((made / "modules.json").read_text()):
            (made / module["path"]).mkdir(exist_ok=True)  # a wheel holds no empty folders, and Normalize has no files
        (made / "onnx").mkdir()
        _write_graph(model.artifact / "model.onnx", made / "onnx" / "model.onnx")
        made.rename(folder)
    return folder


def _package(model: Model) -> Path:
    """The model's folder in the one package of this encoder that has modules."""
    found = [file.parent for file in (model.home / "packages").glob(f"*{model.encoder}-*/*/model/modules.json")]
    if len(found) != 1:
        raise FileNotFoundError(f"{len(found)} packages of {model.encoder} in {model.home / 'packages'}; run `make weights`")
    return found[0]


def _write_graph(graph: Path, out: Path) -> None:
    """The part of Topwork's graph that leads to its tokens."""
    import onnx

    whole = onnx.load(str(graph))
    taken = onnx.utils.Extractor(whole).extract_model([node.name for node in whole.graph.input], [TOKENS])
    taken.graph.node.append(onnx.helper.make_node("Identity", [TOKENS], [OUTPUT]))
    taken.graph.output[0].name = OUTPUT
    onnx.save(taken, str(out))


PEERS = (Infinity, InfinityOptimum, InfinityOpenvino, SentenceTransformers)
