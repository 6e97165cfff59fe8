"""Output vectors beside word vectors: written here and by gensim, read back in the order of the table's words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from topwork_plugins.word2vec import files as word_files
from topwork_plugins.word2vec import output_vectors
from topwork_plugins.word2vec import table as word_table
from topwork_plugins.word2vec.table import WordTable
from topwork_server import InvalidInput
from topwork_server.types import Array

WORDS = ["owl", "red", "café"]
V, U = np.random.default_rng(3).normal(size=(2, len(WORDS), 4)).astype(np.float32)


def table_of(path: Path, folder: Path) -> WordTable:
    folder.mkdir()
    file = word_files.read(path)
    word_table.write(file.blocks, file.dim, folder)
    return WordTable(folder)


def word2vec_text(words: list[str], rows: Array) -> str:
    lines = (f"{word} {' '.join(map(repr, row.tolist()))}\n" for word, row in zip(words, rows, strict=True))
    return f"{len(words)} {rows.shape[1]}\n" + "".join(lines)


def test_a_folder_that_was_written_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    output_vectors.write(folder, WORDS, V, U, {"architecture": "cbow"})
    table = table_of(folder, tmp_path / "table")
    found = output_vectors.find(folder)
    assert found is not None
    np.testing.assert_array_equal(output_vectors.read(found, table), U)
    np.testing.assert_array_equal(table.vectors, V)
    assert output_vectors.training(folder) == {"architecture": "cbow"}
    assert output_vectors.find(folder / "vectors.npy") == found


def test_files_of_names_are_read_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(word2vec_text(WORDS, V), "utf-8")
    assert output_vectors.find(path) is None
    (tmp_path / "mine.output.txt").write_text(word2vec_text([*WORDS[::-1], "more"], np.concatenate([U[::-1], U[:1]])), "utf-8")
    found = output_vectors.find(path)
    assert found is not None
    np.testing.assert_array_equal(output_vectors.read(found, table_of(path, tmp_path / "table")), U)
    assert output_vectors.training(path) == {}


@pytest.mark.parametrize(
    ("words", "rows", "message"),
    [
        (WORDS[:2], U[:2], "caf"),
        (WORDS, U[:, :3], "3 numbers"),
        (WORDS, np.where(U[1, 1] == U, np.inf, U).astype(np.float32), "finite"),
    ],
)
def test_output_vectors_of_another_model_are_refused(words: list[str], rows: Array, message: str, tmp_path: Path) -> None:
    path, other = tmp_path / "mine.txt", tmp_path / "mine.output.txt"
    path.write_text(word2vec_text(WORDS, V), "utf-8")
    other.write_text(word2vec_text(words, rows), "utf-8")
    with pytest.raises(InvalidInput, match=message):
        output_vectors.read(other, table_of(path, tmp_path / "table"))


def test_an_array_needs_a_row_for_each_word(tmp_path: Path) -> None:
    path, other = tmp_path / "mine.txt", tmp_path / "mine.output.npy"
    path.write_text(word2vec_text(WORDS, V), "utf-8")
    np.save(other, U[:2])
    with pytest.raises(InvalidInput, match="2 rows for 3 words"):
        output_vectors.read(other, table_of(path, tmp_path / "table"))
