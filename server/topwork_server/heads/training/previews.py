"""Previews of items in a report: their text, a small image, or the beginning of a recording."""

from __future__ import annotations

import base64
import io

import numpy as np

from topwork_server.heads.head_types import Task
from topwork_server.heads.training.dataset import TrainingDataset
from topwork_server.heads.training.sound_previews import sound_preview
from topwork_server.types import Array, AudioItem, ImageItem, Item, TextItem

LONGEST, LONGEST_SPAN = 300, 60
SIDE, LARGE_SIDE = 112, 224


def preview(item: Item | None, side: int = SIDE) -> str:
    """Preview an item: its shortened text, or as a data: URI a JPEG of at most `side` pixels or an MP3 of a few seconds; "" where
    it cannot be shown."""
    match item:
        case TextItem():
            return " | ".join(_shorten(text) for text in (item.text, item.pair) if text)
        case ImageItem():
            return _thumbnail(io.BytesIO(item.data), side)
        case AudioItem():
            return sound_preview(item.data)
        case np.ndarray():
            return _of_array(item, side)
    return ""


class SpanPreviews:
    """Gives the words of a span of tokens, or its characters (as labels are written) where the set kept no text."""

    def __init__(self, data: TrainingDataset) -> None:
        self._data = data
        self._texts: dict[str, str] = {}

    def __call__(self, id: str, start: int, end: int) -> str:
        chars = self._data.covers[id][start:end]
        first, last = int(chars[:, 0].min()), int(chars[:, 1].max())
        words = self._text(id)[first:last]
        return repr(_shorten(words, LONGEST_SPAN)) if words else f"{first}:{last}"

    def _text(self, id: str) -> str:
        """Find the text that the task marks: for question answering the pair, which is the context."""
        if id not in self._texts:
            item = self._data.inputs([id]).get(id)
            answers = self._data.labels.task is Task.QUESTION_ANSWERING
            self._texts[id] = (item.pair if answers else item.text) or "" if isinstance(item, TextItem) else ""
        return self._texts[id]


def _shorten(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _of_array(array: Array, side: int) -> str:
    """Preview an image (height, width, 3) uint8, or the middle frame of a video (frames, height, width, 3)."""
    from PIL import Image

    pixels = array[len(array) // 2] if array.ndim == 4 and len(array) else array
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        return ""
    step = max(1, min(pixels.shape[:2]) // (4 * side))
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[::step, ::step])).save(buffer, "PNG")
    return _thumbnail(buffer, side)


def _thumbnail(data: io.BytesIO, side: int) -> str:
    from PIL import Image, ImageOps

    try:
        with Image.open(data) as picture:
            picture.draft("RGB", (2 * side, 2 * side))
            small = ImageOps.exif_transpose(picture).convert("RGBA")
            small.thumbnail((side, side))
            ground = Image.new("RGB", small.size, "white")
            ground.paste(small, mask=small.getchannel("A"))
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    buffer = io.BytesIO()
    ground.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
