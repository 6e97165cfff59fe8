"""A handler as a user of a general server writes it for our graph: read the items, run onnxruntime, give the rows."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Handler = Callable[[Sequence[bytes]], Array]
TAP = "pooled"
PADDING = 0.15
"""The most of a group of texts that may be padding; where batching gains more than padding costs on a CPU."""


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True, help="the most requests that the server puts together")
    parser.add_argument("--by-length", action="store_true", help="compute what came together in groups of like length")
    parser.add_argument("--provider", choices=("cpu", "openvino"), default="cpu")
    return parser


def handler(parsed: argparse.Namespace) -> Handler:
    """Make the handler that the command line asks for."""
    made = Embedding(parsed.artifact, parsed.threads, parsed.provider)
    return ByLength(made) if parsed.by_length else made


class Embedding:
    """Texts or pictures, as bytes, to rows (n, dim) float32."""

    def __init__(self, artifact: Path, threads: int, provider: str = "cpu") -> None:
        graph = artifact / "default.onnx"  # the way to the default tap, where that is not all of the graph
        self._session = _session(graph if graph.exists() else artifact / "model.onnx", threads, provider)
        self._read = Texts(artifact) if (artifact / "tokenizer.json").exists() else Pictures(artifact)
        self._inputs = [node.name for node in self._session.get_inputs()]

    def __call__(self, items: Sequence[bytes]) -> Array:
        rows: Array = self._session.run([TAP], dict(zip(self._inputs, self._read(items), strict=True)))[0]
        return np.ascontiguousarray(rows, np.float32)


class ByLength:
    """A handler that sorts what came together by its length in bytes, and computes it in groups with little padding."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def __call__(self, items: Sequence[bytes]) -> Array:
        order = sorted(range(len(items)), key=lambda i: len(items[i]))
        rows = np.concatenate([self._handler([items[i] for i in group]) for group in _groups(order, items)])
        placed = np.empty_like(rows)
        placed[order] = rows
        return placed


def _groups(order: Sequence[int], items: Sequence[bytes]) -> list[list[int]]:
    """Cut where the next would make more than PADDING of the group padding."""
    groups: list[list[int]] = []
    used = 0
    for i in order:
        if groups and used + len(items[i]) >= (1 - PADDING) * (len(groups[-1]) + 1) * len(items[i]):
            groups[-1].append(i)
        else:
            groups, used = [*groups, [i]], 0
        used += len(items[i])
    return groups


def _session(graph: Path, threads: int, provider: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if provider == "cpu":
        return onnxruntime.InferenceSession(str(graph), options, ["CPUExecutionProvider"])
    import onnxruntime_ep_openvino  # type: ignore[import-not-found, unused-ignore]

    name = "OpenVINOExecutionProvider"
    onnxruntime.register_execution_provider_library(name, onnxruntime_ep_openvino.get_library_path())
    found = [d for d in onnxruntime.get_ep_devices() if d.ep_name == name and "CPU" in str(d.device.type)]
    options.add_provider_for_devices(found[:1], {})
    return onnxruntime.InferenceSession(str(graph), options)


class Texts:
    """Padded to the longest of the batch. Graph inputs: input_ids, attention_mask, token_type_ids."""

    def __init__(self, artifact: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
        self._tokenizer.enable_truncation(json.loads((artifact / "bert.json").read_text())["max_tokens"])
        self._tokenizer.enable_padding()

    def __call__(self, items: Sequence[bytes]) -> list[Array]:
        encoded = self._tokenizer.encode_batch([item.decode() for item in items])
        fields = ("ids", "attention_mask", "type_ids")
        return [np.array([getattr(e, field) for e in encoded], np.int64) for field in fields]


class Pictures:
    """A preprocessor of pictures, as the artifact's recipe.json says: resize, cut out the middle, normalize. Graph input: (n,
    3, height, width)."""

    def __init__(self, artifact: Path) -> None:
        self._recipe: dict[str, Any] = json.loads((artifact / "recipe.json").read_text())

    def __call__(self, items: Sequence[bytes]) -> list[Array]:
        return [np.stack([self._one(item) for item in items])]

    def _one(self, item: bytes) -> Array:
        from PIL import Image

        recipe = self._recipe
        picture = Image.open(io.BytesIO(item)).convert("RGB")
        resized = picture.resize(self._size(picture.size), Image.Resampling[recipe["interpolation"].upper()])
        height, width = recipe["size"]
        left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
        pixels = np.asarray(resized.crop((left, top, left + width, top + height)), np.float32)
        mean, std = np.array(recipe["mean"], np.float32), np.array(recipe["std"], np.float32)
        scale = np.float32(recipe.get("white", 1.0) / 255)
        return ((pixels * scale - mean) / std).transpose(2, 0, 1)

    def _size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (width, height) to resize to."""
        rows, columns = self._recipe["resize"]
        if self._recipe["mode"] == "squash":
            return columns, rows
        width, height = size
        return (rows, int(rows * height / width)) if width < height else (int(rows * width / height), rows)
