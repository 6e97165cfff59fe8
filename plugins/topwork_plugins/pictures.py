"""Encoded pictures and arrays to RGB: what is refused, which way is up, and what becomes of alpha, palettes and 16 bits."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from topwork_server import InvalidInput, Item, Picture
from topwork_server.types import Array

if TYPE_CHECKING:
    from PIL.Image import Image

#: The most pixels that a picture may have, known from its header before anything is decoded (8192 x 8192; 256 MiB in PIL).
MAX_PIXELS = 2**26
#: What PIL may try: never formats that run another program (EPS) or that only look like pictures.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
#: libjpeg goes on after damage and fills with grey; these of its warnings mean that pixels are missing or wrong.
DAMAGE = ("premature end", "bad huffman", "bad arithmetic", "instead of rst", "bogus")
ORIENTATION = 0x0112

KINDS = "send an encoded picture (JPEG, PNG, WebP, GIF, BMP, TIFF), or an array (H, W, 3) uint8 of RGB"


def decode(item: Item) -> Image:
    """An RGB picture, upright, of at most MAX_PIXELS; InvalidInput says what is wrong with the item.

    EXIF orientation is applied. Alpha is laid over white. Grey and palette become RGB; of 16 bits the upper 8 are kept;
    colour profiles are not applied. An animation gives its first frame.
    """
    if isinstance(item, Picture):
        return _from_bytes(item.data)
    if isinstance(item, np.ndarray):
        return _from_array(item)
    raise InvalidInput(f"an image encoder reads pictures, not a {type(item).__name__.lower()}", remedy=KINDS)


def _from_array(array: Array) -> Image:
    from PIL import Image

    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise InvalidInput(
            f"an array {array.shape} of {array.dtype} is not a picture", remedy="send an array (H, W, 3) uint8 of RGB"
        )
    _check_size(array.shape[1], array.shape[0])
    return Image.fromarray(array)


def _check_size(width: int, height: int) -> None:
    if not width or not height:
        raise InvalidInput(f"the picture has no pixels ({width} x {height})", remedy="send at least one pixel")
    if width * height > MAX_PIXELS:
        raise InvalidInput(
            f"the picture has {width} x {height} pixels, more than {MAX_PIXELS:,}", remedy="make it smaller before sending"
        )


def _from_bytes(data: bytes) -> Image:
    if not data:
        raise InvalidInput("the picture is empty (0 bytes)", remedy=KINDS)
    image = _open(data)
    _check_size(*image.size)
    try:
        return _upright(_pixels(image, data))
    except (InvalidInput, MemoryError):
        raise
    except Exception as error:  # PIL's readers raise whatever their format makes them trip over
        raise _broken(error) from error


def _broken(error: Exception) -> InvalidInput:
    return InvalidInput(f"the picture is damaged or cut short: {error}", remedy="send the whole file")


def _open(data: bytes) -> Image:
    """Reads the header alone. PIL has a pixel limit of its own, above ours."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(f"the picture has too many pixels: {error}", remedy="make it smaller before sending") from error
    except UnidentifiedImageError:
        start = data[:8].hex(" ")
        raise InvalidInput(f"{len(data)} bytes are not a picture (they begin {start})", remedy=KINDS) from None
    except Exception as error:
        raise _broken(error) from error


def _pixels(image: Image, data: bytes) -> tuple[Image, int]:
    """RGB as the file has it, and its EXIF orientation (1 to 8)."""
    from PIL import Image

    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        decoded = _jpeg(data)
        if decoded is not None:
            return Image.fromarray(decoded), _orientation(image)
    image.load()
    return _to_rgb(image), _orientation(image)


def _jpeg(data: bytes) -> Array | None:
    """(H, W, 3) uint8, bit for bit what PIL decodes, but told of damage that PIL hides; None where PIL should do it."""
    import simplejpeg

    try:
        decoded: Array = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        if any(word in str(error).lower() for word in DAMAGE):
            raise
        return None  # such as bytes between segments, which cost no pixel
    return decoded


def _to_rgb(image: Image) -> Image:
    if image.mode.startswith("I;16"):
        return _from_array(np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, axis=2))
    if image.mode in ("I", "F"):
        raise InvalidInput(
            f"the picture's pixels are 32-bit ({image.mode}) of no known range", remedy="save it with 8 or 16 bits a channel"
        )
    if image.has_transparency_data:
        return _over_white(image.convert("RGBA"))
    return image.convert("RGB")


def _over_white(image: Image) -> Image:
    from PIL import Image

    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def _orientation(image: Image) -> int:
    """1 where the file does not say or its EXIF cannot be read: a picture is no worse for a broken tag."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1


def _upright(pixels: tuple[Image, int]) -> Image:
    """Turned or mirrored as EXIF says (CIPA DC-008, tag 0x0112)."""
    from PIL import Image

    image, orientation = pixels
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image
