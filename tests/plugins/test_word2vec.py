"""Word vectors: each format written here and read back, look-ups, unknown words, spans, malformed files, and the real GloVe."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from batch_preprocessing import check_batch
from pyarrow import parquet
from topwork_plugins.word2vec import files as word_files
from topwork_plugins.word2vec import plugin as word2vec
from topwork_plugins.word2vec import table as word_table
from topwork_plugins.word2vec.files import Block
from topwork_plugins.word2vec.plugin import WordOptions, WordVectors
from topwork_plugins.word2vec.table import WordTable
from topwork_plugins.word2vec.tokens import UNKNOWN, Tokenizer
from topwork_server import EncoderSpec, ImageItem, InvalidInput, Modality, Sample, SourceUri, TextItem
from topwork_server.models.artifacts import Manifest
from topwork_server.runtime.export import export_encoder, fingerprints
from topwork_server.runtime.session import Session
from topwork_server.types import Array

WORDS = ["the", "owl", "owls", "red", "Bird", "New_York", "n't", "do", "'s", "well-made", "café", "u.s.", "..."]
DIM = 6
ROWS = np.random.default_rng(7).normal(size=(len(WORDS), DIM)).astype(np.float32)

Write = Callable[[Path, Sequence[str], Array], Path]


def binary(folder: Path, words: Sequence[str], rows: Array, end: bytes = b"\n") -> Path:
    path = folder / "words.bin"
    body = b"".join(word.encode() + b" " + row.astype("<f4").tobytes() + end for word, row in zip(words, rows, strict=True))
    path.write_bytes(f"{len(words)} {rows.shape[1]}\n".encode() + body)
    return path


def binary_without_newlines(folder: Path, words: Sequence[str], rows: Array) -> Path:
    return binary(folder, words, rows, b"")


def text_lines(words: Sequence[str], rows: Array, end: str = "\n") -> str:
    return "".join(f"{word} {' '.join(map(repr, row.tolist()))}{end}" for word, row in zip(words, rows, strict=True))


def word2vec_text(folder: Path, words: Sequence[str], rows: Array) -> Path:
    path = folder / "words.txt"
    path.write_text(f"{len(words)} {rows.shape[1]}\n" + text_lines(words, rows), "utf-8")
    return path


def fasttext(folder: Path, words: Sequence[str], rows: Array) -> Path:
    """fastText ends its lines with a space."""
    path = folder / "words.vec"
    path.write_text(f"{len(words)} {rows.shape[1]}\n" + text_lines(words, rows, " \n"), "utf-8")
    return path


def glove(folder: Path, words: Sequence[str], rows: Array) -> Path:
    path = folder / "glove.txt"
    path.write_text(text_lines(words, rows), "utf-8")
    return path


def array_and_list(folder: Path, words: Sequence[str], rows: Array) -> Path:
    np.save(folder / "table.npy", rows)
    (folder / "table.vocab").write_text("".join(f"{word}\n" for word in words), "utf-8")
    return folder / "table.npy"


def folder_with_parquet(folder: Path, words: Sequence[str], rows: Array) -> Path:
    """As GloVe's package has it: column-major, and names that do not match."""
    np.save(folder / "emb.npy", np.asfortranarray(rows.astype(np.float64)))
    parquet.write_table(pa.table({"index": list(words), "count": list(range(len(words)))}), folder / "index.parquet")
    return folder


FORMATS: list[Write] = [
    binary,
    binary_without_newlines,
    word2vec_text,
    fasttext,
    glove,
    array_and_list,
    folder_with_parquet,
]


def table_of(path: Path, folder: Path) -> tuple[WordTable, word_table.Written]:
    folder.mkdir()
    file = word_files.read(path)
    written = word_table.write(file.blocks, file.dim, folder)
    return WordTable(folder), written


def spec_of(**settings: Any) -> EncoderSpec:
    return EncoderSpec("words", WordVectors, "file:/words.bin", Modality.TEXT, default_tap="mean", settings=settings)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    source = binary(tmp_path_factory.mktemp("source"), WORDS, ROWS)
    folder = tmp_path_factory.mktemp("artifact")
    return folder, export_encoder(spec_of(), source, folder)


@pytest.fixture
def encoder(exported: tuple[Path, Manifest]) -> WordVectors:
    return WordVectors(spec_of(), exported[0])


def sample_of(encoder: WordVectors, text: str, options: WordOptions = WordOptions()) -> Sample:  # noqa: B008
    (sample,) = encoder.preprocess(TextItem(text), options)
    return sample


@pytest.mark.parametrize("write", FORMATS)
def test_each_format_is_read_back(write: Write, tmp_path: Path) -> None:
    table, written = table_of(write(tmp_path, WORDS, ROWS), tmp_path / "out")
    assert [table.word(i) for i in range(len(table))] == WORDS
    assert [table.find(word) for word in WORDS] == list(range(len(WORDS)))
    assert table.find("owlet") == UNKNOWN
    np.testing.assert_array_equal(table.vectors, ROWS)
    assert (written.count, written.duplicates) == (len(WORDS), 0)


def test_the_digests_tell_the_table_and_not_its_format(tmp_path: Path) -> None:
    def digests(write: Write, words: Sequence[str], rows: Array) -> tuple[str, str]:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        written = table_of(write(folder, words, rows), folder / "out")[1]
        return written.vectors, written.words

    first = digests(binary, WORDS, ROWS)
    assert all(digests(write, WORDS, ROWS) == first for write in FORMATS[1:])
    assert digests(binary, WORDS[::-1], ROWS)[0] == first[0]
    assert digests(binary, WORDS[::-1], ROWS)[1] != first[1]
    assert digests(binary, WORDS, ROWS * 2)[0] != first[0]
    assert digests(binary, WORDS, ROWS * 2)[1] == first[1]
    glued = [*WORDS[:-2], WORDS[-2] + WORDS[-1][0], WORDS[-1][1:]]  # the same letters, cut elsewhere
    assert digests(binary, glued, ROWS)[1] != first[1]


def test_the_first_of_equal_words_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_table, "ROWS", 4)  # so that rows move over several blocks
    words = ["a", "b", "a", "c", "b", "d", "e", "a", "f", "g"]
    rows = np.arange(20, dtype=np.float32).reshape(10, 2) + 1
    table, written = table_of(binary(tmp_path, words, rows), tmp_path / "out")
    assert written.duplicates == 3
    assert [table.word(i) for i in range(len(table))] == ["a", "b", "c", "d", "e", "f", "g"]
    np.testing.assert_array_equal(table.vectors, rows[[0, 1, 3, 5, 6, 8, 9]])
    assert [table.find(word) for word in "abcdefg"] == list(range(7))
    without = table_of(glove(tmp_path, "abcdefg", rows[[0, 1, 3, 5, 6, 8, 9]]), tmp_path / "again")[1]
    assert (without.vectors, without.words) == (written.vectors, written.words)


def test_many_words_of_which_some_share_a_hash(tmp_path: Path) -> None:
    # CRC-32("plumless") == CRC-32("buckeroo"): a known collision.
    words = [f"word{i}" for i in range(5000)] + ["plumless", "buckeroo"]
    rows = np.arange(len(words), dtype=np.float32)[:, None]
    table, written = table_of(array_and_list(tmp_path, words, rows), tmp_path / "out")
    assert written.duplicates == 0
    assert [table.find(word) for word in words] == list(range(len(words)))


def test_reading_is_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_files, "BLOCK_BYTES", 4 * DIM * 5)
    blocks = list(word_files.read(glove(tmp_path, WORDS, ROWS)).blocks)
    assert [len(block.words) for block in blocks] == [5, 5, 3]


def test_a_word_may_have_spaces_or_be_no_utf8(tmp_path: Path) -> None:
    """Both are in published files: GloVe 840B, and word2vec files whose words were cut at 50 bytes."""
    path = tmp_path / "glove.txt"
    path.write_bytes(b"owl 1 2\nat name@domain.com 3 4\ncaf\xc3 5 6\n\xc2\xa0 7 8\n")
    table, _ = table_of(path, tmp_path / "out")
    assert [table.word(i) for i in range(4)] == ["owl", "at name@domain.com", "caf\ufffd", "\xa0"]


GOOD = "owl 1 2 3\nbird 4 5 6\n"
MALFORMED: list[tuple[str, bytes, str]] = [
    ("w.txt", b"", "line 1: neither a header"),
    ("w.txt", b"Just some prose, on a line.\n", "line 1: neither a header"),
    ("w.txt", GOOD.encode() + b"red 7 8\n", "line 3: 2 numbers where 3 belong"),
    ("w.txt", GOOD.encode() + b"red 7 8 9 10\n", "line 3: 4 numbers where 3 belong"),
    ("w.txt", GOOD.encode() + b"\nred 7 8 9\n", "line 3: 0 numbers where 3 belong"),
    ("w.txt", GOOD.encode() + b"red 7 x 9\n", "line 3: after 'red' stands what is not a number"),
    ("w.txt", GOOD.encode() + b"red 7 nan 9\n", "line 3: the vector of 'red' is not finite"),
    ("w.txt", GOOD.encode() + b"red 7 1e99 9\n", "line 3: the vector of 'red' is not finite"),
    ("w.vec", b"3 3\n" + GOOD.encode(), "line 3: the file ends after 2 words; its header says 3"),
    ("w.vec", b"1 3\n" + GOOD.encode(), "line 3: one word more than the 1"),
    ("w.vec", b"0 3\n", "line 1: the header says 0 words"),
    ("w.txt", b"owl 1 " + b"2 " * (1 << 20), "line 1: longer than 1048576 bytes"),
    ("w.bin", b"", "does not begin with a count"),
    ("w.bin", b"\xba\x16\x4f\x2f\x0c\x00\x00\x00", "does not begin with a count"),  # fastText's own .bin
    ("w.bin", b"2 2\nowl " + struct.pack("<2f", 1, 2) + b"\nbi", "byte 19: the file ends within word 2 of 2"),
    ("w.bin", b"2 2\nowl " + struct.pack("<2f", 1, 2) + b"\nbird \0\0\0", "byte 25: the file ends within word 2 of 2"),
    ("w.bin", b"1 2\nowl " + struct.pack("<3f", 1, 2, 3), "byte 16: more follows, though the header says 1 words of 2"),
    ("w.bin", b"1 2\n " + struct.pack("<3f", 1, 2, 3), "byte 4: no word begins here"),
    ("w.bin", b"9 2\n" + b"x" * 5000, "byte 4: no word begins here"),
    ("w.bin", b"1 2\nowl " + struct.pack("<2f", 1, float("inf")), "byte 4: the vector of 'owl' is not finite"),
    ("w.doc", GOOD.encode(), "no format of word vectors has the suffix '.doc'"),
]


@pytest.mark.parametrize(("name", "content", "message"), MALFORMED)
def test_a_malformed_file_is_refused_with_its_place(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=message) as caught:
        table_of(tmp_path / name, tmp_path / "out")
    assert name in caught.value.message
    assert caught.value.remedy


def test_an_array_without_its_vocabulary_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", ROWS)
    with pytest.raises(InvalidInput, match=r"table\.npy has no vocabulary beside it"):
        word_files.read(tmp_path / "table.npy")
    with pytest.raises(InvalidInput, match=r"holds 0 \.npy files"):
        word_files.read(tmp_path.parent)


@pytest.mark.parametrize(
    ("words", "rows", "message"),
    [
        (WORDS[:-1], ROWS, "table.vocab has 12 words for 13 vectors"),
        ([*WORDS, "more"], ROWS, "table.vocab has more than 13 words for 13 vectors"),
        (["", *WORDS[1:]], ROWS, "table.vocab, row 0: no word stands here"),
        (WORDS, ROWS[0], r"table.npy is float32 \(6,\)"),
        (WORDS, ROWS.astype(np.int32), r"table.npy is int32"),
        (WORDS, ROWS.astype(object), r"table.npy cannot be read"),  # would be unpickled
        (WORDS, np.where(ROWS[2, 1] == ROWS, np.nan, ROWS), "row 2: the vector of 'owls' is not finite"),
    ],
)
def test_an_array_and_its_vocabulary_must_agree(words: list[str], rows: Array, message: str, tmp_path: Path) -> None:
    path = array_and_list(tmp_path, words, rows)
    with pytest.raises(InvalidInput, match=message):
        table_of(path, tmp_path / "out")


def test_a_cut_array_is_refused(tmp_path: Path) -> None:
    path = array_and_list(tmp_path, WORDS, ROWS)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InvalidInput, match=r"table\.npy cannot be read as \.npy"):
        word_files.read(path)


def test_a_parquet_of_two_texts_is_refused(tmp_path: Path) -> None:
    folder_with_parquet(tmp_path, WORDS, ROWS)
    parquet.write_table(pa.table({"a": WORDS, "b": WORDS}), tmp_path / "index.parquet")
    with pytest.raises(InvalidInput, match=r"index\.parquet has 2 columns of text"):
        table_of(tmp_path, tmp_path / "out")


TOKENS: list[tuple[str, list[str | None]]] = [
    ("the owl", ["the", "owl"]),
    ("The OWL, the red owls!", ["the", "owl", "the", "red", "owls"]),
    ("a bird", [None, None]),  # the vocabulary has Bird alone, and lower case is all that is tried beside
    ("Bird", ["Bird"]),
    ("New_York", ["New_York"]),
    ("to New_York", [None, "New_York"]),
    ("don't", ["do", "n't"]),
    ("the owl's", ["the", "owl", "'s"]),
    ("the owl\u2019s", ["the", "owl", "'s"]),
    ("well-made", ["well-made"]),
    ("red-owl", ["red", "owl"]),
    ("red/owl.the", ["red", "owl", "the"]),
    ("cafe\u0301", ["café"]),
    ("the U.S. owl", ["the", "u.s.", "owl"]),
    ("...", ["..."]),
    ("the ... owl", ["the", "owl"]),
    ("?!", []),
    ("owl " * 3 + "zebra", ["owl"] * 3 + [None]),
]


@pytest.mark.parametrize(("text", "expected"), TOKENS)
def test_texts_are_split_by_what_the_vocabulary_knows(text: str, expected: list[str | None]) -> None:
    tokens = Tokenizer(lambda word: WORDS.index(word) if word in WORDS else UNKNOWN).tokens(text)
    assert [None if token.row == UNKNOWN else WORDS[token.row] for token in tokens] == expected
    assert all(0 <= token.start < token.end <= len(text) for token in tokens)
    assert all(a.end <= b.start for a, b in pairwise(tokens))


ODD = ["c", "c++", "c#", "java", "the", "#1", ".net", "yahoo!", "at&t", "$5", ":-)", "\U0001f600", "\u2764", "i", "york", "new"]
ODD += ["new_york", "New York City", "in the u.s.", "owl", "--"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the c++, c# (c++) and java.", ["the", "c++", "c#", "c++", None, "java"]),
        ("c++/java C++ c--", ["c++", "java", "c++", "c"]),
        ("the #1 .net owl; yahoo! the $5", ["the", "#1", ".net", "owl", "yahoo!", "the", "$5"]),
        ("the AT&T owl :-) -- the", ["the", "at&t", "owl", ":-)", "the"]),
        ("the \U0001f600 owl\U0001f600\U0001f600 \U0001f996!", ["the", "\U0001f600", "owl", "\U0001f600", "\U0001f600", None]),
        ("i \u2764\ufe0f the owl", ["i", "\u2764", "the", "owl"]),
        ("the \U0001f468\u200d\U0001f469\u200d\U0001f467 owl \U0001f1eb\U0001f1f7", ["the", None, "owl", None]),
        ("the New York owl", ["the", "new_york", "owl"]),
        ("New York's owl, New York City", ["new_york", None, "owl", "New York City"]),
        ("new, york new_york the york", ["new", "york", "new_york", "the", "york"]),
        ("new  york", ["new_york"]),
        ("\U0001f996", [None]),
        ("the + = owl", ["the", "owl"]),
    ],
)
def test_entries_with_signs_emoji_and_several_words_are_found_in_texts(
    text: str, expected: list[str | None], tmp_path: Path
) -> None:
    rows = np.eye(len(ODD), dtype=np.float32)
    word_table.write([Block([word.encode() for word in ODD], rows)], len(ODD), tmp_path)
    encoder = WordVectors(EncoderSpec("words", WordVectors, "file:/words.bin", Modality.TEXT), tmp_path)
    made = sample_of(encoder, text, WordOptions("zero"))
    found = [ODD[int(row.argmax())] if row.any() else None for row in made.inputs["vectors"]]
    assert found == expected
    assert made.notes == ({"unknown_words": lost} if (lost := expected.count(None)) else {})
    assert made.tokens is not None
    assert all(a[1] <= b[0] for a, b in pairwise(made.tokens.chars.tolist()))
    check_batch(encoder, [TextItem(text)] * 5 + [TextItem("the owl")], WordOptions("zero"))


@pytest.mark.parametrize(("lowercase", "known"), [(None, ["Owl", "owl", "red"]), (True, ["owl", "red"]), (False, ["Owl", "owl"])])
def test_the_setting_lowercase(lowercase: bool | None, known: list[str]) -> None:
    vocabulary = ["Owl", "owl", "red"]
    tokenizer = Tokenizer(lambda word: vocabulary.index(word) if word in vocabulary else UNKNOWN, lowercase)
    found = [tokenizer.row(word) for word in ("Owl", "owl", "RED")]
    assert {vocabulary[row] for row in found if row != UNKNOWN} == set(known)


def test_marks_belong_to_their_word() -> None:
    (token,) = Tokenizer(lambda word: 0 if word == "हिन्दी" else UNKNOWN).tokens("हिन्दी")
    assert token == (0, 0, 6)
    tokens = Tokenizer(lambda word: 0 if word == "हिन्दी" else UNKNOWN).tokens("हिन्दी, हिन्दी")
    assert [token.row for token in tokens] == [0, 0]


def test_a_chain_of_joints_is_no_trap() -> None:
    """A hundred thousand joints in one run: neither deep recursion nor a look-up of each prefix."""
    looked_up = 0

    def find(word: str) -> int:
        nonlocal looked_up
        looked_up += len(word)
        return UNKNOWN

    text = "x " + "a-" * 100_000 + "a"
    assert len(Tokenizer(find).tokens(text)) == 100_002
    assert looked_up < 10 * len(text)


def test_one_pass_gives_mean_and_tokens(encoder: WordVectors, exported: tuple[Path, Manifest]) -> None:
    samples = [sample_of(encoder, text) for text in ("the red owl", "owls", "do the owls")]
    mean, tokens = Session(exported[0] / "model.onnx").run(["mean", "tokens"], encoder.collate(samples))
    rows = {word: ROWS[i] for i, word in enumerate(WORDS)}
    np.testing.assert_allclose(mean[0], (rows["the"] + rows["red"] + rows["owl"]) / 3, rtol=1e-6)
    np.testing.assert_array_equal(mean[1], rows["owls"])
    np.testing.assert_array_equal(tokens[2], [rows["do"], rows["the"], rows["owls"]])
    spans = samples[0].tokens
    assert spans is not None
    assert ["the red owl"[a:b] for a, b in spans.chars] == ["the", "red", "owl"]
    np.testing.assert_array_equal(spans.positions, [0, 1, 2])


def test_padding_changes_nothing(encoder: WordVectors, exported: tuple[Path, Manifest]) -> None:
    session = Session(exported[0] / "model.onnx")
    short, long = sample_of(encoder, "the red owl"), sample_of(encoder, "the owl " * 300)
    alone = session.run(["mean"], encoder.collate([short]))[0][0]
    np.testing.assert_array_equal(session.run(["mean"], encoder.collate([short, long]))[0][0], alone)
    assert (encoder.cost(short), encoder.cost(long)) == (3, 600)


def test_the_manifest_of_an_export(exported: tuple[Path, Manifest]) -> None:
    _, manifest = exported
    assert [(info.tap.name, info.tap.dim) for info in manifest.taps] == [("mean", DIM), ("tokens", DIM)]
    assert manifest.numerics.parity > 0.999999
    assert len(manifest.batches) > 2
    assert {"vectors.npy", "words.npy", "slots.npy"} <= set(manifest.files)


def test_the_fingerprint_follows_vectors_words_and_lowercase(exported: tuple[Path, Manifest], tmp_path: Path) -> None:
    def mean_of(name: str, words: Sequence[str], rows: Array, **settings: Any) -> str:
        (tmp_path / name).mkdir()
        return fingerprints(spec_of(**settings), glove(tmp_path / name, words, rows))["mean"]

    expected = {info.tap.name: info.fingerprint for info in exported[1].taps}["mean"]
    assert mean_of("same", WORDS, ROWS) == expected  # from another format
    others = {
        mean_of("rows", WORDS, ROWS + 1),
        mean_of("words", WORDS[::-1], ROWS),
        mean_of("case", WORDS, ROWS, lowercase=True),
    }
    assert len(others | {expected}) == 4


def test_a_vocabulary_of_another_language_is_exported(tmp_path: Path) -> None:
    """None of the English examples is known to it: its own words stand in."""
    (tmp_path / "out").mkdir()
    manifest = export_encoder(spec_of(), glove(tmp_path, ["सूरज", "चाँद", "तारा"], ROWS[:3]), tmp_path / "out")
    assert manifest.numerics.parity > 0.999999


def test_unknown_words_are_skipped_and_counted(encoder: WordVectors) -> None:
    sample = sample_of(encoder, "the zebra owl quagga")
    assert sample.notes == {"unknown_words": 2}
    np.testing.assert_array_equal(sample.inputs["vectors"], ROWS[:2])
    assert sample.tokens is not None
    np.testing.assert_array_equal(sample.tokens.chars, [[0, 3], [10, 13]])
    assert not sample_of(encoder, "the owl").notes


def test_unknown_words_are_zeros(encoder: WordVectors) -> None:
    sample = sample_of(encoder, "the zebra", WordOptions("zero"))
    assert sample.notes == {"unknown_words": 1}
    np.testing.assert_array_equal(sample.inputs["vectors"], [ROWS[0], np.zeros(DIM)])
    only = sample_of(encoder, "zebra", WordOptions("zero"))
    np.testing.assert_array_equal(only.inputs["vectors"], np.zeros((1, DIM)))


@pytest.mark.parametrize(
    ("item", "options", "message"),
    [
        (TextItem("zebra quagga"), WordOptions(), "none of its words is in the vocabulary of words: 'zebra', 'quagga'"),
        (TextItem("the zebra"), WordOptions("error"), "it has words that are not in the vocabulary of words: 'zebra'"),
        (TextItem("  \n"), WordOptions(), "the text is empty"),
        (TextItem("?! -- ;"), WordOptions(), "the text has no words"),
        (TextItem("the owl", "the bird"), WordOptions(), "not pairs"),
        (TextItem("the " * (1 << 23)), WordOptions(), "33,554,432 characters; the limit is 1,048,576"),
        (TextItem("a " * (1 << 17)), WordOptions(), "131,072 words; the limit is 65,536"),
        (ImageItem(b"..."), WordOptions(), "word vectors read text"),
        (np.zeros((2, 2)), WordOptions(), "word vectors read text"),
    ],
)
def test_bad_items_are_refused(encoder: WordVectors, item: Any, options: WordOptions, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        list(encoder.preprocess(item, options))
    assert caught.value.remedy


def test_nearest_words_are_exact(encoder: WordVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_table, "ROWS", 4)
    query = ROWS[1] * 3
    cosines = ROWS @ query / np.linalg.norm(ROWS, axis=1) / np.linalg.norm(query)
    expected = np.argsort(-cosines)[:5]
    found = encoder.nearest(query, 5)
    assert [word for word, _ in found] == [WORDS[i] for i in expected]
    assert found[0][0] == "owl"
    np.testing.assert_allclose([score for _, score in found], cosines[expected], atol=1e-6)
    assert len(encoder.nearest(query, 1000)) == len(WORDS)
    assert encoder.nearest(query, 0) == []


def test_words_without_length_are_near_nothing(tmp_path: Path) -> None:
    rows = np.array([[0, 0], [1, 0], [1e25, 1e25]], np.float32)
    table, _ = table_of(glove(tmp_path, ["none", "east", "far"], rows), tmp_path / "out")
    found = table.nearest(np.array([1, 1]), 3)
    assert [word for word, _ in found] == ["far", "east", "none"]
    np.testing.assert_allclose([score for _, score in found], [1, 0.5**0.5, -1], rtol=1e-6)


@pytest.mark.parametrize("vector", [np.zeros(DIM), np.ones(DIM + 1), np.full(DIM, np.nan), np.ones((1, DIM))])
def test_nearest_refuses_what_has_no_direction(encoder: WordVectors, vector: Array) -> None:
    with pytest.raises(InvalidInput, match="no word is near"):
        encoder.nearest(vector, 3)


@pytest.mark.parametrize("write", FORMATS[:-1])
def test_files_of_word_vectors_are_adopted(write: Write, tmp_path: Path) -> None:
    spec = word2vec.resolve_source("mine", SourceUri.parse(f"file:{write(tmp_path, WORDS, ROWS)}"))
    assert spec is not None
    assert (spec.name, spec.encoder, spec.modality, spec.default_tap) == ("mine", WordVectors, Modality.TEXT, "mean")


def test_other_files_are_not_adopted(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "prose.txt").write_text("Call me Ishmael.\n")
    (tmp_path / "net.onnx").write_bytes(b"")
    (tmp_path / "alone").mkdir()
    np.save(tmp_path / "alone" / "array.npy", ROWS)
    for name in ("pytorch_model.bin", "prose.txt", "net.onnx", "missing.vec", "alone/array.npy"):
        assert word2vec.resolve_source("x", SourceUri.parse(f"file:{tmp_path / name}")) is None, name
    assert word2vec.resolve_source("x", SourceUri.parse("hf:bert-base-uncased")) is None
    assert word2vec.resolve_source("x", SourceUri.parse(f"file:{tmp_path}", family="word2vec")) is not None
    assert word2vec.resolve_source("x", SourceUri.parse(f"file:{glove(tmp_path, WORDS, ROWS)}", family="bert")) is None


@pytest.fixture(scope="module")
def glove_encoder(artifact: Callable[[EncoderSpec], Path]) -> tuple[WordVectors, Manifest]:
    (spec,) = word2vec.register_encoders()
    folder = artifact(spec)
    return WordVectors(spec, folder), Manifest.read(folder)


@pytest.mark.weights
def test_the_table_of_glove(glove_encoder: tuple[WordVectors, Manifest]) -> None:
    encoder, manifest = glove_encoder
    assert encoder.table.vectors.shape == (400_000, 50)
    assert [encoder.table.word(i) for i in (0, 2, 399_999)] == ["the", ".", "sandberger"]
    np.testing.assert_allclose(encoder.table.vectors[0, :3], [0.418, 0.24968, -0.41242])
    assert [info.tap for info in manifest.taps] == list(encoder.spec.taps)
    assert manifest.numerics.parity > 0.999999


@pytest.mark.weights
def test_neighbors_in_glove(glove_encoder: tuple[WordVectors, Manifest]) -> None:
    encoder, _ = glove_encoder

    def vector(word: str) -> Array:
        (sample,) = encoder.preprocess(TextItem(word), WordOptions())
        return np.asarray(sample.inputs["vectors"][0])

    paris = [word for word, _ in encoder.nearest(vector("Paris"), 8)]
    assert paris[0] == "paris"
    assert {"france", "brussels"} <= set(paris)
    queen = encoder.nearest(vector("king") - vector("man") + vector("woman"), 2)
    assert "queen" in [word for word, _ in queen]


@pytest.mark.weights
def test_a_sentence_in_glove(glove_encoder: tuple[WordVectors, Manifest]) -> None:
    text = "It doesn't stop at 7:45 a.m. in the U.S. \N{EM DASH} zxqvblorp."
    sample = sample_of(glove_encoder[0], text)
    assert sample.tokens is not None
    words = ["It", "does", "n't", "stop", "at", "7", "45", "a.m.", "in", "the", "U.S."]
    assert [text[a:b] for a, b in sample.tokens.chars] == words
    assert sample.notes == {"unknown_words": 1}


@pytest.mark.weights
def test_a_batch_of_prose_in_glove(glove_encoder: tuple[WordVectors, Manifest]) -> None:
    pages = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
    lines = [TextItem(line) for page in pages for line in page.read_text("utf-8").splitlines()]
    check_batch(glove_encoder[0], lines[:600], WordOptions("zero"))
