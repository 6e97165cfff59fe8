"""Output vectors (u) beside word vectors (v): what CBOW and skip-gram with negative sampling predict a word with.

    NAME.npy, NAME.txt             v (words, dim), and the words, one a line (or another format of word vectors)
    NAME.output.npy                u (words, dim), in the order of those words, each of which is there once
    NAME.output.txt, .vec, .bin    u in a format of word2vec, found by its words, in any order
    NAME.json                      how they were trained: {"architecture": "cbow", "window": 5, ...}; may be missing

Of word2vec.c they are the matrix `syn1neg`, which its files leave out. Nothing is unpickled: of gensim's own files none is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from topwork_server import Array, InvalidInput

from topwork_plugins import json_files
from topwork_plugins.word2vec import arrays
from topwork_plugins.word2vec import files as word_files
from topwork_plugins.word2vec.table import WordTable

STEM = "vectors"


def write(folder: Path, words: Sequence[str], vectors: Array, output: Array, training: Mapping[str, Any]) -> None:
    """Write v and u, both (words, dim), their words and how they were trained into a folder that `files.read` reads."""
    np.save(folder / f"{STEM}.npy", np.ascontiguousarray(vectors, "<f4"))
    np.save(folder / f"{STEM}{arrays.OUTPUT}.npy", np.ascontiguousarray(output, "<f4"))
    (folder / f"{STEM}.txt").write_text("".join(f"{word}\n" for word in words), "utf-8")
    (folder / f"{STEM}.json").write_text(json.dumps(dict(training), indent=1) + "\n", "utf-8")


def find(path: Path) -> Path | None:
    """The file of output vectors beside a file of word vectors, or in a folder of them; None where there is none."""
    stem = arrays.array_of(path).with_suffix("")
    places = (stem.with_name(f"{stem.name}{arrays.OUTPUT}{suffix}") for suffix in (".npy", *word_files.TEXT_SUFFIXES, ".bin"))
    return next((place for place in places if place.is_file()), None)


def read(file: Path, table: WordTable) -> Array:
    """Read u (words, dim) float32, in the order of the table's words. InvalidInput where it does not belong to them."""
    rows = _array(file, len(table)) if file.suffix == ".npy" else _named(file, table)
    if rows.shape[1] != table.dim:
        raise InvalidInput(
            f"{file.name} has {rows.shape[1]} numbers a word, and the word vectors {table.dim}", remedy="take both from one model"
        )
    if not np.isfinite(rows).all():
        raise InvalidInput(f"{file.name} holds numbers that are not finite", remedy=arrays.REMEDY)
    return rows


def training(path: Path) -> dict[str, Any]:
    """Read how the vectors of a file or a folder were trained; {} where nothing says so."""
    file = arrays.array_of(path).with_suffix(".json")
    try:
        found = json_files.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _array(file: Path, count: int) -> Array:
    rows = arrays.loaded(file)
    if len(rows) != count:
        raise InvalidInput(f"{file.name} has {len(rows)} rows for {count} words", remedy="give a row for each word, in order")
    return np.asarray(rows, np.float32)


def _named(file: Path, table: WordTable) -> Array:
    opened = word_files.read(file)
    rows, found = np.zeros((len(table), opened.dim), np.float32), np.zeros(len(table), bool)
    for block in opened.blocks:
        places = np.array([table.find(word.decode("utf-8", "surrogateescape")) for word in block.words], np.int64)
        rows[places[places >= 0]] = block.rows[places >= 0]
        found[places[places >= 0]] = True
    if not found.all():
        lost = table.word(int(np.argmin(found)))
        raise InvalidInput(
            f"{file.name} lacks {np.count_nonzero(~found)} of the words, among them {lost[:40]!r}",
            remedy="take both files from one model",
        )
    return rows
