"""What a report shows of an item: its text, or a small picture."""

from __future__ import annotations

import base64
import io

from topwork_server.types import Item, Picture, Text

LONGEST = 300
SIDE = 112


def shown(item: Item | None) -> str:
    """The text, cut; a JPEG as a data: URI; "" for what cannot be shown."""
    match item:
        case Text():
            return " | ".join(_cut(text) for text in (item.text, item.pair) if text)
        case Picture():
            return _thumbnail(item.data)
    return ""


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _thumbnail(data: bytes) -> str:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.draft("RGB", (2 * SIDE, 2 * SIDE))
            small = picture.convert("RGBA")
            small.thumbnail((SIDE, SIDE))
            ground = Image.new("RGB", small.size, "white")
            ground.paste(small, mask=small.getchannel("A"))
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    buffer = io.BytesIO()
    ground.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
