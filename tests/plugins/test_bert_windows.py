"""Windows over texts of any length: what each tokenizer makes of a long text, beside what it makes of the whole."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import tiny_berts
from tiny_berts import POSITIONS, Prepared, prepare
from topwork_plugins.bert import windows
from topwork_plugins.bert.plugin import BertOptions
from topwork_server import InvalidInput, Sample, TextItem

FAMILIES = ["bert", "roberta", "albert", "xlm-roberta", "gpt2", "llama", "t5", "xlnet"]
TEXT = " ".join(f"The {color} bird sings,\nnaïve 漢字 😀 {number}." for number in range(12) for color in ("red", "blue"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Prepared]:
    @cache
    def made(model_type: str) -> Prepared:
        folder = tmp_path_factory.mktemp(model_type)
        return prepare(tiny_berts.write(folder / "model", model_type), folder / "out")

    return made


def rows_of(samples: list[Sample]) -> list[tuple[int, tuple[int, ...]]]:
    """Each row's token and its characters, of all windows."""
    found = []
    for sample in samples:
        assert sample.tokens is not None
        ids = sample.inputs["input_ids"][sample.tokens.positions]
        found += list(zip(ids.tolist(), map(tuple, sample.tokens.chars.tolist()), strict=True))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_within_the_limit_is_one_window_equal_to_what_is_usual(prepared: Callable[[str], Prepared], family: str) -> None:
    encoder = prepared(family).encoder
    for text in ("The red bird sings.", "  naïve 漢字 😀!\n", "a"):
        [window] = encoder.preprocess_long(TextItem(text), BertOptions(unknown="allow"))
        [usual] = encoder.preprocess(TextItem(text), BertOptions(unknown="allow"))
        for name, array in usual.inputs.items():
            np.testing.assert_array_equal(window.inputs[name], array)
        assert rows_of([window]) == rows_of([usual])


@pytest.mark.parametrize("family", FAMILIES)
def test_each_token_of_a_long_text_is_a_row_once_and_windows_overlap(
    prepared: Callable[[str], Prepared], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "PIECE", 64)  # many pieces of one text
    made = prepared(family)
    whole = made.encoder._tokenization.tokens_of(TEXT)  # type: ignore[attr-defined]
    found = list(made.encoder.preprocess_long(TextItem(TEXT), BertOptions(unknown="allow")))
    assert len(found) > 2
    assert [id for id, _ in rows_of(found)] == [token.id for token in whole if token.chars is not None]
    for sample in found:
        ids = sample.inputs["input_ids"]
        assert len(ids) <= POSITIONS
        assert len(sample.inputs.get("attention_mask", ids)) == len(ids)
    tokens = [sample.tokens.positions for sample in found if sample.tokens is not None]
    first, room = tokens[0][0], len(tokens[0])
    for number, (earlier, later) in enumerate(pairwise(found)):
        shared = tokens[number + 1][0] - first
        assert shared == room // 8
        before = earlier.inputs["input_ids"][tokens[number]][-shared:]
        np.testing.assert_array_equal(later.inputs["input_ids"][first : first + shared], before)


def test_every_window_has_the_prompt_before_it_which_gives_no_rows(prepared: Callable[[str], Prepared]) -> None:
    encoder = prepared("bert").encoder
    plain = rows_of(list(encoder.preprocess_long(TextItem(TEXT), BertOptions())))
    found = list(encoder.preprocess_long(TextItem(TEXT), BertOptions(prompt="query: ")))
    assert rows_of(found) == plain
    prompts = {tuple(sample.inputs["input_ids"][:3].tolist()) for sample in found}
    assert len(prompts) == 1
    with pytest.raises(InvalidInput, match="prompt"):
        list(encoder.preprocess_long(TextItem("bird"), BertOptions(prompt="query " * 200)))


def test_unknown_words_are_refused_where_that_is_asked_for_or_none_is_known(prepared: Callable[[str], Prepared]) -> None:
    encoder = prepared("bert").encoder
    strange = "\u1300 " * 500  # no letter of the vocabulary
    with pytest.raises(InvalidInput, match="knows no token"):
        list(encoder.preprocess_long(TextItem(strange), BertOptions()))
    assert len(rows_of(list(encoder.preprocess_long(TextItem(strange), BertOptions(unknown="allow"))))) == 500
    assert len(rows_of(list(encoder.preprocess_long(TextItem(f"bird {strange}"), BertOptions())))) == 501
    with pytest.raises(InvalidInput, match="does not know"):
        list(encoder.preprocess_long(TextItem(f"{TEXT} {strange}"), BertOptions(unknown="error")))


def test_fifty_thousand_words_take_little_time_and_memory(prepared: Callable[[str], Prepared]) -> None:
    encoder = prepared("bert").encoder
    text = TextItem("The red bird sings. " * 12_500)
    tracemalloc.start()
    began, rows = time.process_time(), 0
    for sample in encoder.preprocess_long(text, BertOptions()):
        assert sample.tokens is not None
        rows += len(sample.tokens.positions)
    taken, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows >= 62_500
    assert taken < 20
    assert peak < 16 << 20  # Python's part; the tokens of one piece at a time
    with pytest.raises(InvalidInput, match="characters"):
        list(encoder.preprocess_long(TextItem("a " * (windows.MOST_CHARACTERS // 2 + 1)), BertOptions()))
