"""Pictures and arrays as an ONNX file reads them: the part of its preprocessing that runs in the server."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from topwork_server import Array, InvalidInput, Item, Sample, item_kind

from topwork_plugins.images.decode import opened
from topwork_plugins.images.picture_encoder import RECIPE
from topwork_plugins.images.preprocess import Recipe

FILE = "reads.json"


@dataclass(frozen=True)
class PictureReader:
    """Pictures through a Recipe, then as the graph's channels, layout and dtype want them."""

    input: str
    dtype: str
    recipe: Recipe
    channels: str
    layout: str

    def write(self, folder: Path) -> None:
        self.recipe.write(folder / RECIPE)
        facts = {"input": self.input, "dtype": self.dtype, "channels": self.channels, "layout": self.layout}
        (folder / FILE).write_text(json.dumps(facts) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> PictureReader:
        return cls(**json.loads((folder / FILE).read_text("utf-8")), recipe=Recipe.read(folder / RECIPE))

    def sample(self, item: Item) -> Sample:
        with opened(item) as picture:
            pixels, box = self.recipe.prepare(picture)
        if self.channels == "BGR":
            pixels = pixels[::-1]
        if self.layout == "NHWC":
            pixels = pixels.transpose(1, 2, 0)
        return Sample({self.input: np.ascontiguousarray(pixels, self.dtype)}, box=box)


@dataclass(frozen=True)
class TensorReader:
    """Arrays with these axes after the batch axis: an int is fixed, a str any length, "8*name" a multiple of 8."""

    input: str
    dtype: str
    axes: tuple[str | int, ...]

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self)) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> TensorReader:
        facts = json.loads((folder / FILE).read_text("utf-8"))
        return cls(facts["input"], facts["dtype"], tuple(facts["axes"]))

    @staticmethod
    def factor(axis: str) -> int:
        return int(axis.rpartition("*")[0] or 1)

    def sample(self, item: Item) -> Sample:
        if not isinstance(item, np.ndarray):
            raise InvalidInput(f"this encoder reads arrays, not {item_kind(item)}", remedy=self._wanted())
        if len(item.shape) != len(self.axes) or not all(map(self._fits, item.shape, self.axes)):
            raise InvalidInput(f"an array {item.shape} of {item.dtype}", remedy=self._wanted())
        if item.dtype.kind not in "fiub" or not np.can_cast(item.dtype, self.dtype, "same_kind"):
            raise InvalidInput(f"an array of {item.dtype} is not safely {self.dtype}", remedy=self._wanted())
        return Sample({self.input: self._cast(item)})

    def _cast(self, item: Array) -> Array:
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            array = np.ascontiguousarray(item, self.dtype)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidInput(f"the array has numbers that are not finite as {self.dtype}", remedy="send finite numbers")
        return array

    def _fits(self, length: int, axis: str | int) -> bool:
        return length == axis if isinstance(axis, int) else length > 0 and length % self.factor(axis) == 0

    def _wanted(self) -> str:
        return f"send one of {self.dtype} ({', '.join(map(str, self.axes))}), without a batch axis"
