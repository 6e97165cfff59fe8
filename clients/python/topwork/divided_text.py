"""A text whose parts get a row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class DividedText:
    """A text with its chunks, for the tap `chunks`: half-open ranges of its characters, in any order; they may overlap and leave
    gaps. The text is encoded whole, and each chunk gets a row. Without this class the encoder's options divide a text."""

    text: str
    chunks: Sequence[tuple[int, int]]
