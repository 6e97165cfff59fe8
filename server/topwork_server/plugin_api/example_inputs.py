"""Small real inputs that ship with the server: parity is measured on them, and the contract tests use them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from topwork_server.types import Array, ImageItem, Item, Modality, TextItem

FOLDER = Path(__file__).parent / "example_files"


def texts() -> list[TextItem]:
    """Sentences of 1 to about 120 words."""
    return [TextItem(line) for line in (FOLDER / "texts.txt").read_text("utf-8").splitlines() if line]


def pictures() -> list[ImageItem]:
    """Photographs as JPEG and PNG files of several sizes and shapes."""
    return [ImageItem(path.read_bytes()) for path in sorted(FOLDER.iterdir()) if path.suffix in (".jpg", ".png")]


@cache
def _photograph() -> Array:
    from PIL import Image

    with Image.open(FOLDER / "coffee.jpg") as image:
        return np.asarray(image.convert("RGB"))


def clips(frames: int = 16, size: int = 256) -> list[Array]:
    """Clips (frames, size, size, 3) uint8 of a camera that pans over and closes in on a real photograph."""
    photograph = _photograph()
    height, width = photograph.shape[:2]
    size = min(size, height)

    def window(x: int, y: int) -> Array:
        return photograph[y : y + size, x : x + size]

    right = np.stack([window((width - size) * t // frames, (height - size) // 2) for t in range(frames)])
    down = np.stack([window((width - size) // 2, (height - size) * t // frames) for t in range(frames)])
    return [right, down, right[::-1].copy()]


def of(modality: Modality) -> Sequence[Item]:
    """Examples of one modality; none for TENSOR, where only the encoder knows what its graph reads."""
    match modality:
        case Modality.TEXT:
            return texts()
        case Modality.IMAGE:
            return pictures()
        case Modality.VIDEO:
            return clips()
    return []
