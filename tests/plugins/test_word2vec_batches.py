"""Batches of texts: the same words, rows, spans, notes and refusals as one text after another."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from batch_preprocessing import check_batch
from topwork_plugins.word2vec import batch_tokenizer
from topwork_plugins.word2vec import table as word_table
from topwork_plugins.word2vec.batch_tokenizer import LONGEST_TEXT, BatchTokenizer
from topwork_plugins.word2vec.files import Block
from topwork_plugins.word2vec.plugin import WordOptions, WordVectors
from topwork_plugins.word2vec.tokens import Tokenizer
from topwork_server import EncoderSpec, ImageItem, Item, Modality, TextItem

WORDS = [
    "the",
    "owl",
    "red",
    "Bird",
    "n't",
    "do",
    "'s",
    "well-made",
    "café",
    "u.s.",
    "...",
    "हिन्दी",
    "c++",
    "\U0001f600",
    "a" * 300,
]
PIECES = [
    "the",
    "The",
    "owl.",
    "owl's",
    "don't",
    "well-made",
    "red-owl,",
    "...",
    "?!",
    "zebra",
    "U.S.",
    "café",
    "cafe\u0301",
    "c++,",
    "(C++)",
    "owl\U0001f600",
    "\U0001f996!",
]
SPACES = [" ", " ", " ", "  ", "\n", "\t ", "\u3000", "\x1c", "\u200b"]
SIGNS = "c+#\U0001f600\ufe0f\u200daOwl.-'_/&,\u2019 \n\u3000é\u0301हि9\U0001d54f\ud800"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> WordVectors:
    folder = tmp_path_factory.mktemp("table")
    rows = np.random.default_rng(7).normal(size=(len(WORDS), 6)).astype(np.float32)
    word_table.write([Block([word.encode() for word in WORDS], rows)], 6, folder)
    return WordVectors(EncoderSpec("words", WordVectors, "file:/words.bin", Modality.TEXT), folder)


def corpus(count: int) -> list[str]:
    """Texts of known pieces and every kind of white space, and texts of signs thrown together."""
    dice = random.Random(5)
    pieced = ["".join(dice.choice(PIECES) + dice.choice(SPACES) for _ in range(dice.randrange(1, 9))) for _ in range(count)]
    thrown = ["".join(dice.choices(SIGNS, k=dice.randrange(1, 30))) for _ in range(count)]
    return [text for text in itertools.chain(pieced, thrown, PIECES) if text.strip()]


@pytest.mark.parametrize("unknown", ["skip", "zero", "error"])
def test_a_batch_gives_what_its_texts_give_alone(encoder: WordVectors, unknown: Any) -> None:
    texts = [TextItem(text) for text in corpus(300)]
    for start in range(0, len(texts), 50):
        check_batch(encoder, list(texts[start : start + 50]), WordOptions(unknown))


def test_what_is_out_of_the_ordinary_rides_with_the_rest(encoder: WordVectors) -> None:
    odd: list[Item] = [
        TextItem("a", "b"),
        TextItem(" \n"),
        ImageItem(b""),
        np.zeros(3),
        TextItem("owl " * LONGEST_TEXT),
        TextItem("?! ;"),
    ]
    plain: list[Item] = [TextItem("the owl"), TextItem("owl"), TextItem("the red owl"), TextItem("don't")]
    check_batch(encoder, [*odd, *plain, *odd], WordOptions())
    check_batch(encoder, plain[:1], WordOptions())
    check_batch(encoder, [], WordOptions())


def test_the_longest_text_of_a_batch(encoder: WordVectors) -> None:
    check_batch(
        encoder,
        [TextItem("x" * LONGEST_TEXT), *[TextItem("the owl")] * 4, TextItem(" " * (LONGEST_TEXT - 1) + "x")],
        WordOptions("zero"),
    )


def test_what_is_remembered_is_bounded(encoder: WordVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_tokenizer, "MOST_PIECES", 20)
    tokenizer = Tokenizer(encoder.table.find)
    batches = BatchTokenizer(tokenizer)
    for start in range(0, 2000, 10):
        texts = [f"the owl w{i} don't" for i in range(start, start + 10)]
        words = batches.words(texts)
        assert words.rows.tolist() == [token.row for text in texts for token in tokenizer.tokens(text)]
        assert len(batches._pieces) <= 20 + 13
    monkeypatch.setattr(batch_tokenizer, "MOST_CHARACTERS", 10)
    batches.words(["the owl"])
    assert sorted(batches._pieces) == ["owl", "the"]
