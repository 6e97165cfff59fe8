"""Preprocessing against timm's own transform, to the bit."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from topwork_plugins.images import decode
from topwork_plugins.images.preprocess import Recipe
from topwork_server import InvalidInput
from topwork_server.models import torch_compat
from topwork_server.plugin_api import example_inputs

PHOTOGRAPH = (example_inputs.FOLDER / "coffee.jpg").read_bytes()
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

CONFIGS: dict[str, dict[str, Any]] = {
    "resnet": {"input_size": (3, 224, 224), "crop_pct": 0.95, "crop_mode": "center", "interpolation": "bicubic", **IMAGENET},
    "bilinear": {"input_size": (3, 64, 64), "crop_pct": 0.875, "crop_mode": "center", "interpolation": "bilinear", **IMAGENET},
    "whole": {"input_size": (3, 60, 60), "crop_pct": 1.0, "crop_mode": "center", "interpolation": "lanczos", **IMAGENET},
    "oblong": {"input_size": (3, 48, 96), "crop_pct": 0.9, "crop_mode": "center", "interpolation": "bicubic", **IMAGENET},
    "squash": {"input_size": (3, 64, 80), "crop_pct": 0.9, "crop_mode": "squash", "interpolation": "bicubic", **IMAGENET},
    "border": {"input_size": (3, 64, 64), "crop_pct": 0.9, "crop_mode": "border", "interpolation": "bicubic", **IMAGENET},
    "border oblong": {"input_size": (3, 33, 80), "crop_pct": 1.0, "crop_mode": "border", "interpolation": "box", **IMAGENET},
    "nearest": {
        "input_size": (3, 65, 65),
        "crop_pct": 0.8,
        "crop_mode": "center",
        "interpolation": "nearest",
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
    },
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(480, 320), (320, 481), (33, 47), (300, 300), (201, 64)])
def test_preprocessing_equals_timms_to_the_bit(name: str, size: tuple[int, int]) -> None:
    torch_compat.prepare_torchvision()
    from timm.data import create_transform

    image = Image.open(io.BytesIO(PHOTOGRAPH)).resize(size)
    expected = create_transform(**CONFIGS[name])(image).numpy()
    found, _ = Recipe.from_timm(CONFIGS[name]).prepare(image)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


def test_every_example_picture_equals_timms() -> None:
    torch_compat.prepare_torchvision()
    from timm.data import create_transform

    transform, recipe = create_transform(**CONFIGS["resnet"]), Recipe.from_timm(CONFIGS["resnet"])
    for picture in example_inputs.pictures():
        expected = transform(Image.open(io.BytesIO(picture.data)).convert("RGB")).numpy()
        np.testing.assert_array_equal(recipe.prepare(decode.decode(picture))[0], expected)


def test_boxes_in_pixels_of_the_picture() -> None:
    image = Image.new("RGB", (200, 100))
    config = {**CONFIGS["resnet"], "input_size": (3, 40, 40), "crop_pct": 0.8}
    assert Recipe.from_timm(config).prepare(image)[1] == (60, 10, 140, 90)
    assert Recipe.from_timm({**config, "crop_mode": "squash"}).prepare(image)[1] == (20, 10, 180, 90)
    border = {**config, "crop_mode": "border", "crop_pct": 1.0}
    assert Recipe.from_timm(border).prepare(image)[1] == (0, -50, 200, 150)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_the_box_is_what_the_crop_shows(mode: str) -> None:
    """A picture that is white inside its box and black outside gives a crop that is white up to its edge."""
    recipe = Recipe.from_timm({**CONFIGS["bilinear"], "crop_mode": mode, "crop_pct": 0.7, "mean": (0,) * 3, "std": (1,) * 3})
    _, box = recipe.prepare(Image.new("RGB", (500, 380)))
    x0, y0, x1, y1 = (round(edge) for edge in box)
    inside = Image.new("RGB", (500, 380))
    inside.paste((255, 255, 255), (max(x0, 0), max(y0, 0), min(x1, 500), min(y1, 380)))
    top, bottom = (max(0, round(-y0 * 64 / (y1 - y0))), 64 - max(0, round((y1 - 380) * 64 / (y1 - y0))))
    shown = recipe.prepare(inside)[0][:, top:bottom]
    assert shown[:, 2:-2, 2:-2].min() == 1
    assert shown.mean() > 0.97
    wider = Image.new("RGB", (500, 380), "white")
    wider.paste((0, 0, 0), (max(x0, 0) + 9, max(y0, 0) + 9, min(x1, 500) - 9, min(y1, 380) - 9))
    assert recipe.prepare(wider)[0][:, top:bottom][:, 2:-2, 2:-2].min() == 0


def test_a_sliver_is_refused_before_it_is_resized() -> None:
    """Its short side to 256 pixels would make its long side 1,280,000."""
    recipe = Recipe.from_timm({**CONFIGS["resnet"], "crop_pct": 0.875})
    with pytest.raises(InvalidInput, match="too narrow"):
        recipe.prepare(Image.new("RGB", (1, 5000)))
    assert recipe.prepare(Image.new("RGB", (1, 100)))[0].shape == (3, 224, 224)


@pytest.mark.parametrize(
    "change", [{"input_size": (1, 28, 28)}, {"crop_pct": 1.2}, {"crop_mode": "pad"}, {"interpolation": "random"}]
)
def test_preprocessing_that_is_not_known_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="not known"):
        Recipe.from_timm({**CONFIGS["resnet"], **change})


@pytest.mark.parametrize("name", CONFIGS)
def test_a_recipe_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    recipe = Recipe.from_timm(CONFIGS[name])
    recipe.write(tmp_path / "recipe.json")
    assert Recipe.read(tmp_path / "recipe.json") == recipe


def test_a_server_prepares_pictures_without_torch(tmp_path: Path) -> None:
    Recipe.from_timm(CONFIGS["resnet"]).write(tmp_path / "recipe.json")
    script = f"""
import sys, pathlib
from topwork_plugins.resnet import plugin as resnet
specs = list(resnet.register_encoders())
assert not [m for m in ("PIL", "torch", "timm", "onnxruntime", "simplejpeg") if m in sys.modules], "listing is free"
from topwork_server import NoOptions
from topwork_server.plugin_api import example_inputs
encoder = specs[0].encoder(specs[0], pathlib.Path({str(tmp_path)!r}))
for picture in example_inputs.pictures():
    (sample,) = encoder.preprocess(picture, NoOptions())
    assert sample.inputs["pictures"].shape == (3, 224, 224)
assert not [m for m in ("torch", "timm", "torchvision", "onnx") if m in sys.modules]
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
