"""Readers of word vector files: word2vec `.bin` and `.txt`, GloVe `.txt`, fastText `.vec`, and `.npy` with a vocabulary.

They stream: a block of words and rows at a time, for a file of any size. What is malformed is refused with its line, byte or
row. Formats: word2vec.c of Mikolov et al. 2013 (`-binary 1` and `0`); Pennington et al. 2014 (a word and its numbers a line,
no header); fastText writes word2vec's text.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from topwork_server import Array, InvalidInput

from topwork_plugins.word2vec.arrays import (
    BLOCK_BYTES,
    LONGEST_LINE,
    REMEDY,
    Entry,
    lines,
    malformed,
    open_table,
    shown,
    vocabulary_of,
)

LONGEST_WORD = 4096
TEXT_SUFFIXES = (".txt", ".vec")
_HEADER = re.compile(rb"(\d{1,12}) (\d{1,6})\s*")


@dataclass(frozen=True)
class Block:
    """Words as they stand in the file (UTF-8, mostly) and their rows (n, dim) float32, all of them finite."""

    words: list[bytes]
    rows: Array


@dataclass(frozen=True)
class WordFile:
    """An opened file of word vectors: how many numbers a word has, and its blocks, to be read once."""

    dim: int
    blocks: Iterator[Block]


def read(path: Path) -> WordFile:
    """Open a file, or a folder that holds one .npy and its vocabulary. InvalidInput where it is none of the formats."""
    if path.is_dir() or path.suffix == ".npy":
        dim, entries, unit = open_table(path)
    elif path.suffix == ".bin":
        dim, entries, unit = _open_binary(path)
    elif path.suffix in TEXT_SUFFIXES:
        dim, entries, unit = _open_text(path)
    else:
        raise InvalidInput(f"{path.name}: no format of word vectors has the suffix {path.suffix!r}", remedy=REMEDY)
    return WordFile(dim, _blocks(path, dim, entries, unit))


def recognize(path: Path) -> bool:
    """Tell whether the file holds word vectors, by its beginning."""
    if path.suffix == ".npy":
        return path.is_file() and vocabulary_of(path) is not None
    if path.suffix not in (*TEXT_SUFFIXES, ".bin") or not path.is_file():
        return False
    with path.open("rb") as file:
        line = file.readline(LONGEST_LINE)
    return bool(_HEADER.fullmatch(line)) or (path.suffix in TEXT_SUFFIXES and _numbers_after_word(line) >= 2)


def _numbers_after_word(line: bytes) -> int:
    fields = line.split()[1:]
    return len(fields) if _numbers(fields) is not None else 0


def _blocks(path: Path, dim: int, entries: Iterable[Entry], unit: str) -> Iterator[Block]:
    size = max(1, BLOCK_BYTES // (4 * dim))
    entries = iter(entries)
    while chunk := list(islice(entries, size)):
        rows = np.stack([entry.row for entry in chunk]).astype(np.float32, copy=False)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            entry = chunk[int(bad[0])]
            raise malformed(path, unit, entry.place, f"the vector of {shown(entry.word)} is not finite")
        yield Block([entry.word for entry in chunk], rows)


def _open_binary(path: Path) -> tuple[int, Iterator[Entry], str]:
    with path.open("rb") as file:
        header = _HEADER.fullmatch(file.readline(64))
    if not header:
        raise InvalidInput(
            f"{path.name} does not begin with a count and a dimension, as word2vec's .bin does",
            remedy="of fastText take the .vec file: its own .bin is another format",
        )
    count, dim = _counted(path, header)
    return dim, _binary(path, header.end(), count, dim), "byte"


def _binary(path: Path, start: int, count: int, dim: int) -> Iterator[Entry]:
    """A word, a space, dim little-endian float32; word2vec.c then writes a newline, other writers do not."""
    place, width = start, 4 * dim
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for number in range(1, count + 1):
            place += data[place : place + 1] == b"\n"
            space = data.find(b" ", place, place + LONGEST_WORD)
            end = space + 1 + width
            if len(data) < end or (space < 0 and len(data) < place + LONGEST_WORD):
                raise malformed(path, "byte", len(data), f"the file ends within word {number} of {count}")
            if space <= place:
                raise malformed(path, "byte", place, f"no word begins here, where word {number} should")
            yield Entry(place, data[place:space], np.frombuffer(data[space + 1 : end], "<f4"))
            place = end
        if data[place:].strip():
            raise malformed(path, "byte", place, f"more follows, though the header says {count} words of {dim} numbers")


def _open_text(path: Path) -> tuple[int, Iterator[Entry], str]:
    with path.open("rb") as file:
        first = file.readline(LONGEST_LINE)
    header = _HEADER.fullmatch(first)
    if header:
        count, dim = _counted(path, header)
        return dim, _promised(path, _text(path, dim, skip=1), count), "line"
    dim = _numbers_after_word(first)
    if not dim:
        raise malformed(path, "line", 1, "neither a header nor a word and its numbers")
    return dim, _text(path, dim, skip=0), "line"


def _text(path: Path, dim: int, skip: int) -> Iterator[Entry]:
    with path.open("rb") as file:
        for number, line in enumerate(lines(path, file), start=1):
            if number > skip:
                yield _parse(path, number, line, dim)


def _parse(path: Path, number: int, line: bytes, dim: int) -> Entry:
    """Split from the right: a few words of GloVe 840B have spaces in them ("at name@domain.com")."""
    word, *fields = line.rsplit(None, dim) or [b""]
    if len(fields) != dim or _numbers(word.split()[1:][-1:]) is not None:
        raise malformed(path, "line", number, f"{len(line.split()[1:])} numbers where {dim} belong")
    row = _numbers(fields)
    if row is None:
        raise malformed(path, "line", number, f"after {shown(word)} stands what is not a number")
    return Entry(number, word, row)


def _numbers(fields: list[bytes]) -> Array | None:
    """Parse (n,) float32, or None where one is no number or there is none."""
    try:
        with np.errstate(over="ignore"):  # 1e99 becomes infinite, which is refused with its word
            return np.array(fields, np.float32) if fields else None
    except ValueError:
        return None


def _promised(path: Path, entries: Iterator[Entry], count: int) -> Iterator[Entry]:
    done = 0
    for entry in entries:
        done += 1
        if done > count:
            raise malformed(path, "line", entry.place, f"one word more than the {count} that the header says")
        yield entry
    if done < count:
        raise malformed(path, "line", done + 1, f"the file ends after {done} words; its header says {count}")


def _counted(path: Path, header: re.Match[bytes]) -> tuple[int, int]:
    count, dim = int(header[1]), int(header[2])
    if not count or not dim:
        raise malformed(path, "line", 1, f"the header says {count} words of {dim} numbers")
    return count, dim
