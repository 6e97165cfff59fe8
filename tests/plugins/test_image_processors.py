"""preprocessor_config.json against the processors of transformers, on real pictures."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_nets import refusal
from topwork_plugins.images.preprocess import Recipe
from topwork_plugins.images.processors import DEFAULTS, read_processor, recipe
from topwork_server import prepare_torchvision
from topwork_server.plugin_api import example_inputs

PHOTOGRAPH = (example_inputs.FOLDER / "coffee.jpg").read_bytes()
SIZES = [(480, 320), (320, 481), (33, 47), (201, 64)]
#: What folders of the hub say, and combinations of their fields.
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 48}, "resample": 2},
    "old vit": {"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "resample": 2, "image_mean": [0.5, 0.4, 0.3]},
    "pair": {"image_processor_type": "ViTImageProcessorFast", "size": [40, 56], "do_center_crop": None},
    "deit": {"image_processor_type": "DeiTImageProcessor", "size": 64, "crop_size": 56, "do_center_crop": True, "resample": 3},
    "clip": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 48},
        "crop_size": {"height": 48, "width": 48},
    },
    "old clip": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 48, "crop_size": 48, "do_convert_rgb": False},
    "small picture": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 40}, "crop_size": 57},
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 48, "width": 48}, "resample": 2},
    "dinov2": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 64},
        "crop_size": {"height": 57, "width": 56},
    },
    "convnext": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 56}, "crop_pct": 0.875},
    "large convnext": {"image_processor_type": "ConvNextImageProcessor", "size": 384},
    "levit": {"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 56}, "crop_size": 56},
    "not resized": {"image_processor_type": "BitImageProcessor", "do_resize": False, "crop_size": {"height": 60, "width": 70}},
    "raw": {"image_processor_type": "ViTImageProcessor", "size": 40, "do_rescale": False, "do_normalize": False, "resample": 0},
    "not normalized": {"image_processor_type": "ViTImageProcessor", "size": 40, "do_normalize": False, "resample": 1},
    "other factor": {"image_processor_type": "ViTImageProcessor", "size": 40, "rescale_factor": 1 / 127.5, "image_mean": 1.0},
    "not rescaled": {"image_processor_type": "ViTImageProcessor", "size": 40, "do_rescale": False, "image_mean": [123, 117, 104]},
}


def theirs(fields: dict[str, Any], folder: Path, backend: str) -> Any:
    """The processor that transformers makes of the file."""
    prepare_torchvision()
    from transformers import AutoImageProcessor

    (folder / "preprocessor_config.json").write_text(json.dumps(fields))
    return AutoImageProcessor.from_pretrained(folder, backend=backend)


def prepared(processor: Any, image: Image.Image) -> Any:
    return np.asarray(processor(image, return_tensors="np")["pixel_values"][0])


@pytest.mark.parametrize("name", CONFIGS)
def test_pictures_equal_transformers_to_the_bit(name: str, tmp_path: Path) -> None:
    processor = theirs(CONFIGS[name], tmp_path, "pil")
    ours = read_processor(tmp_path)
    for size in SIZES:
        image = Image.open(io.BytesIO(PHOTOGRAPH)).resize(size)
        found, _ = ours.prepare(image)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, prepared(processor, image), err_msg=str(size))


@pytest.mark.parametrize("kind", sorted(set(DEFAULTS) - {"DINOv3ViTImageProcessor"}))
def test_what_is_not_said_is_as_in_transformers(kind: str, tmp_path: Path) -> None:
    fields = {"image_processor_type": kind}
    image = Image.open(io.BytesIO(PHOTOGRAPH)).resize((320, 241))
    np.testing.assert_array_equal(recipe(fields).prepare(image)[0], prepared(theirs(fields, tmp_path, "pil"), image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resample", [2, 3])
def test_dinov3_equals_transformers_to_rounding(size: tuple[int, int], resample: int, tmp_path: Path) -> None:
    fields = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 48, "width": 64}, "resample": resample}
    image = Image.open(io.BytesIO(PHOTOGRAPH)).resize(size)
    expected = prepared(theirs(fields, tmp_path, "torchvision"), image)
    np.testing.assert_allclose(recipe(fields).prepare(image)[0], expected, atol=2e-5)


@pytest.mark.parametrize("name", ["vit", "clip", "siglip", "dinov2", "convnext"])
def test_fast_processors_differ_by_one_level_at_most(name: str, tmp_path: Path) -> None:
    """torchvision rounds the resized pixels in steps of its own."""
    image = Image.open(io.BytesIO(PHOTOGRAPH))
    found, _ = recipe(CONFIGS[name]).prepare(image)
    expected = prepared(theirs(CONFIGS[name], tmp_path, "torchvision"), image)
    levels = np.abs(found - expected) * 255 * np.asarray(recipe(CONFIGS[name]).std)[:, None, None]
    assert levels.max() < 1.01
    assert levels.mean() < 0.01


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_processor_type": "Siglip2ImageProcessor"}, "Siglip2ImageProcessor"),
        ({"image_processor_type": "MyImageProcessor", "auto_map": {"AutoImageProcessor": "code.MyImageProcessor"}}, "MyImage"),
        ({"image_processor_type": None}, "without a name"),
        ({"size": {"shortest_edge": 224}}, "many sizes"),
        ({"size": {"shortest_edge": 224, "longest_edge": 400}}, "longest_edge"),
        ({"do_resize": False}, "many sizes"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"do_pad": True}, "do_pad"),
        ({"image_processor_type": "ConvNextImageProcessor", "do_center_crop": True}, "do_center_crop"),
        ({"size": [1, 2, 3]}, "size [1, 2, 3]"),
        ({"size": "large"}, "size 'large'"),
        ({"size": 0}, "size 0"),
        ({"resample": 9}, "resample 9"),
        ({"resample": -1}, "resample -1"),
        ({"image_mean": [0.5]}, "image_mean [0.5]"),
        ({"image_mean": [0.5, math.nan, 0.5]}, "image_mean"),
        ({"image_std": "wide"}, "image_std 'wide'"),
        ({"size": {"height": 3}}, "size"),
        ({"do_center_crop": True, "crop_size": "none"}, "crop_size"),
        ({"rescale_factor": math.inf}, "rescale_factor"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std"),
        ({"rescale_factor": "half"}, "rescale_factor 'half'"),
    ],
)
def test_what_is_not_known_is_refused(change: dict[str, Any], words: str) -> None:
    assert words in refusal(lambda: recipe({"image_processor_type": "ViTImageProcessor", **change}))


def test_the_newer_file_goes_before_and_a_folder_without_any_is_refused(tmp_path: Path) -> None:
    assert "how its pictures are prepared" in refusal(lambda: read_processor(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text('{"size": 32}')
    assert read_processor(tmp_path, "ViTImageProcessor").size == (32, 32)
    (tmp_path / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')
    assert read_processor(tmp_path, "ViTImageProcessor").size == (32, 32)
    fields = {"image_processor": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 64, "width": 48}}}
    (tmp_path / "processor_config.json").write_text(json.dumps(fields))
    assert read_processor(tmp_path).size == (64, 48)
    (tmp_path / "processor_config.json").write_text("[]")
    assert "no JSON object" in refusal(lambda: read_processor(tmp_path))
    (tmp_path / "processor_config.json").write_text("{")
    assert "cannot be read" in refusal(lambda: read_processor(tmp_path))


@pytest.mark.parametrize("fields", [CONFIGS["clip"], {"image_processor_type": "DINOv3ViTImageProcessor"}])
def test_a_recipe_comes_back_from_its_file(fields: dict[str, Any], tmp_path: Path) -> None:
    read = recipe(fields)
    read.write(tmp_path / "recipe.json")
    assert Recipe.read(tmp_path / "recipe.json") == read


def test_boxes_in_pixels_of_the_picture() -> None:
    image = Image.new("RGB", (200, 101))
    assert recipe({**CONFIGS["clip"], "size": {"shortest_edge": 101}, "crop_size": 48}).prepare(image)[1] == (76, 26, 124, 74)
    assert recipe({**CONFIGS["not resized"], "crop_size": 202}).prepare(image)[1] == (-1, -51, 201, 151)
