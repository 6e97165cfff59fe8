"""A tokenized text: its ids, and which of its tokens are rows."""

from __future__ import annotations

from dataclasses import dataclass

from topwork_server import Array, TokenSpans

WORD_MARK = "\u2581"


@dataclass(frozen=True)
class Tokens:
    """One text or pair, tokenized: ids and token types (tokens,) int64, which of them are rows, and how many were cut.

    `prompt` counts the leading tokens that belong to the prompt, special ones included; 0 without a prompt. `unknown` counts the
    rows that are the tokenizer's unknown token or a special one; `strange` says which texts (0, and 1 for the pair) have no
    others.
    """

    ids: Array
    types: Array
    spans: TokenSpans
    prompt: int
    cut: int
    unknown: int = 0
    strange: tuple[int, ...] = ()

    @property
    def notes(self) -> dict[str, int]:
        """The notes of its sample: how many tokens were cut, and how many are unknown, where there are any."""
        counts = {"truncated_tokens": self.cut, "unknown_tokens": self.unknown}
        return {name: count for name, count in counts.items() if count}


def covered(text: str, start: int, end: int, token: str) -> tuple[int, int]:
    """The characters of a token. SentencePiece and byte-level tokens take the space before the word with them: not ours.

    SentencePiece's mark of a word's beginning, as a token of its own, is reported as the word's first letter: it covers nothing.
    """
    if token == WORD_MARK and text[start:end] != WORD_MARK:
        return start, start
    while start < end - 1 and text[start].isspace():
        start += 1
    return start, end
