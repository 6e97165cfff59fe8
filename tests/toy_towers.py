"""A toy with two towers in one space of colors: texts by their letters r, g and b, pictures by their pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from topwork_server import Encoder, EncoderSpec, Granularity, ImageItem, InvalidInput, Item, Modality, Sample, Tap, Trunk
from toys import Letters

COLORS = {"rrr": (250, 5, 5), "ggg": (5, 250, 5), "bbb": (5, 5, 250)}


class ColorWords(Letters):
    """Mean over the letters, of which r, g and b are the axes of the space."""

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        import torch

        class Mean(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.table = torch.nn.Embedding(128, 3)
                rows = torch.full((128, 3), 0.01)
                for axis, letter in enumerate("rgb"):
                    rows[ord(letter), axis] = float(spec.settings.get("scale", 1))
                self.table.weight = torch.nn.Parameter(rows)

            def forward(self, codes: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                rows = self.table(codes) * mask.unsqueeze(-1)
                return rows.sum(1) / mask.sum(1, keepdim=True), rows

        inputs = {"codes": ("batch", "letters"), "mask": ("batch", "letters")}
        taps = (Tap("mean", 3, Granularity.ITEM), Tap("letters", 3, Granularity.TOKEN))
        return Trunk(inputs, taps, {}, {}, module=Mean(), exporter="legacy")


class ColorPictures(Encoder):
    """Mean over the pixels, and over those of each quarter of the picture."""

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        import torch

        class Mean(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = torch.nn.Parameter(torch.tensor(float(spec.settings.get("scale", 1))))

            def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                cells = torch.nn.functional.avg_pool2d(pixels, 4).flatten(2).transpose(1, 2) * self.scale
                return cells.mean(1), cells

        taps = (Tap("mean", 3, Granularity.ITEM), Tap("cells", 3, Granularity.CELL, (2, 2)))
        return Trunk({"pixels": ("batch", 3, 8, 8)}, taps, {}, {}, module=Mean(), exporter="legacy")

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        if isinstance(item, np.ndarray):
            picture = Image.fromarray(item)
        elif isinstance(item, ImageItem):
            try:
                picture = Image.open(BytesIO(item.data)).convert("RGB")
            except OSError:
                raise InvalidInput("no picture", remedy="send a picture") from None
        else:
            raise InvalidInput("not a picture", remedy="send a picture")
        pixels = np.asarray(picture.resize((8, 8)), np.float32).transpose(2, 0, 1) / 255
        return [Sample({"pixels": pixels}, box=(0.0, 0.0, float(picture.width), float(picture.height)))]


def colors_spec(name: str = "colors", pictures: float = 1, words: float = 1) -> EncoderSpec:
    image = EncoderSpec(name, ColorPictures, "none:", Modality.IMAGE, default_tap="mean", settings={"scale": pictures})
    text = EncoderSpec(name, ColorWords, "none:", Modality.TEXT, default_tap="mean", settings={"scale": words})
    return replace(image, other_towers=(text,))


def picture(color: Sequence[int], size: int = 16) -> bytes:
    """A PNG of one color."""
    file = BytesIO()
    Image.new("RGB", (size, size), tuple(color)).save(file, "PNG")
    return file.getvalue()
