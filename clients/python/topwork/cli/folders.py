"""Folders of items: what of them is taken, by what an encoder reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from topwork._codec.items import not_regular
from topwork.cli.output import NAMED, say_first
from topwork.cli.text_encoding import decoded
from topwork.errors import InvalidInput

#: Called with a path and why it is not taken.
LeftOut: TypeAlias = Callable[[Path, str], object]
SUFFIXES: Mapping[str, frozenset[str]] = {
    "text": frozenset({".txt"}),
    "image": frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}),
    "video": frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ogv"}),
    "tensor": frozenset({".npy"}),
}


def files(folder: Path, modality: str, left_out: LeftOut = lambda path, reason: None) -> Iterator[Path]:
    """Its regular files of the right kind, also of folders in it, in the order of their names, as they are found.

    Hidden ones are not taken. Links are followed, and no folder is read twice, so a link that leads back ends there. What else is
    not taken is given to `left_out`, with the reason.
    """
    suffixes = SUFFIXES.get(modality, frozenset())
    folders_read = _FoldersRead(folder, left_out)
    for place, folders, names in os.walk(folder, onerror=folders_read.unreadable, followlinks=True):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if folders_read.is_new(Path(place, name))]
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix.lower() not in suffixes or name.startswith("."):
                continue
            if reason := not_regular(path):
                left_out(path, reason)
            else:
                yield path


class _FoldersRead:
    """The folders of one walk that were read, each once."""

    def __init__(self, root: Path, left_out: LeftOut) -> None:
        self._root, self._left_out = root, left_out
        self._read = {_identity(root)}

    def is_new(self, folder: Path) -> bool:
        """Whether a folder that was found is to be read now: not by a link, where the walk reads it under its own name."""
        found = _identity(folder)
        if found in self._read or (folder.is_symlink() and found in self._own):
            self._left_out(folder, f"it is {folder.resolve()}, which is read already")
            return False
        self._read.add(found)
        return True

    def unreadable(self, error: OSError) -> None:
        self._left_out(Path(error.filename), f"the folder cannot be read: {error.strerror}")

    @cached_property
    def _own(self) -> set[tuple[int, int]]:
        found = set()
        for place, folders, _ in os.walk(self._root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found.add(_identity(Path(place)))
        return found


def _identity(folder: Path) -> tuple[int, int]:
    """The same for one folder under all its names. One that cannot be looked at is itself: reading it will say why."""
    try:
        state = folder.stat()
    except OSError:
        return -1, hash(folder)
    return state.st_dev, state.st_ino


def count(folder: Path, modality: str) -> int:
    """How many `files` finds; tells the person what is left out. Raises InvalidInput where there are none."""
    lost: list[str] = []
    found = sum(1 for _ in files(folder, modality, lambda path, reason: lost.append(f"{path}: {reason}")))
    if not found:
        suffixes = ", ".join(sorted(SUFFIXES.get(modality, ())))
        why = f"; left out: {'; '.join(lost[:NAMED])}" if lost else ""
        raise InvalidInput(f"{folder} holds no files of {suffixes}{why}", remedy="name another folder")
    say_first("left out", lost, len(lost))
    return found


def contents(path: Path, encoding: str | None = None) -> str:
    """The text of a file. Raises InvalidInput."""
    return decoded(path, encoding)
