"""Items of the command line: words, files of them, folders, stdin."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork.errors import InvalidInput

#: What of a folder is taken, by what the encoder reads.
SUFFIXES: Mapping[str, frozenset[str]] = {
    "text": frozenset({".txt"}),
    "image": frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}),
    "video": frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ogv"}),
    "tensor": frozenset({".npy"}),
}


@dataclass(frozen=True)
class Inputs:
    """What is embedded, and how each is named in what is written."""

    names: Sequence[str]
    items: Iterable[Any]
    are_paths: bool = False


def gather(words: Sequence[str], source: Path | None, column: str | None, modality: str) -> Inputs:
    """All inputs of one command. Raises InvalidInput where a file does not hold what was asked for."""
    if source is None:
        names = [name for word in words for name in _expanded(word, modality)]
    elif source.is_dir():
        names = _folder(source, modality)
        if modality == "text":
            return Inputs(names, _Contents(names), are_paths=True)
    else:
        names = list(_read(source, column))
    if not names:
        raise InvalidInput("there are no items", remedy="name some, or a file that holds some")
    return Inputs(names, names, are_paths=modality != "text")


class _Contents(Sequence[str]):
    """The texts of files, read one by one."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        return _decoded(Path(self._names[index]).read_bytes(), self._names[index])


def _expanded(word: str, modality: str) -> Iterable[str]:
    if word == "-":
        return [line.rstrip("\n") for line in sys.stdin]
    if modality != "text" and Path(word).is_dir():
        return _folder(Path(word), modality)
    return [word]


def _folder(folder: Path, modality: str) -> list[str]:
    """Its files of the right kind, also of folders in it, in the order of their names."""
    suffixes = SUFFIXES.get(modality, frozenset())
    found = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    if not found:
        raise InvalidInput(f"{folder} holds no files of {', '.join(sorted(suffixes))}", remedy="name another folder")
    return found


def _read(path: Path, column: str | None) -> Iterator[str]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidInput(f"{path} is not a list of items", remedy=f"give one of {', '.join(READERS)}, or a folder")
    try:
        text = _decoded(path.read_bytes(), path)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None
    yield from reader(text.lstrip("\ufeff"), path, column)


def _decoded(data: bytes, path: object) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8: {error.reason} at byte {error.start}", remedy="convert it first") from None


def _lines(text: str, path: Path, column: str | None) -> Iterator[str]:
    if column:
        raise InvalidInput(f"{path} has no columns", remedy="leave --column out")
    lines = text.split("\n")  # not splitlines: a text may hold other separators of lines
    yield from (line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1]))


def _csv(text: str, path: Path, column: str | None) -> Iterator[str]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    names = list(rows.fieldnames or [])
    chosen = column or (names[0] if len(names) == 1 else "text")
    if chosen not in names:
        raise InvalidInput(f"{path} has no column {chosen!r}", remedy=f"--column is one of {', '.join(names) or 'none'}")
    for row in rows:
        yield row[chosen] or ""


def _jsonl(text: str, path: Path, column: str | None) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InvalidInput(f"{path} line {number} is not JSON: {error}") from None
        value = record.get(column or "text") if isinstance(record, dict) else record
        if not isinstance(value, str):
            raise InvalidInput(
                f"{path} line {number} has no text under {column or 'text'!r}", remedy="name its key with --column"
            )
        yield value


READERS: Mapping[str, Callable[[str, Path, str | None], Iterator[str]]] = {
    ".txt": _lines,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
}
