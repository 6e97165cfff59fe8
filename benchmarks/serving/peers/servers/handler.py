"""What a user of a general server writes for our graph: read the items, run onnxruntime, give the rows."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TAP = "pooled"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True, help="the most requests that the server puts together")
    return parser


class Handler:
    """Texts or pictures, as bytes, to rows (n, dim) float32."""

    def __init__(self, artifact: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        graph = artifact / "default.onnx"  # the way to the default tap, where that is not all of the graph
        graph = graph if graph.exists() else artifact / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(graph), options, ["CPUExecutionProvider"])
        self._read = Texts(artifact) if (artifact / "tokenizer.json").exists() else Pictures(artifact)
        self._inputs = [node.name for node in self._session.get_inputs()]

    def __call__(self, items: Sequence[bytes]) -> Array:
        rows: Array = self._session.run([TAP], dict(zip(self._inputs, self._read(items), strict=True)))[0]
        return np.ascontiguousarray(rows, np.float32)


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
    """As the artifact's recipe.json says: resize, cut out the middle, normalise. Graph input: (n, 3, height, width)."""

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
        """(width, height) to resize to."""
        rows, columns = self._recipe["resize"]
        if self._recipe["mode"] == "squash":
            return columns, rows
        width, height = size
        return (rows, int(rows * height / width)) if width < height else (int(rows * width / height), rows)
