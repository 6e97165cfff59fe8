"""Masks of pictures as labels write them, a PNG of class indexes or boxes, and the class of each cell of a feature map."""

from __future__ import annotations

import binascii
import math
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.types import Array

BACKGROUND = "background"
#: Pixels of a PNG that belong to no class, as in PASCAL VOC.
IGNORED = 255
#: The most pixels that a mask may have, known from its header before anything is decoded (as pictures).
MOST_PIXELS = 2**26
MOST_BOXES = 1000
DATA_URI = "data:image/png;base64,"
#: What the base64 of a PNG begins with.
PNG_START = "iVBORw0KGgo"
_NUMBER = r"\s*(-?[0-9]+(?:\.[0-9]*)?)\s*"
BOX = re.compile(f"{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}:(.*\\S.*)", re.DOTALL)
PNG_FORM = "write a PNG as base64, with the class of each pixel as its gray or palette index, 255 to ignore it"
BOX_FORM = "write 'x0,y0,x1,y1:LABEL' in pixels of the original picture, each a number such as 10 or 10.5: '10,20,60,80:owl'"


class ImageMask(Protocol):
    """The classes of one picture's pixels."""

    @property
    def classes(self) -> frozenset[str]:
        """Names of those that it has."""

    def cells(self, boxes: Array, index: Mapping[str, int]) -> Array:
        """Find the class of most of each cell's area (the first of equals), (n,) int64; -1 where all of it is to be ignored.

        boxes (n, 4): what each cell covers, x0, y0, x1, y1 in pixels. `index` gives the number of each class.
        """


@dataclass(frozen=True)
class PixelMask:
    """Kept encoded, so that many fit in memory. Classes are called "0", "1", ..."""

    png: bytes
    classes: frozenset[str]

    def cells(self, boxes: Array, index: Mapping[str, int]) -> Array:
        pixels = _decoded(self.png)
        height, width = pixels.shape
        _check_reach(boxes, width, height)
        x0, x1 = _pixels(boxes[:, 0], boxes[:, 2], width)
        y0, y1 = _pixels(boxes[:, 1], boxes[:, 3], height)
        counts = np.zeros((len(boxes), 256), np.int64)
        for cell, (a, b, c, d) in enumerate(zip(y0, y1, x0, x1, strict=True)):
            counts[cell] = np.bincount(pixels[a:b, c:d].ravel(), minlength=256)
        return _most(counts[:, [int(name) for name in sorted(index, key=index.__getitem__)]])


@dataclass(frozen=True)
class BoxMask:
    """Boxes (x0, y0, x1, y1) and their labels; a later one lies over an earlier one."""

    boxes: tuple[tuple[float, float, float, float], ...]
    labels: tuple[str, ...]

    @property
    def classes(self) -> frozenset[str]:
        return frozenset((*self.labels, BACKGROUND))

    def cells(self, boxes: Array, index: Mapping[str, int]) -> Array:
        """Exact areas: the edges of all boxes and cells cut the plane into rectangles, each of one class and one cell."""
        mine = np.array(self.boxes, np.float64).reshape(-1, 4)
        xs, ys = (np.unique(np.concatenate([mine[:, [a, a + 2]].ravel(), boxes[:, [a, a + 2]].ravel()])) for a in (0, 1))
        classes = np.full((max(0, len(ys) - 1), max(0, len(xs) - 1)), index[BACKGROUND])
        for (x0, y0, x1, y1), label in zip(mine, self.labels, strict=True):
            rows, columns = (slice(*np.searchsorted(edges, ends)) for edges, ends in ((ys, (y0, y1)), (xs, (x0, x1))))
            classes[rows, columns] = index[label]
        areas = np.diff(ys)[:, None] * np.diff(xs)
        counts = np.zeros((len(boxes), len(index)))
        for cell, (x0, y0, x1, y1) in enumerate(boxes):
            part = slice(*np.searchsorted(ys, (y0, y1))), slice(*np.searchsorted(xs, (x0, x1)))
            counts[cell] = np.bincount(classes[part].ravel(), areas[part].ravel(), len(index))
        return _most(counts)


def png_mask(written: str) -> PixelMask:
    """Read a mask from a PNG in text. InvalidInput where it is none with one class for each pixel."""
    try:
        png = b64decode("".join(written.removeprefix(DATA_URI).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"the mask is not base64: {error}", remedy=PNG_FORM) from None
    there = np.flatnonzero(np.bincount(_decoded(png).ravel(), minlength=256))
    return PixelMask(png, frozenset(str(value) for value in there.tolist() if value != IGNORED))


def box_mask(written: Sequence[str | None], instead: str) -> BoxMask:
    """Read a mask from boxes. InvalidInput where one is badly written, or there are too many: `instead` is what to do then."""
    if len(written) > MOST_BOXES:
        raise InvalidInput(f"{len(written):,} boxes", remedy=f"give at most {MOST_BOXES:,} a picture: {instead}")
    boxes, labels = [], []
    for one in written:
        match = BOX.fullmatch(one or "")
        if match is None:
            if one and BOX.fullmatch(f"{one}:label" if one.count(",") == 3 and ":" not in one else f"{one}label"):
                raise InvalidInput(f"the box {one!r:.80} has no label", remedy=f"say what it holds: {BOX_FORM}")
            raise InvalidInput(f"{one!r:.80} is not a box", remedy=BOX_FORM)
        x0, y0, x1, y1 = (float(match[number]) for number in (1, 2, 3, 4))
        if not (x0 < x1 < math.inf and y0 < y1 < math.inf):
            raise InvalidInput(f"the box {one!r:.80} is empty: x0 < x1 and y0 < y1 do not hold", remedy=BOX_FORM)
        boxes.append((x0, y0, x1, y1))
        labels.append(match[5])
    return BoxMask(tuple(boxes), tuple(labels))


def is_png(written: str) -> bool:
    return written.startswith((DATA_URI, PNG_START))


def _decoded(png: bytes) -> Array:
    """Decode a PNG to (height, width) uint8. The header is read first, and a picture that is too large is not decoded."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(BytesIO(png), formats=("PNG",))
        width, height = image.size
        if 0 < width * height <= MOST_PIXELS and image.mode in ("L", "P", "1"):
            return np.asarray(image, np.uint8)
    except UnidentifiedImageError as error:
        raise InvalidInput("the mask cannot be read: it is no PNG", remedy=PNG_FORM) from error
    except Exception as error:  # PIL's readers raise errors of many classes on damaged data, warnings of bombs among them
        raise InvalidInput(f"the mask cannot be read: {' '.join(str(error).split())}", remedy=PNG_FORM) from error
    if image.mode not in ("L", "P", "1"):
        raise InvalidInput(f"the mask's pixels are {image.mode}, not one class each", remedy=PNG_FORM)
    raise InvalidInput(f"the mask has {width} x {height} pixels, more than {MOST_PIXELS:,}", remedy="make it smaller")


def _check_reach(boxes: Array, width: int, height: int) -> None:
    reach = boxes[:, 2:].max(axis=0, initial=0)
    if reach[0] > width + 1 or reach[1] > height + 1:
        raise InvalidInput(
            f"the mask has {width} x {height} pixels, and the cells of its picture reach to {reach[0]:.0f} x {reach[1]:.0f}",
            remedy="make the mask as large as the picture that was embedded",
        )


def _pixels(start: Array, end: Array, size: int) -> tuple[Array, Array]:
    """Return the pixels (from, to) that have their center in each range; the one in its middle where none has."""
    first, last = (np.ceil(edge - 0.5).astype(np.int64) for edge in (start, end))
    none = first >= last
    first = np.clip(np.where(none, np.floor((start + end) / 2), first).astype(np.int64), 0, size - 1)
    return first, np.clip(np.where(none, first + 1, last), first + 1, size)


def _most(counts: Array) -> Array:
    """Find the class with the largest entry in each row; -1 where all are 0."""
    return np.asarray(np.where(counts.any(axis=1), counts.argmax(axis=1), -1), np.int64)
