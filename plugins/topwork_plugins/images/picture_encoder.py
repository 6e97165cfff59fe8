"""The base of encoders of pictures, which prepares them in the server as their Recipe says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from topwork_server import Encoder, EncoderSpec, Item, Sample

from topwork_plugins.images.decode import opened
from topwork_plugins.images.preprocess import Recipe

#: The file of an artifact in which its `export` writes the Recipe.
RECIPE = "recipe.json"


class PictureEncoder(Encoder):
    """Reads pictures; `Sample.box` is what the crop shows, in pixels of the upright picture."""

    budget = 8

    def __init__(self, spec: EncoderSpec, folder: Path) -> None:
        super().__init__(spec, folder)
        self.recipe = Recipe.read(folder / RECIPE)

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        with opened(item) as picture:
            pixels, box = self.recipe.prepare(picture)
        yield Sample({"pictures": pixels}, box=box)
