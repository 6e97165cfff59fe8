"""Preprocessing of an RGB picture as timm or transformers does it, without torch: resize, crop, normalize."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from topwork_server import Array, InvalidInput

from topwork_plugins.images.decode import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[float, float, float, float]
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


@dataclass(frozen=True)
class Recipe:
    """The way from a picture to a net's input; part of a feature's meaning.

    `size` and `resize` are (height, width) in pixels. `mode` is timm's crop_mode: "center" resizes the short side to
    `resize`, "squash" both sides, "border" the long side and fills with the mean; "none" leaves the picture's size. Then the
    middle `size` is cut out. A channel is (x * white / 255 - mean) / std for a pixel x of 0 to 255.

    `library` is whose crop it is: timm rounds the place of the middle and fills with the mean, transformers rounds it down and
    fills with black. With `floats` the resized pixels are not rounded to whole numbers (DINOv3 of transformers).
    """

    size: tuple[int, int]
    resize: tuple[int, int]
    mode: Literal["center", "squash", "border", "none"]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: float = 1.0
    library: Literal["timm", "transformers"] = "timm"
    floats: bool = False

    @classmethod
    def from_timm(cls, config: Mapping[str, Any]) -> Recipe:
        """Read what `timm.data.resolve_data_config` gives. InvalidInput where this net does not read RGB pictures."""
        channels, height, width = config["input_size"]
        crop_pct, mode, interpolation = config["crop_pct"], config["crop_mode"], config["interpolation"]
        known = mode in ("center", "squash", "border") and interpolation in INTERPOLATIONS
        if channels != 3 or not 0 < crop_pct <= 1 or not known:
            raise InvalidInput(f"preprocessing that is not known here: {dict(config)}", remedy="see timm's eval transform")
        resize = (math.floor(height / crop_pct), math.floor(width / crop_pct))
        return cls((height, width), resize, mode, interpolation, tuple(config["mean"]), tuple(config["std"]))

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read what `write` wrote."""
        fields: dict[str, Any] = json.loads(path.read_text("utf-8"))
        fields |= {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        return cls(**fields)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.json(), indent=1), "utf-8")

    def json(self) -> dict[str, Any]:
        """List the fields, as a fingerprint has them: those that came later only where they say something."""
        later = {"library": "timm", "floats": False}
        return {key: value for key, value in asdict(self).items() if key not in later or value != later[key]}

    def prepare(self, image: Image) -> tuple[Array, Box]:
        """Return (3, height, width) float32, and the part of the picture that it shows: x0, y0, x1, y1 in its pixels.

        In "border" mode the box reaches beyond the picture where the border is.
        """
        rows, columns = self.resized(image.height, image.width)
        if rows * columns > MAX_PIXELS:
            raise InvalidInput(
                f"a picture of {image.width} x {image.height} is too narrow to resize", remedy="cut it into pieces"
            )
        top, left = self._middle(rows, self.size[0]), self._middle(columns, self.size[1])
        bottom, right = top + self.size[0], left + self.size[1]
        x, y = image.width / columns, image.height / rows
        pixels = self.cut(self._pixels(image, rows, columns), top, left)
        return self.normalize(pixels), (left * x, top * y, right * x, bottom * y)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Compute the size of the resized picture, rounded as torchvision and timm round."""
        if self.mode == "none":
            return height, width
        if self.mode == "squash":
            return self.resize
        ratios = (height / self.resize[0], width / self.resize[1])
        if self.mode == "center" and self.resize[0] == self.resize[1]:
            short, long = self.resize[0], int(self.resize[0] * max(height, width) / min(height, width))
            return (short, long) if height <= width else (long, short)
        ratio = max(ratios) if self.mode == "border" else min(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def cut(self, pixels: Array, top: int, left: int) -> Array:
        """Cut out (height, width, 3); what lies outside of the picture has the color of the mean, or is black."""
        inside = pixels[max(top, 0) : top + self.size[0], max(left, 0) : left + self.size[1]]
        if inside.shape[:2] == self.size:
            return inside
        canvas = np.zeros((*self.size, 3), pixels.dtype)
        if self.library == "timm":
            canvas[:] = [round(255 * value / self.white) for value in self.mean]
        y, x = max(-top, 0), max(-left, 0)
        canvas[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
        return canvas

    def _pixels(self, image: Image, rows: int, columns: int) -> Array:
        """Resize to (rows, columns, 3): uint8, or float32 with `floats`."""
        from PIL import Image

        size, interpolation = (columns, rows), Image.Resampling[self.interpolation.upper()]
        if not self.floats:
            return np.asarray(image.resize(size, interpolation))
        return np.stack([np.asarray(channel.convert("F").resize(size, interpolation)) for channel in image.split()], axis=2)

    def _middle(self, length: int, size: int) -> int:
        """Find where the middle `size` of `length` begins; negative where a border is needed.

        timm puts the smaller half of a border first, transformers the larger.
        """
        if self.library == "transformers":
            return (length - size) // 2
        return round((length - size) / 2) if length >= size else -((size - length) // 2)

    def normalize(self, pixels: Array) -> Array:
        """Turn (height, width, 3), 0 to 255, into (3, height, width) float32, step by step as torchvision, so to the same bit."""
        values = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
        values /= np.float32(255 / self.white)
        values -= np.asarray(self.mean, np.float32)[:, None, None]
        values /= np.asarray(self.std, np.float32)[:, None, None]
        return values
