"""The rule that finds sentences, in several languages."""

from __future__ import annotations

import pytest
from topwork_server.plugin_api.sentences import sentences


@pytest.mark.parametrize(
    "expected",
    [
        ["It rains.", "Does it?", "Yes!", "Well...", "No?!", "(He left.)", "“So be it.”"],
        ["Dr. Smith and J. R. Miller came, e.g. by train.", "They paid 3.50 each."],
        ["Am 3. Mai kam er z.B. nach Bonn.", "Dort blieb er bis 1990.", "Danach ging er."],
        ["Un exemple, p. ex. ceci.", "Mme. Dupont est là.", "C'est tout."],
        ["La Sra. López llegó.", "¿Es tarde?", "¡No!"],
        ["यह एक वाक्य है।", "यह दूसरा है।"],
        ["هل أنت هنا؟", "نعم."],
        ["“Stop!” he said.", "No one did."],
        ["A title without a mark"],
    ],
)
def test_sentences_end_at_their_marks_and_not_after_abbreviations(expected: list[str]) -> None:
    text = "  " + " \n".join(expected) + " "
    assert [text[start:end] for start, end in sentences(text)] == expected


def test_marks_of_chinese_and_japanese_need_no_blank() -> None:
    expected = ["他来了。", "「她走了\uff01」", "真的\uff1f", "好"]  # a full-width ! and ?
    text = "".join(expected)
    assert [text[start:end] for start, end in sentences(text)] == expected


def test_an_empty_line_ends_a_sentence_and_a_single_break_does_not() -> None:
    text = "A title\n \t\nA line\nof a text. And more"
    assert [text[start:end] for start, end in sentences(text)] == ["A title", "A line\nof a text.", "And more"]


@pytest.mark.parametrize("text", ["", " \n\n ", ". . .", "?" * 1000, "a" * 100_000, "\n" * 100_000, "a. " * 30_000])
def test_nothing_but_blanks_is_left_out(text: str) -> None:
    found = sentences(text)
    assert "".join(text[start:end] for start, end in found).replace(" ", "") == "".join(text.split())
    assert all(start < end for start, end in found)
