"""Word vectors as an array with a vocabulary beside it, and what all readers of word vectors share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

import numpy as np
from topwork_server import Array, InvalidInput

BLOCK_BYTES = 8 << 20
LONGEST_LINE = 1 << 20
#: The end of the stem of a file of output vectors, which stands beside that of the word vectors.
OUTPUT = ".output"
VOCABULARIES = (".txt", ".vocab", ".parquet")
REMEDY = "fetch the file again, or name the format that it is in by its suffix: .bin, .txt, .vec or .npy"


@dataclass(frozen=True)
class Entry:
    """One word, where it stands (a line, byte or row) and its numbers (dim,)."""

    place: int
    word: bytes
    row: Array


def open_table(path: Path) -> tuple[int, Iterator[Entry], str]:
    """The dimension, the words with their rows, and what their places count (rows from 0)."""
    array = array_of(path)
    vocabulary = vocabulary_of(array)
    if vocabulary is None:
        wanted = ", ".join(array.stem + suffix for suffix in VOCABULARIES)
        raise InvalidInput(f"{array.name} has no vocabulary beside it", remedy=f"put one word a line, or a parquet, at {wanted}")
    rows = loaded(array)
    return rows.shape[1], _table(vocabulary, rows), "row"


def loaded(file: Path) -> Array:
    """Map a file of floats (words, dim). InvalidInput where it is none."""
    try:
        rows: Array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InvalidInput(f"{file.name} cannot be read as .npy: {error}", remedy=REMEDY) from error
    if rows.ndim != 2 or rows.dtype.kind != "f" or not rows.size:
        raise InvalidInput(f"{file.name} is {rows.dtype} {rows.shape}", remedy="give floats of shape (words, dim)")
    return rows


def array_of(path: Path) -> Path:
    """The .npy of word vectors that a folder holds, beside which output vectors may stand; a file is itself."""
    if not path.is_dir():
        return path
    found = sorted(file for file in path.glob("*.npy") if not file.stem.endswith(OUTPUT))
    if len(found) != 1:
        raise InvalidInput(
            f"{path.name} holds {len(found)} .npy files, so it is not clear which are the vectors",
            remedy="name one file: file:/PATH/vectors.npy",
        )
    return found[0]


def vocabulary_of(array: Path) -> Path | None:
    """The file of the same stem, else the only one that could be it."""
    named = [path for suffix in VOCABULARIES if (path := array.with_suffix(suffix)).is_file()]
    others = [path for path in array.parent.iterdir() if path.suffix in VOCABULARIES]
    return named[0] if named else others[0] if len(others) == 1 else None


def _table(vocabulary: Path, rows: Array) -> Iterator[Entry]:
    """A block of rows is copied at once: column-major files, such as GloVe's package, are slow one row at a time."""
    words = _parquet_words(vocabulary) if vocabulary.suffix == ".parquet" else _listed_words(vocabulary)
    size = max(1, BLOCK_BYTES // (4 * rows.shape[1]))
    for place, (word, row) in enumerate(zip_longest(words, _rows(rows, size))):
        if word is None or row is None:
            count = f"{place} words" if word is None else f"more than {place} words"
            raise InvalidInput(f"{vocabulary.name} has {count} for {len(rows)} vectors", remedy="give one word for each row")
        if not word or b"\n" in word:
            raise malformed(vocabulary, "row", place, "no word stands here")
        yield Entry(place, word, row)


def _rows(rows: Array, size: int) -> Iterator[Array]:
    for start in range(0, len(rows), size):
        yield from np.ascontiguousarray(rows[start : start + size])


def _listed_words(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from (line.rstrip(b"\r\n") for line in lines(path, file))


def _parquet_words(path: Path) -> Iterator[bytes]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InvalidInput(f"{path.name} cannot be read as parquet: {error}", remedy=REMEDY) from error
    columns = [field.name for field in file.schema_arrow if field.type in (pa.string(), pa.large_string())]
    if len(columns) != 1:
        raise InvalidInput(f"{path.name} has {len(columns)} columns of text", remedy="leave the words alone in it")
    for batch in file.iter_batches(columns=columns):
        yield from ((word or "").encode() for word in batch.column(0).to_pylist())


def lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Lines with their ends; InvalidInput where one is too long to be text."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise malformed(path, "line", number, f"longer than {LONGEST_LINE} bytes")
        yield line


def shown(word: bytes) -> str:
    return repr(word[:40].decode("utf-8", "replace"))


def malformed(path: Path, unit: str, place: int, what: str) -> InvalidInput:
    return InvalidInput(f"{path.name}, {unit} {place}: {what}", remedy=REMEDY)
