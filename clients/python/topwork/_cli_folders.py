"""Folders of items: what of them is taken, by what an encoder reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from topwork._cli_encoding import decoded
from topwork.errors import InvalidInput

SUFFIXES: Mapping[str, frozenset[str]] = {
    "text": frozenset({".txt"}),
    "image": frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}),
    "video": frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ogv"}),
    "tensor": frozenset({".npy"}),
}


def files(folder: Path, modality: str) -> Iterator[Path]:
    """Its files of the right kind, also of folders in it, in the order of their names, as they are found. Hidden ones are not."""
    suffixes = SUFFIXES.get(modality, frozenset())
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith("."):
                yield Path(place, name)


def count(folder: Path, modality: str) -> int:
    """How many `files` finds. Raises InvalidInput where there are none."""
    found = sum(1 for _ in files(folder, modality))
    if not found:
        suffixes = ", ".join(sorted(SUFFIXES.get(modality, ())))
        raise InvalidInput(f"{folder} holds no files of {suffixes}", remedy="name another folder")
    return found


def contents(path: Path, encoding: str | None = None) -> str:
    """The text of a file. Raises InvalidInput."""
    return decoded(path, encoding)
