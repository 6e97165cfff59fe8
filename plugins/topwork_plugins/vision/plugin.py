"""Picture models of transformers: ViT, DeiT, DINOv2 and v3, Swin, ConvNeXt and others, out of folders in its layout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from topwork_server import Encoder, EncoderSpec, InvalidInput, Item, Modality, Refusal, Sample, SourceUri, Trunk, hookimpl

from topwork_plugins.images.decode import opened
from topwork_plugins.images.preprocess import Recipe
from topwork_plugins.images.processors import read_processor
from topwork_plugins.vision.layout import PROCESSORS, check_known, is_ours, read_layout

FAMILY = "vision"
RECIPE = "recipe.json"


class VisionEncoder(Encoder):
    """Pictures to features: a folder of transformers with config.json, preprocessor_config.json and weights.

    A picture goes through the preprocessing that the folder names (`Recipe`); `Sample.box` is what the crop shows, in pixels of
    the upright picture.
    """

    budget = 8

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        from topwork_server import prepare_torchvision

        prepare_torchvision()
        from topwork_plugins.vision.transformers_nets import open_model

        layout = read_layout(assets)
        recipe = sized(read_processor(assets, PROCESSORS.get(layout.kind, "")), spec.settings.get("size"))
        model = open_model(layout, recipe.size)
        recipe.write(out / RECIPE)
        return Trunk(
            inputs={"pictures": ("batch", 3, *recipe.size)},
            taps=model.tapped.taps(recipe.size),
            definition={"config": layout.definition, "pooling": model.tapped.pooling},
            preprocessing=recipe.json(),
            module=model.tapped,
            exporter=model.tapped.exporter,
            blocks=model.tapped.blocks(),
            heads=model.heads,
            unused=model.unused,
        )

    def __init__(self, spec: EncoderSpec, folder: Path) -> None:
        super().__init__(spec, folder)
        self.recipe = Recipe.read(folder / RECIPE)

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        with opened(item) as picture:
            pixels, box = self.recipe.prepare(picture)
        yield Sample({"pictures": pixels}, box=box)


def sized(recipe: Recipe, size: Any) -> Recipe:
    """The recipe for pictures of size x size pixels, of which as much is seen as before. InvalidInput where it is no size."""
    if size is None:
        return recipe
    if not isinstance(size, int) or size < 1:
        raise InvalidInput(f"the setting size is {size!r}", remedy="write a number of pixels")
    rows, columns = (round(size * whole / seen) for whole, seen in zip(recipe.resize, recipe.size, strict=True))
    return replace(recipe, size=(size, size), resize=(rows, columns))


@hookimpl
def resolve_source(name: str, source: SourceUri) -> EncoderSpec | None:
    """Folders of picture models of transformers, and what is declared to be of this family."""
    local = source.scheme == "file" and is_ours(Path(source.location))
    if source.family not in ("", FAMILY) or not (local or source.family):
        return None
    return EncoderSpec(name, VisionEncoder, str(source), Modality.IMAGE)


@hookimpl
def refuse_source(source: SourceUri) -> Refusal | None:
    path = Path(source.location)
    if source.scheme != "file" or not (path / "config.json").exists():
        return None
    try:
        check_known(read_layout(path))
    except InvalidInput as error:
        return Refusal(error.message, error.remedy, nearness=1)
    return None
