"""A toy encoder of pictures whose cells see colors, and pictures of colored shapes with their boxes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import topwork
from PIL import Image
from topwork_server import Encoder, EncoderSpec, Granularity, ImageItem, InvalidInput, Item, Modality, Sample, Tap, Trunk
from topwork_server.types import Array

SIDE, GRID = 32, 8
CELLS, COARSE = Tap("cells", 12, Granularity.CELL, (GRID, GRID)), Tap("coarse", 12, Granularity.CELL, (GRID // 2, GRID // 2))
TAPS = (Tap("pooled", 12, Granularity.ITEM), CELLS, COARSE)
COLORS = {"ball": (220, 40, 40), "sky": (40, 60, 220)}


class Patches(Encoder):
    """The colors of a cell, in 2 x 2 parts."""

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        import torch

        class Parts(torch.nn.Module):
            def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
                parts = torch.nn.functional.avg_pool2d(pixels, SIDE // GRID // 2)
                cells, coarse = (
                    torch.nn.functional.pixel_unshuffle(of, 2).flatten(2).transpose(1, 2)
                    for of in (parts, torch.nn.functional.avg_pool2d(parts, 2))
                )
                return cells.mean(1), cells, coarse

        return Trunk({"pixels": ("batch", 3, SIDE, SIDE)}, TAPS, {}, {"side": SIDE}, module=Parts(), exporter="legacy")

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        if not isinstance(item, ImageItem):
            raise InvalidInput("not a picture", remedy="send one")
        picture = Image.open(io.BytesIO(item.data)).convert("RGB")
        pixels = np.asarray(picture.resize((SIDE, SIDE)), np.float32).transpose(2, 0, 1) / 255
        return [Sample({"pixels": pixels}, box=(0.0, 0.0, float(picture.width), float(picture.height)))]

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        return {"pixels": np.stack([sample.inputs["pixels"] for sample in samples])}


def spec() -> EncoderSpec:
    return EncoderSpec("patches", Patches, "none:", Modality.IMAGE, "pooled", TAPS)


def scene(random: np.random.Generator, width: int = 64, height: int = 48, most: int = 2) -> tuple[bytes, list[str]]:
    """A PNG of up to `most` rectangles on gray, in two colors that are the labels, and their boxes."""
    pixels = random.integers(110, 140, (height, width, 3)).astype(np.uint8)
    boxes = []
    for place in range(int(random.integers(0, most + 1))):
        label = list(COLORS)[int(random.integers(2))]
        w, h = (int(size) for size in random.integers(10, 22, 2))
        x, y = place * width // most + int(random.integers(0, width // most - w + 1)), int(random.integers(0, height - h + 1))
        pixels[y : y + h, x : x + w] = COLORS[label]
        boxes.append(topwork.box(x, y, x + w, y + h, label))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), boxes


def scenes(count: int, seed: int = 0) -> tuple[list[bytes], list[list[str]]]:
    random = np.random.default_rng(seed)
    made = [scene(random) for _ in range(count)]
    return [picture for picture, _ in made], [boxes for _, boxes in made]
