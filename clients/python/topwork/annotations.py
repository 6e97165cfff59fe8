"""Labels of spans, boxes and pixels, as they are written into the metadata of a set."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from topwork._display.png import png
from topwork.errors import InvalidInput

#: A pixel that is neither learned from nor evaluated.
IGNORED = 255
#: Of the corner of a box, in pixels.
LARGEST_EDGE = 1e9


def span(start: int, end: int, label: str = "") -> str:
    """A span of a text for a tagger, "start:end:LABEL"; without a label an answer in its context, "start:end".

    Half-open, in Unicode code points, as Python counts them: text[start:end] is the span. A column's value is a
    list of such: [] says that there is nothing to tag, None that the item is unlabeled.
    """
    if not 0 <= start < end:
        raise InvalidInput(f"a span from {start} to {end}", remedy="it starts at 0 or later, and ends after its start")
    return f"{start}:{end}:{label}" if label else f"{start}:{end}"


def box(x0: float, y0: float, x1: float, y1: float, label: str) -> str:
    """A box of a picture for detection, "x0,y0,x1,y1:LABEL", in pixels of the original. For segmentation the rest is
    "background". A column's value is a list of such: [] says that there is no object, None that the item is unlabeled."""
    what = f"a box {x0},{y0},{x1},{y1} of {label!r}"
    if not label.strip():
        raise InvalidInput(f"{what} has no label", remedy="name what it holds")
    if not all(abs(edge) <= LARGEST_EDGE for edge in (x0, y0, x1, y1)):  # NaN is not
        raise InvalidInput(f"{what} has an edge that is no place in a picture", remedy="give pixels of the original picture")
    x0, y0, x1, y1 = (round(edge, 3) for edge in (x0, y0, x1, y1))
    if not (x0 < x1 and y0 < y1):
        raise InvalidInput(f"{what} is empty", remedy="corners go from upper left to lower right")
    return f"{','.join(f'{edge:.3f}'.rstrip('0').rstrip('.') for edge in (x0, y0, x1, y1))}:{label}"


def mask(classes: ArrayLike) -> str:
    """A mask for segmentation: a PNG of 8-bit gray in base64, a class index a pixel.

    classes  (height, width) of the picture, whole numbers from 0 to 254; 255 is neither learned from nor evaluated
    """
    pixels = np.asarray(classes)
    if pixels.ndim != 2 or not pixels.size or pixels.dtype.kind not in "iub":
        raise InvalidInput(f"a mask of shape {list(pixels.shape)} {pixels.dtype}", remedy="pass (height, width) whole numbers")
    if pixels.min() < 0 or pixels.max() > IGNORED:
        raise InvalidInput(
            f"a mask with values from {pixels.min()} to {pixels.max()}", remedy="classes are 0 to 254, 255 is ignored"
        )
    return base64.b64encode(png(pixels.astype(np.uint8))).decode()


def coco_boxes(path: str | Path) -> dict[str, list[str]]:
    """Read the boxes of an annotation file in COCO's JSON, by the file names of its pictures; [] for one without objects.

    Crowds (`iscrowd`) are left out: their boxes are of many objects.
    """
    try:
        found: Any = json.loads(Path(path).read_text("utf-8"))
        names = {one["id"]: one["file_name"] for one in found["images"]}
        labels = {one["id"]: one["name"] for one in found["categories"]}
        boxes: dict[str, list[str]] = {name: [] for name in names.values()}
        for one in found["annotations"]:
            x, y, width, height = one["bbox"]
            if not one.get("iscrowd"):
                boxes[names[one["image_id"]]].append(box(x, y, x + width, y + height, labels[one["category_id"]]))
    except InvalidInput:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"{path} is no annotation file of COCO: {error!r}", remedy="it has images, annotations, categories"
        ) from error
    return boxes
