"""Tables in HTML for notebooks, in which everything of the server's is escaped, and thumbnails."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from html import escape
from typing import Any, NamedTuple

import numpy as np

from topwork._display.png import png

#: Letters of a cell; pixels of a picture's longer side; bytes of a picture that is shown as it is where Pillow is missing.
WIDTH, SIDE, LARGEST = 120, 96, 64 << 10
#: How files that a browser shows begin.
MAGIC = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp"}


class Html(NamedTuple):
    """A cell that is markup already."""

    markup: str


def table(caption: str, titles: Sequence[str], rows: Iterable[Iterable[Any]], note: str = "") -> str:
    """A table under its caption; cells that are no `Html` are shown as text."""
    head = "".join(f'<th style="text-align:left">{escape(title)}</th>' for title in titles)
    lines = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows)
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>" if titles else ""
    below = f"<div>{escape(note)}</div>" if note else ""
    return f"<div><div><b>{escape(caption)}</b></div>{body}{below}</div>"


def facts(caption: str, pairs: Iterable[tuple[str, Any]]) -> str:
    """A line for each name and its value; empty ones are left out."""
    return table(caption, ["", ""], ([name, value] for name, value in pairs if value not in ("", None)))


def shown(value: Any) -> Html | str:
    """A raw input: a text, a small picture, or what it is."""
    if isinstance(value, tuple):
        return " | ".join(map(str, value))
    if isinstance(value, str) or value is None:
        return value or ""
    with suppress(Exception):  # a picture that cannot be shown must not keep the table from being shown
        if found := _picture(value):
            kind, data = found
            return Html(f'<img style="max-width:{SIDE}px" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">')
    return f"{len(value):,} bytes" if isinstance(value, bytes) else f"array {'x'.join(map(str, np.shape(value)))}"


def cut_left(text: str, width: int) -> str:
    """The end of an id in one line: paths differ there."""
    text = text.replace("\n", " ")
    return text if len(text) <= width else f"...{text[3 - width :]}"


def listed(names: Iterable[str], most: int = 8) -> str:
    """A, B and 12 more."""
    found = list(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def _cell(value: Any) -> str:
    if isinstance(value, Html):
        return value.markup
    if isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, datetime):
        text = value.isoformat(" ").removesuffix("+00:00")
    else:
        text = "" if value is None else str(value)
    return escape(text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}...")


def _picture(value: Any) -> tuple[str, bytes] | None:
    """Find a picture's kind and its bytes, small enough; None for what is no picture."""
    if isinstance(value, np.ndarray):
        return _of_array(value)
    kind = next((kind for magic, kind in MAGIC.items() if value.startswith(magic)), None)
    if kind is None:
        return None
    with suppress(ImportError):
        return _shrunk(value)
    return (kind, value) if len(value) <= LARGEST else None


def _shrunk(data: bytes) -> tuple[str, bytes]:
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as opened:
        opened.draft("RGB", (2 * SIDE, 2 * SIDE))
        small = ImageOps.exif_transpose(opened).convert("RGB")
    small.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return "jpeg", out.getvalue()


def _of_array(pixels: Any) -> tuple[str, bytes] | None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        return None
    step = max(1, math.ceil(max(pixels.shape[:2]) / SIDE))
    return "png", png(np.ascontiguousarray(pixels[::step, ::step]))
