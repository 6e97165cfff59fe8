"""A PIL image gives the features of its file: in every mode of PIL, turned by EXIF, animated, with 16 bits a channel."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import topwork
from PIL import Image
from topwork import image_modes as topwork_pictures
from topwork._codec import items
from topwork.v1 import types_pb2
from topwork_plugins.images import decode
from topwork_server import ImageItem, InvalidInput
from topwork_server.services.convert import item_messages
from topwork_server.types import Array

SIZE = (24, 16)


def colors(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 4), np.uint8), "RGBA")


def grays(dtype: Any = np.uint16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 2**16, (SIZE[1], SIZE[0]), np.uint16).astype(dtype))


def palette(**info: Any) -> Image.Image:
    image = colors().convert("RGB").quantize(16)
    image.info |= info
    return image


def encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def as_sent(image: Image.Image) -> Array:
    """The RGB pixels that an encoder gets of an image that a caller passes."""
    item = items.pack(image, "image", 0)
    assert isinstance(item, types_pb2.Item)
    return np.asarray(decode.decode(item_messages.item(item)))


def as_file(data: bytes) -> Array:
    return np.asarray(decode.decode(ImageItem(data)))


FILES = {
    "1": encoded(colors().convert("1"), "PNG"),
    "L": encoded(colors().convert("L"), "PNG"),
    "L, a gray is transparent": encoded(colors().convert("L").quantize(8).convert("L"), "PNG", transparency=90),
    "LA": encoded(colors().convert("LA"), "PNG"),
    "P": encoded(palette(), "PNG"),
    "P, one color is transparent": encoded(palette(), "PNG", transparency=3),
    "P, alpha for each color": encoded(palette(), "PNG", transparency=bytes(range(0, 256, 16))),
    "P, GIF": encoded(palette(), "GIF", transparency=3),
    "PA": encoded(palette().convert("PA"), "TIFF"),
    "RGB": encoded(colors().convert("RGB"), "PNG"),
    "RGB, a color is transparent": encoded(colors().convert("RGB"), "PNG", transparency=colors().convert("RGB").getpixel((3, 3))),
    "RGB, JPEG": encoded(colors().convert("RGB"), "JPEG"),
    "L, JPEG": encoded(colors().convert("L"), "JPEG"),
    "RGB, WebP": encoded(colors().convert("RGB"), "WEBP"),
    "RGBA": encoded(colors(), "PNG"),
    "RGBA, WebP": encoded(colors(), "WEBP", lossless=True),
    "RGBA, TIFF": encoded(colors(), "TIFF"),
    "RGBX": encoded(colors().convert("RGB").convert("RGBX"), "TIFF"),
    "CMYK": encoded(colors().convert("CMYK"), "TIFF"),
    "CMYK, JPEG": encoded(colors().convert("CMYK"), "JPEG"),
    "YCbCr": encoded(colors().convert("YCbCr"), "TIFF"),
    "LAB": encoded(Image.merge("LAB", colors().split()[:3]), "TIFF"),
    "I;16": encoded(grays(), "PNG"),
    "I;16, a gray is transparent": encoded(grays(), "PNG", transparency=int(np.asarray(grays())[2, 2])),
    "I;16, TIFF": encoded(grays(), "TIFF"),
    "I;16B": encoded(grays(">u2"), "TIFF"),
    "an ICC profile": encoded(colors().convert("RGB"), "PNG", icc_profile=b"none that is known"),
    "an animated GIF": encoded(palette(), "GIF", save_all=True, append_images=[colors(2).convert("RGB")]),
    "an animated PNG": encoded(colors(), "PNG", save_all=True, append_images=[colors(2)]),
    "an animated WebP": encoded(colors(), "WEBP", save_all=True, append_images=[colors(2)], lossless=True),
    "two pages": encoded(colors(), "TIFF", save_all=True, append_images=[colors(2)]),
    "two pictures": encoded(colors().convert("RGB"), "MPO", save_all=True, append_images=[colors(2).convert("RGB")]),
}


@pytest.mark.filterwarnings("ignore")  # PIL's word on the profile
@pytest.mark.parametrize("name", FILES)
def test_an_image_gives_what_its_file_gives(name: str) -> None:
    data = FILES[name]
    np.testing.assert_array_equal(as_sent(Image.open(io.BytesIO(data))), as_file(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_file_is(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(colors().convert("RGB"), kind, exif=exif)
    found = as_sent(Image.open(io.BytesIO(data)))
    assert found.shape[:2] == (SIZE if orientation >= 5 else SIZE[::-1])
    np.testing.assert_array_equal(found, as_file(data))


def test_a_16_bit_gray_that_is_transparent_is_white() -> None:
    values = np.array([[0, 0x1234, 0x1235, 0xFFFF]], np.uint16)
    data = encoded(Image.fromarray(values), "PNG", transparency=0x1234)
    assert as_file(data)[0, :, 0].tolist() == [0, 255, 0x12, 255]


def test_modes_that_no_file_has() -> None:
    white = colors().copy()
    expected = np.asarray(Image.alpha_composite(Image.new("RGBA", SIZE, "white"), white).convert("RGB")).astype(int)
    assert np.abs(as_sent(colors()).astype(int) - expected).max() <= 1
    assert np.abs(as_sent(colors().convert("RGBa")).astype(int) - expected).max() <= 2  # what premultiplied alpha has lost
    gray = colors().convert("LA")
    assert np.abs(as_sent(gray.convert("La")).astype(int) - as_sent(gray)).max() <= 2
    opaque = colors().convert("RGB")
    np.testing.assert_array_equal(as_sent(opaque.convert("HSV")), np.asarray(opaque.convert("HSV").convert("RGB")))
    for mode in ("I;16L", "I;16N", "I;16B"):
        image = Image.frombytes(mode, (2, 1), np.array([0x1234, 0xABCD], ">u2" if mode == "I;16B" else "<u2").tobytes())
        assert as_sent(image)[0, :, 0].tolist() == [0x12, 0xAB]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_no_known_range_are_refused_as_their_file_is(mode: str) -> None:
    image = Image.new(mode, SIZE)
    with pytest.raises(topwork.errors.InvalidInput, match="32-bit") as sent:
        items.pack(image, "image", 3)
    assert sent.value.item == 3
    with pytest.raises(InvalidInput, match="32-bit") as opened:
        as_file(encoded(image, "TIFF"))
    assert sent.value.remedy == opened.value.remedy


def test_an_image_whose_file_is_gone_or_damaged_is_refused() -> None:
    closed = Image.open(io.BytesIO(FILES["RGB"]))
    closed.close()
    cut = Image.open(io.BytesIO(FILES["RGB"][:-500]))
    for image in (closed, cut):
        with pytest.raises(topwork.errors.InvalidInput, match="cannot be read"):
            items.pack(image, "image", 0)


def test_a_jpeg_of_very_many_scans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(colors().convert("RGB"), "JPEG", progressive=True)
    assert as_file(data).shape == (*SIZE[::-1], 3)
    monkeypatch.setattr(decode, "MAX_WORK", 8 * SIZE[0] * SIZE[1])
    with pytest.raises(InvalidInput, match="scans"):
        as_file(data)


def test_a_picture_that_no_server_takes_is_refused_before_its_pixels_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Converting 400 megapixels took 10 s."""
    image = Image.new("RGB", SIZE)
    monkeypatch.setattr(image, "load", lambda: pytest.fail("the pixels are read"))
    monkeypatch.setattr(image, "_size", (20_000, 20_000))
    with pytest.raises(topwork.InvalidInput, match="20000 x 20000 pixels, more than 67,108,864"):
        items.pack(image, "image", 0)
    assert decode.MAX_PIXELS == topwork_pictures.MAX_PIXELS


@pytest.mark.parametrize("dtype", ["float64", "uint16", "bool", "complex64"])
def test_an_array_that_is_no_picture_says_what_one_is(dtype: str, tmp_path: Path) -> None:
    array = np.zeros((4, 4, 3), dtype)
    np.save(tmp_path / "picture.npy", array)
    for item in (array, tmp_path / "picture.npy"):
        with pytest.raises(topwork.InvalidInput, match=f"an array of {dtype} is not a picture") as refused:
            items.pack(item, "image", 0)
        assert "(H, W, 3) uint8" in refused.value.remedy
        assert "int32" not in refused.value.remedy


def test_an_array_larger_than_a_message_is_refused_before_it_is_copied() -> None:
    with pytest.raises(topwork.TooLarge, match="one message holds 60 MiB"):
        items.pack(np.broadcast_to(np.uint8(0), (20_000, 20_000, 3)), "image", 0)
