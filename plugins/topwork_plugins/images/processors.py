"""Reads a Recipe out of transformers' preprocessor_config.json: JSON alone, without transformers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from topwork_server import InvalidInput

from topwork_plugins.images.preprocess import Recipe
from topwork_plugins.json_files import read_json

#: processor_config.json of newer folders holds the same under `image_processor`, and goes before.
FILES = ("processor_config.json", "preprocessor_config.json")
#: PIL's numbers of interpolations.
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")

HALF = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
CLIP = {"image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711)}
SQUARE = {"size": {"height": 224, "width": 224}, "resample": 3}
SHORT = {"size": {"shortest_edge": 224}, "resample": 3, "crop_size": 224, "do_center_crop": True}

#: What a processor does where its file does not say: the class attributes of transformers' classes.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "BeitImageProcessor": {**SQUARE, **HALF, "crop_size": 224},
    "BitImageProcessor": {**SHORT, **CLIP},
    "BlipImageProcessor": {**CLIP, "size": {"height": 384, "width": 384}, "resample": 3},
    "CLIPImageProcessor": {**SHORT, **CLIP},
    "ChineseCLIPImageProcessor": {**SHORT, **CLIP},
    "ConvNextImageProcessor": {**HALF, "size": {"shortest_edge": 384}, "resample": 3, "crop_pct": 224 / 256},
    "DINOv3ViTImageProcessor": {**SQUARE, **IMAGENET, "resample": 2},
    "DeiTImageProcessor": {**HALF, **SHORT, "size": {"height": 256, "width": 256}},
    "LevitImageProcessor": {**SHORT, **IMAGENET},
    "MobileNetV1ImageProcessor": {**SHORT, **HALF, "size": {"shortest_edge": 256}, "resample": 2},
    "PvtImageProcessor": {**SQUARE, **IMAGENET},
    "SiglipImageProcessor": {**SQUARE, **HALF},
    "ViTImageProcessor": {**SQUARE, **HALF, "resample": 2},
}
#: Those that read a size of one number as that of the short side.
SHORT_SIDE = frozenset(
    {"BitImageProcessor", "CLIPImageProcessor", "ChineseCLIPImageProcessor", "ConvNextImageProcessor", "LevitImageProcessor"}
    | {"MobileNetV1ImageProcessor", "SiglipImageProcessor"}
)
#: Fields that make pictures of several sizes, or that change more than the pixels' values.
REFUSED = ("do_pad", "do_flip_channel_order", "do_thumbnail", "do_align_long_axis", "use_square_size")


def read_processor(folder: Path, otherwise: str = "") -> Recipe:
    """Read the preprocessing of a folder in transformers' layout; `otherwise` is the processor where its file names none.

    InvalidInput where there is none, or one whose meaning is not known here. Remote code (`auto_map`) is never run.
    """
    for name in FILES:
        found = read_json(folder / name, missing_ok=True)
        found = found.get("image_processor", {}) if name == FILES[0] else found
        if found:
            return recipe(found, otherwise)
    raise InvalidInput(
        f"{folder.name} does not say how its pictures are prepared",
        remedy=f'copy its {FILES[1]}, or write one: {{"image_processor_type": "ViTImageProcessor"}}',
    )


def recipe(fields: Mapping[str, Any], otherwise: str = "") -> Recipe:
    """Read what a processor of transformers says of itself, as its slow (PIL) class does it. InvalidInput as `read_processor`.

    Of the conversion to RGB (`do_convert_rgb`) nothing is read: pictures are RGB here.
    """
    kind = processor_type(fields) or otherwise
    if kind not in DEFAULTS:
        raise InvalidInput(
            f"pictures prepared by {kind or 'a processor without a name'} are not known here",
            remedy=f"those of {', '.join(sorted(DEFAULTS))} are",
        )
    said = {**DEFAULTS[kind], **{key: value for key, value in fields.items() if value is not None}}
    return _recipe(kind, said)


@contextmanager
def _reading(kind: str, said: Mapping[str, Any], field: str) -> Iterator[None]:
    """Name the field whose value cannot be read."""
    try:
        yield
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(
            f"{kind} has {field} {said.get(field)!r:.80}, which cannot be read",
            remedy=f"correct {field} in {FILES[1]}, or copy the model's folder again",
        ) from error


def processor_type(fields: Mapping[str, Any]) -> str:
    """Name the processor, without the ending of its variants (Fast, Pil) and as it has been called since it was a feature
    extractor."""
    name = str(fields.get("image_processor_type") or fields.get("feature_extractor_type") or "")
    return re.sub(r"(Fast|Pil)$", "", name).replace("FeatureExtractor", "ImageProcessor")


def _recipe(kind: str, said: Mapping[str, Any]) -> Recipe:
    own_crop = kind == "ConvNextImageProcessor"  # it cuts what it has resized by itself
    strange = [name for name in (*REFUSED, *(["do_center_crop"] if own_crop else [])) if said.get(name)]
    if strange:
        raise InvalidInput(f"{kind} sets {', '.join(strange)}, which is not read here", remedy="name another model")
    with _reading(kind, said, "size"):
        mode, resize = _resize(kind, said)
    with _reading(kind, said, "crop_size"):
        size = _pair(said["crop_size"]) if said.get("do_center_crop") else resize if mode == "squash" else None
    with _reading(kind, said, "crop_pct"):
        if own_crop and mode == "center" and resize:
            size, resize = resize, (int(resize[0] / said["crop_pct"]),) * 2
    if size is None:
        raise InvalidInput(
            f"{kind} without a crop makes pictures of many sizes", remedy="set its crop_size, or height and width of its size"
        )
    normalize = said.get("do_normalize", True)
    with _reading(kind, said, "resample"):
        interpolation = dict(enumerate(RESAMPLE))[int(said["resample"])]
    with _reading(kind, said, "image_mean"):
        mean = _channels(said["image_mean"]) if normalize else (0.0,) * 3
    with _reading(kind, said, "image_std"):
        std = _divisors(said["image_std"]) if normalize else (1.0,) * 3
    with _reading(kind, said, "rescale_factor"):
        white = _white(said)
    return Recipe(
        size=size,
        resize=resize or size,
        mode=mode,
        interpolation=interpolation,
        mean=mean,
        std=std,
        white=white,
        library="transformers",
        floats=kind == "DINOv3ViTImageProcessor",
    )


def _resize(kind: str, said: Mapping[str, Any]) -> tuple[Literal["center", "squash", "none"], tuple[int, int] | None]:
    """Choose how the picture is resized, and to which height and width (of "center": twice the short side)."""
    if not said.get("do_resize", True):
        return "none", None
    size = said["size"]
    if isinstance(size, int) and not said.get("default_to_square", kind not in SHORT_SIDE):
        size = {"shortest_edge": size}
    if not isinstance(size, Mapping) or "height" in size:
        return "squash", _pair(size)
    if {key for key, value in size.items() if value} != {"shortest_edge"}:
        raise InvalidInput(f"{kind} resizes to {size}, which is not read here", remedy="set its height and width")
    short = _positive(size["shortest_edge"])
    if kind == "LevitImageProcessor":
        short = int(256 / 224 * short)
    return "squash" if kind == "ConvNextImageProcessor" and short >= 384 else "center", (short, short)


def _pair(size: Any) -> tuple[int, int]:
    """Height and width of a number, a list of two or an object."""
    if isinstance(size, Mapping):
        size = size["height"], size["width"]
    height, width = (size, size) if isinstance(size, int) else size
    return _positive(height), _positive(width)


def _positive(size: Any) -> int:
    if int(size) < 1:
        raise ValueError(f"a size of {size}")
    return int(size)


def _channels(value: Any) -> tuple[float, ...]:
    red, green, blue = map(float, (value,) * 3 if isinstance(value, int | float) else value)
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError("a number that is none")
    return red, green, blue


def _divisors(value: Any) -> tuple[float, ...]:
    channels = _channels(value)
    if not all(channels):
        raise ValueError(f"image_std is {value}")
    return channels


def _white(said: Mapping[str, Any]) -> float:
    """Return the value that a pixel of 255 becomes; 1 for the usual factor of 1/255."""
    factor = float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0
    if not math.isfinite(factor) or not factor:
        raise ValueError("a number that is none")
    return 1.0 if factor == 1 / 255 else factor * 255
