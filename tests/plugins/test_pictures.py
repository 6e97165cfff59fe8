"""Decoding against PIL, preprocessing against timm's own transform, and what is refused."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from topwork_plugins import pictures
from topwork_plugins.picture_recipe import Recipe
from topwork_server import Clip, InvalidInput, Picture, Text, examples, torch_shim
from topwork_server.types import Array

PHOTOGRAPH = (examples.FOLDER / "coffee.jpg").read_bytes()
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def photograph(width: int = 96, height: int = 64) -> Image.Image:
    return Image.open(io.BytesIO(PHOTOGRAPH)).resize((width, height))


def encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def decoded(data: bytes) -> Array:
    return np.asarray(pictures.decode(Picture(data)))


def refusal(item: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        pictures.decode(item)
    assert caught.value.remedy
    return caught.value.message


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(96, 64), (97, 63), (1, 1)])
def test_jpeg_is_bit_identical_to_pil(subsampling: str, size: tuple[int, int]) -> None:
    for extra in ({}, {"progressive": True}, {"quality": 30}, {"restart_marker_rows": 1}):
        data = encoded(photograph(*size), "JPEG", subsampling=subsampling, **extra)
        np.testing.assert_array_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_jpeg_of_other_colours(mode: str) -> None:
    data = encoded(photograph().convert(mode), "JPEG", **({"keep_rgb": True} if mode == "RGB" else {}))
    np.testing.assert_array_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_lossless_formats_decode_as_pil_does(kind: str) -> None:
    image = photograph()
    data = encoded(image.quantize(32) if kind == "GIF" else image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decoded(data), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    data = encoded(photograph(), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert expected.size == ((64, 96) if orientation >= 5 else (96, 64))
    np.testing.assert_array_equal(decoded(data), np.asarray(expected))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # PIL's own word on it
def test_an_orientation_that_cannot_be_read_changes_nothing() -> None:
    plain = encoded(photograph(), "JPEG")
    broken = encoded(photograph(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(decoded(broken), decoded(plain))


def test_alpha_is_laid_over_white() -> None:
    alpha = Image.new("L", (96, 64), 0)
    alpha.paste(255, (0, 0, 48, 64))
    image = photograph()
    image.putalpha(alpha)
    found = decoded(encoded(image, "PNG"))
    np.testing.assert_array_equal(found[:, :48], np.asarray(photograph())[:, :48])
    assert (found[:, 48:] == 255).all()


def test_transparency_of_grey_and_palette_pictures() -> None:
    grey = Image.new("LA", (4, 4), (0, 0))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    assert (decoded(encoded(grey, "PNG")) == 255).all()
    assert (decoded(encoded(palette, "PNG", transparency=1)) == 255).all()
    assert (decoded(encoded(palette, "PNG")) == (0, 255, 0)).all()


def test_one_bit_and_sixteen_bits() -> None:
    grey = np.array([[0, 0x12FF, 0x8000, 0xFFFF]], np.uint16)
    for kind in ("PNG", "TIFF"):
        found = decoded(encoded(Image.fromarray(grey), kind))
        np.testing.assert_array_equal(found[0], np.repeat([[0], [0x12], [0x80], [0xFF]], 3, axis=1))
    assert decoded(encoded(Image.new("1", (2, 2), 1), "PNG")).tolist() == [[[255] * 3] * 2] * 2
    assert decoded(_png(1, 1, 2, 16, b"\0" + bytes([0x80, 1, 0x40, 2, 0x20, 3]))).tolist() == [[[0x80, 0x40, 0x20]]]


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    found = decoded(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (found == (255, 0, 0)).all()


def test_arrays_pass_as_they_are() -> None:
    array = np.asarray(photograph())
    np.testing.assert_array_equal(np.asarray(pictures.decode(array)), array)
    np.testing.assert_array_equal(np.asarray(pictures.decode(array[:, ::-1])), array[:, ::-1])


def test_what_is_no_picture_is_refused() -> None:
    assert "empty" in refusal(Picture(b""))
    assert "not a picture" in refusal(Picture(b"%PDF-1.7 and so on"))
    assert "not a picture" in refusal(Picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"))
    assert "not a text" in refusal(Text("a cat"))
    assert "not a clip" in refusal(Clip(b"x"))


@pytest.mark.parametrize(
    "array",
    [
        np.array(3, np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((2, 4, 4, 3), np.uint8),
    ],
    ids=["zero-dimensional", "grey", "rgba", "float", "clip"],
)
def test_arrays_of_other_shapes_or_types_are_refused(array: Array) -> None:
    assert str(array.shape) in refusal(array)
    assert str(array.dtype) in refusal(array)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3)])
def test_a_picture_without_pixels_is_refused(shape: tuple[int, ...]) -> None:
    assert "no pixels" in refusal(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("kept", [0.9, 0.5])
def test_a_file_that_was_cut_short_is_refused(kind: str, kept: float) -> None:
    data = encoded(photograph(256, 256), kind)
    message = refusal(Picture(data[: int(len(data) * kept)]))
    assert "cut short" in message or "not a picture" in message


def test_a_jpeg_that_ends_early_but_in_good_order_is_refused() -> None:
    """PIL fills the missing part with grey and says nothing."""
    half = PHOTOGRAPH[: len(PHOTOGRAPH) // 2] + b"\xff\xd9"
    Image.open(io.BytesIO(half)).load()
    assert "cut short" in refusal(Picture(half))


def test_bytes_that_cost_no_pixel_are_forgiven() -> None:
    data = encoded(photograph(), "JPEG")
    at = data.index(b"\xff\xdb")
    padded = data[:at] + b"\0\0\0" + data[at:]
    np.testing.assert_array_equal(decoded(padded), decoded(data))


@pytest.mark.parametrize("side", [9_000, 11_000, 60_000])
@pytest.mark.parametrize("strict", [True, False])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int, strict: bool) -> None:
    """The data of this picture is missing: had anybody begun to decode it, the message would be another."""
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        assert "pixels" in refusal(Picture(_png(side, side, 2, 8, b"")))


def test_pixels_of_no_known_range_are_refused() -> None:
    assert "32-bit" in refusal(Picture(encoded(Image.new("F", (4, 4)), "TIFF")))


def _png(width: int, height: int, colours: int, bits: int, rows: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


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
    torch_shim.import_ready()
    from timm.data import create_transform

    image = Image.open(io.BytesIO(PHOTOGRAPH)).resize(size)
    expected = create_transform(**CONFIGS[name])(image).numpy()
    found, _ = Recipe.from_timm(CONFIGS[name]).prepare(image)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


def test_every_example_picture_equals_timms() -> None:
    torch_shim.import_ready()
    from timm.data import create_transform

    transform, recipe = create_transform(**CONFIGS["resnet"]), Recipe.from_timm(CONFIGS["resnet"])
    for picture in examples.pictures():
        expected = transform(Image.open(io.BytesIO(picture.data)).convert("RGB")).numpy()
        np.testing.assert_array_equal(recipe.prepare(pictures.decode(picture))[0], expected)


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
from topwork_plugins import resnet
specs = list(resnet.register_encoders())
assert not [m for m in ("PIL", "torch", "timm", "onnxruntime", "simplejpeg") if m in sys.modules], "listing is free"
from topwork_server import NoOptions, examples
encoder = specs[0].encoder(specs[0], pathlib.Path({str(tmp_path)!r}))
for picture in examples.pictures():
    (sample,) = encoder.preprocess(picture, NoOptions())
    assert sample.inputs["pictures"].shape == (3, 224, 224)
assert not [m for m in ("torch", "timm", "torchvision", "onnx") if m in sys.modules]
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
