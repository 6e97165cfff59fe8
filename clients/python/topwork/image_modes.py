"""PIL images of any mode to RGB, upright: the rules of docs/encoders.md, for images that are sent and files that are opened.

PIL is imported where an image comes in, never by `import topwork`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topwork.errors import InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image

#: The most pixels that a picture may have, known from its header before anything is decoded (8192 x 8192; 256 MiB in PIL).
MAX_PIXELS = 2**26
#: EXIF's tag that says which way is up (CIPA DC-008, 4.6.4).
ORIENTATION = 0x0112
#: Modes that cannot become RGBA in one step, and what they become first.
FIRST = {"La": "LA"}


def check_size(width: int, height: int) -> None:
    """InvalidInput for a picture without pixels, or with more than MAX_PIXELS."""
    if not width or not height:
        raise InvalidInput(f"the picture has no pixels ({width} x {height})", remedy="send at least one pixel")
    if width * height > MAX_PIXELS:
        raise InvalidInput(
            f"the picture has {width} x {height} pixels, more than {MAX_PIXELS:,}", remedy="make it smaller before sending"
        )


def upright_rgb(image: Image) -> Image:
    """An RGB image of the same pixels, upright as its EXIF says.

    Alpha and transparent colors are laid over white. Gray, palette, CMYK, YCbCr, LAB and HSV become RGB; of 16 bits the upper 8
    are kept; color profiles are not applied. InvalidInput for pixels of 32 bits (I, F), whose range is not known, and for more
    than MAX_PIXELS, before any is decoded.
    """
    check_size(*image.size)
    image.load()  # some files have their EXIF after the pixels
    return turned(rgb(image), orientation(image))


def rgb(image: Image) -> Image:
    """Convert to RGB as `upright_rgb` does, without turning the image."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # as older releases of PIL open 16 bits
        return _of_16_bits(image)
    if image.mode in ("I", "F"):
        raise InvalidInput(
            f"the picture's pixels are 32-bit ({image.mode}) of no known range", remedy="save it with 8 or 16 bits a channel"
        )
    image = image.convert(FIRST[image.mode]) if image.mode in FIRST else image
    return _over_white(image.convert("RGBA")) if image.has_transparency_data else image.convert("RGB")


def orientation(image: Image) -> int:
    """1 to 8; 1 where the image does not say or its EXIF cannot be read: a picture is no worse for a broken tag."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1


def turned(image: Image, orientation: int) -> Image:
    """Turned or mirrored as EXIF says."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _of_16_bits(image: Image) -> Image:
    """The upper 8 bits; pixels of the transparent gray, if there is one, are white."""
    import numpy as np
    from PIL.Image import fromarray

    values = np.asarray(image)
    upper = (values >> 8).astype(np.uint8)
    transparent: Any = image.info.get("transparency")
    if isinstance(transparent, int):
        upper[values == transparent] = 255
    return fromarray(upper).convert("RGB")


def _over_white(image: Image) -> Image:
    from PIL.Image import new

    ground = new("RGB", image.size, "white")
    ground.paste(image, mask=image.getchannel("A"))
    return ground
