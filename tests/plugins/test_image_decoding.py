"""Decoding against PIL, and what is refused."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from topwork_plugins.images import decode
from topwork_server import ImageItem, InvalidInput, TextItem, TopworkError, VideoItem
from topwork_server.blocking_calls import working_for
from topwork_server.plugin_api import example_inputs
from topwork_server.types import Array

PHOTOGRAPH = (example_inputs.FOLDER / "coffee.jpg").read_bytes()


def photograph(width: int = 96, height: int = 64) -> Image.Image:
    return Image.open(io.BytesIO(PHOTOGRAPH)).resize((width, height))


def encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def decoded(data: bytes) -> Array:
    return np.asarray(decode.decode(ImageItem(data)))


def refusal(item: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        decode.decode(item)
    assert caught.value.remedy
    return caught.value.message


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(96, 64), (97, 63), (1, 1)])
def test_jpeg_is_bit_identical_to_pil(subsampling: str, size: tuple[int, int]) -> None:
    for extra in ({}, {"progressive": True}, {"quality": 30}, {"restart_marker_rows": 1}):
        data = encoded(photograph(*size), "JPEG", subsampling=subsampling, **extra)
        np.testing.assert_array_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_jpeg_of_other_colors(mode: str) -> None:
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
    exif[0x0112] = orientation
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
    gray = Image.new("LA", (4, 4), (0, 0))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    assert (decoded(encoded(gray, "PNG")) == 255).all()
    assert (decoded(encoded(palette, "PNG", transparency=1)) == 255).all()
    assert (decoded(encoded(palette, "PNG")) == (0, 255, 0)).all()


def test_one_bit_and_sixteen_bits() -> None:
    gray = np.array([[0, 0x12FF, 0x8000, 0xFFFF]], np.uint16)
    for kind in ("PNG", "TIFF"):
        found = decoded(encoded(Image.fromarray(gray), kind))
        np.testing.assert_array_equal(found[0], np.repeat([[0], [0x12], [0x80], [0xFF]], 3, axis=1))
    assert decoded(encoded(Image.new("1", (2, 2), 1), "PNG")).tolist() == [[[255] * 3] * 2] * 2
    assert decoded(_png(1, 1, 2, 16, b"\0" + bytes([0x80, 1, 0x40, 2, 0x20, 3]))).tolist() == [[[0x80, 0x40, 0x20]]]


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    found = decoded(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (found == (255, 0, 0)).all()


def test_arrays_pass_as_they_are() -> None:
    array = np.asarray(photograph())
    np.testing.assert_array_equal(np.asarray(decode.decode(array)), array)
    np.testing.assert_array_equal(np.asarray(decode.decode(array[:, ::-1])), array[:, ::-1])


def test_what_is_no_picture_is_refused() -> None:
    assert "empty" in refusal(ImageItem(b""))
    assert "not a picture" in refusal(ImageItem(b"%PDF-1.7 and so on"))
    assert "not a picture" in refusal(ImageItem(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"))
    assert "not a text" in refusal(TextItem("a cat"))
    assert "not a video" in refusal(VideoItem(b"x"))


@pytest.mark.parametrize(
    "array",
    [
        np.array(3, np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((2, 4, 4, 3), np.uint8),
    ],
    ids=["zero-dimensional", "gray", "rgba", "float", "clip"],
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
    message = refusal(ImageItem(data[: int(len(data) * kept)]))
    assert "cut short" in message or "not a picture" in message


def test_a_jpeg_that_ends_early_but_in_good_order_is_refused() -> None:
    """PIL fills the missing part with gray and says nothing."""
    half = PHOTOGRAPH[: len(PHOTOGRAPH) // 2] + b"\xff\xd9"
    Image.open(io.BytesIO(half)).load()
    assert "cut short" in refusal(ImageItem(half))


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
        assert "pixels" in refusal(ImageItem(_png(side, side, 2, 8, b"")))


def test_pictures_wait_for_room_while_others_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """All threads together decode so many pixels at a time; a decode that waits for room ends where the caller leaves."""
    picture = ImageItem(encoded(photograph(), "PNG"))
    monkeypatch.setattr("topwork_plugins.images.decode.MOST_AT_ONCE", 96 * 64)
    for _ in range(2):  # the room is given back, after a refusal too
        with decode.opened(picture) as first:
            assert first.size == (96, 64)
            with working_for(lambda: True), pytest.raises(TopworkError, match="left"), decode.opened(picture):
                raise AssertionError("there was no room for it")


def test_pixels_of_no_known_range_are_refused() -> None:
    assert "32-bit" in refusal(ImageItem(encoded(Image.new("F", (4, 4)), "TIFF")))


def _png(width: int, height: int, colors: int, bits: int, rows: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colors, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
