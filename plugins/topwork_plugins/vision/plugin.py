"""Picture models of transformers: ViT, DeiT, DINOv2 and v3, Swin, ConvNeXt and others, out of folders in its layout."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from topwork_server import EncoderSpec, InvalidInput, Modality, Refusal, SourceUri, Trunk, hookimpl

from topwork_plugins.images.picture_encoder import RECIPE, PictureEncoder
from topwork_plugins.images.preprocess import Recipe
from topwork_plugins.images.processors import read_processor
from topwork_plugins.vision.layout import PROCESSORS, check_known, is_ours, read_layout

FAMILY = "vision"
#: Repositories of the hub that are taken for this family's by how their names begin.
NAMES = re.compile(
    r"^(?!timm/)[^/]+/(beit|convnext(v2)?|data2vec-vision|deit|dino(v[23])?|focalnet|hiera|ijepa|levit|mobilenet_v1|pvt(_v2)?|regnet|resnet"
    r"|swiftformer|swin(v2)?|vit)(?![a-z0-9])",
    re.IGNORECASE,
)


class VisionEncoder(PictureEncoder):
    """Pictures to features: a folder of transformers with config.json, preprocessor_config.json and weights.

    A picture goes through the preprocessing that the folder names (`Recipe`); `Sample.box` is what the crop shows, in pixels of
    the upright picture.
    """

    settings = ("size",)

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        from topwork_server import prepare_torchvision

        prepare_torchvision()
        from topwork_plugins.pretrained_models import remarks_on
        from topwork_plugins.vision.transformers_nets import open_model

        layout = read_layout(assets)
        recipe = read_processor(assets, PROCESSORS.get(layout.kind, ""))
        if "size" in spec.settings:
            recipe = sized(recipe, spec.settings["size"], layout.config.get("patch_size"))
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
            remarks=remarks_on(layout.config, model.tapped.net),
        )


def sized(recipe: Recipe, size: Any, patch: Any) -> Recipe:
    """The recipe for pictures of size x size pixels, of which as much is seen as before. InvalidInput where it is no size, or
    does not hold whole patches."""
    step = patch if isinstance(patch, int) else 1
    if not isinstance(size, int) or size < 1 or size % step:
        raise InvalidInput(f"the setting size is {size!r}", remedy=f"write a number of pixels that is a multiple of {step}")
    rows, columns = (round(size * whole / seen) for whole, seen in zip(recipe.resize, recipe.size, strict=True))
    return replace(recipe, size=(size, size), resize=(rows, columns))


@hookimpl(tryfirst=True)
def resolve_source(name: str, source: SourceUri) -> EncoderSpec | None:
    """Folders of picture models of transformers, repositories of the hub that are named so, and what is declared to be of this
    family."""
    local = source.scheme == "file" and is_ours(Path(source.location))
    hub = source.scheme == "hf" and NAMES.search(source.location)
    if source.family not in ("", FAMILY) or not (local or hub or source.family):
        return None
    description = f"{read_layout(Path(source.location)).kind} of transformers" if local else ""
    return EncoderSpec(name, VisionEncoder, str(source), Modality.IMAGE, description=description)


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
