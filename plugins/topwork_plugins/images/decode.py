"""Decoding of pictures and arrays to RGB: what is refused, which way is up, and what becomes of alpha, palettes and 16 bits.

The pixels that all threads together have decoded at a time are bounded: 100 bytes of WebP may hold a gigabyte of memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from topwork import errors, image_modes
from topwork.file_kinds import file_kind
from topwork_server import Array, ImageItem, InvalidInput, Item, check_caller, item_kind

if TYPE_CHECKING:
    from PIL.Image import Image

#: Pixels at a time: four of the largest pictures, each some 0.5 to 1 GiB while it is decoded, or 22 of 12 megapixels.
MOST_AT_ONCE = 2**28
#: Seconds after which a waiting thread asks again whether its caller is still there.
PATIENCE = 1.0
#: As the SDK has it, which refuses a larger PIL image before it is sent.
MAX_PIXELS = image_modes.MAX_PIXELS
#: What PIL may try: never formats that run another program (EPS) or that only look like pictures.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
#: The most pixels times scans of a JPEG, some 10 s of work: a progressive one decodes all pixels for each scan (10 are usual).
MAX_WORK = 2**30
#: libjpeg goes on after damage and fills with gray; these of its warnings mean that pixels are missing or wrong.
DAMAGE = ("premature end", "bad huffman", "bad arithmetic", "instead of rst", "bogus")

KINDS = "send an encoded picture (JPEG, PNG, WebP, GIF, BMP, TIFF), or an array (H, W, 3) uint8 of RGB"


class PixelBudget:
    """Pixels that are in use. The first to wait is the first to go on: many small pictures never keep a large one waiting."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._used = 0

    @contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """Hold so many pixels, once there is room for them. Raises where the caller leaves meanwhile."""
        with self._turn, self._changed:
            while self._used and self._used + pixels > MOST_AT_ONCE:
                check_caller()
                self._changed.wait(PATIENCE)
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()


BUDGET = PixelBudget()


@contextmanager
def opened(item: Item) -> Iterator[Image]:
    """Decode within the memory that all threads together may take: make the picture small before this ends."""
    with ExitStack() as held:
        yield decode(item, lambda pixels: held.enter_context(BUDGET.of(pixels)))


def decode(item: Item, hold: Callable[[int], None] = lambda pixels: None) -> Image:
    """Decode to an RGB picture, upright, of at most MAX_PIXELS; InvalidInput says what is wrong with the item.

    `hold` is called with the number of pixels before they are decoded.

    EXIF orientation is applied. Alpha is laid over white. Gray and palette become RGB; of 16 bits the upper 8 are kept;
    color profiles are not applied. An animation gives its first frame.
    """
    if isinstance(item, ImageItem):
        return _from_bytes(item.data, hold)
    if isinstance(item, np.ndarray):
        return _from_array(item)
    raise InvalidInput(f"an image encoder reads pictures, not {item_kind(item)}", remedy=KINDS)


def _from_array(array: Array) -> Image:
    from PIL import Image

    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise InvalidInput(
            f"an array {array.shape} of {array.dtype} is not a picture", remedy="send an array (H, W, 3) uint8 of RGB"
        )
    _check_size(array.shape[1], array.shape[0])
    return Image.fromarray(array)


def _check_size(width: int, height: int) -> None:
    try:
        image_modes.check_size(width, height)
    except errors.InvalidInput as error:
        raise InvalidInput(error.message, remedy=error.remedy) from None


def _from_bytes(data: bytes, hold: Callable[[int], None]) -> Image:
    if not data:
        raise InvalidInput("the picture is empty (0 bytes)", remedy=KINDS)
    image = _open(data)
    _check_size(*image.size)
    hold(image.width * image.height)
    try:
        return image_modes.turned(_rgb(image, data), image_modes.orientation(image))
    except errors.InvalidInput as error:
        raise InvalidInput(error.message, remedy=error.remedy) from None
    except (InvalidInput, MemoryError):
        raise
    except Exception as error:  # PIL's readers raise errors of any kind
        raise _broken(error) from error


def _broken(error: Exception) -> InvalidInput:
    return InvalidInput(f"the picture is damaged or cut short: {error}", remedy="send the whole file")


def _open(data: bytes) -> Image:
    """Read the header alone. PIL has a pixel limit of its own, above ours."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(f"the picture has too many pixels: {error}", remedy="make it smaller before sending") from error
    except UnidentifiedImageError:
        kind = file_kind(data)
        seems = f"they seem to be {kind}" if kind else f"they begin {data[:8].hex(' ')}"
        raise InvalidInput(f"{len(data)} bytes are not a picture ({seems})", remedy=KINDS) from None
    except Exception as error:
        raise _broken(error) from error


def _rgb(image: Image, data: bytes) -> Image:
    """Decode to RGB as the pixels lie in the file."""
    from PIL import Image

    if image.format in ("JPEG", "MPO"):
        _check_scans(image, data)
        decoded = _jpeg(data) if image.mode in ("RGB", "L") else None
        if decoded is not None:
            return Image.fromarray(decoded)
    image.load()
    return image_modes.rgb(image)


def _check_scans(image: Image, data: bytes) -> None:
    scans = data.count(b"\xff\xda")
    if scans * image.width * image.height > MAX_WORK:
        raise InvalidInput(
            f"the picture has {scans} scans of {image.width} x {image.height} pixels",
            remedy="save it again, with the usual scans",
        )


def _jpeg(data: bytes) -> Array | None:
    """Decode to (H, W, 3) uint8, bit for bit as PIL does, but fail for damage that PIL hides; None where PIL should do it."""
    import simplejpeg

    try:
        decoded: Array = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        if any(word in str(error).lower() for word in DAMAGE):
            raise
        return None  # such as bytes between segments, which cost no pixel
    return decoded
