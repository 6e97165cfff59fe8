"""Pictures of colors with captions of two words, an encoder of those words, and a trunk that is a graph: all in milliseconds."""

from __future__ import annotations

import io
from itertools import product
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

COLORS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0), "pink": (1, 0, 1), "cyan": (0, 1, 1)}
SHADES = {"black": 50, "dark": 120, "light": 185, "bright": 250}
CAPTIONS = [f"{shade} {color}" for shade, color in product(SHADES, COLORS)]


def picture(caption: str, seed: int) -> bytes:
    shade, color = caption.split()
    noise = np.random.default_rng(seed).integers(0, 12, (64, 64, 3))
    pixels = (SHADES[shade] * np.array(COLORS[color]) + noise).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def means_net(path: Path) -> Path:
    """The mean of each channel, and its square: a trunk that is a graph."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["means"]),
        helper.make_node("Mul", ["means", "means"], ["squares"]),
        helper.make_node("Concat", ["means", "squares"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "weight"], ["pooled"]),
    ]
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32), "weight")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 64, 64])]
    outputs = [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["n", 8])]
    graph = helper.make_graph(nodes, "means", inputs, outputs, [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    path.with_suffix(".toml").write_text(
        'modality = "image"\ndefault_tap = "pooled"\n[image]\nsize = 64\n[taps.pooled]\noutput = "pooled"\n'
    )
    return path


def word_vectors(path: Path) -> Path:
    """Random vectors of the words of captions, and of no other."""
    random = np.random.default_rng(0)
    lines = [f"{word} {' '.join(f'{x:.5f}' for x in random.normal(size=10))}\n" for word in (*SHADES, *COLORS)]
    path.write_text("".join(lines))
    return path
