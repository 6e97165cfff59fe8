"""Text to token ids with character spans, by the `tokenizers` library alone: the server never imports transformers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from topwork_server import InvalidInput, TokenSpans
from topwork_server.ragged import starts_of, sums_of
from topwork_server.types import Array

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

FILE = "tokenizer.json"
WORD_MARK = "\u2581"
#: A text of more characters than so many times the limit in tokens is not tokenized to its end.
FAR = 64


@dataclass(frozen=True)
class Tokens:
    """One text or pair, tokenized: ids and token types (tokens,) int64, which of them are rows, and how many were cut.

    `prompt` counts the leading tokens that belong to the prompt, special ones included; 0 without a prompt.
    """

    ids: Array
    types: Array
    spans: TokenSpans
    prompt: int
    cut: int


class Tokenization:
    """A tokenizer file with truncation and padding off, and the most tokens, special ones included, that a text may have."""

    def __init__(self, file: Path, limit: int) -> None:
        from tokenizers import Tokenizer

        # Each call brings one text, from a thread of the server's pool: the library's own threads would only compete.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.limit = limit
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(file))

    def length(self, text: str, pair: str | None = None) -> int:
        """How many tokens, special ones included."""
        return len(_encode(self._tokenizer, text, pair))

    def encode(self, text: str, pair: str | None = None, *, prompt: str = "", truncate: bool = False) -> Tokens:
        """Tokens of `prompt` + `text` (and `pair`); spans are characters of `text` and of `pair`.

        InvalidInput where there is nothing to encode, or more than `limit` tokens and not `truncate`.
        """
        for said, given in (("text", text), ("text of the pair", pair)):
            if given is not None and not given.strip():
                raise InvalidInput(f"the {said} is empty", remedy="send at least one word")
        kept, length = self._fitted(prompt + text, pair, truncate=truncate)
        spans = _spans(kept, len(prompt), text, pair)
        if not len(spans.positions):
            raise InvalidInput("no token of the text is left", remedy="send words that the tokenizer knows, after a short prompt")
        return Tokens(
            np.array(kept.ids, np.int64),
            np.array(kept.type_ids, np.int64),
            spans,
            int(spans.positions[0]) if prompt else 0,
            length - len(kept),
        )

    def encode_many(self, texts: Sequence[str]) -> list[Tokens | None]:
        """What `encode` gives of each text, which is not blank; None of one that is out of the ordinary: too long, or with tokens
        that take a closer look. The library works on all of them at once, without the interpreter lock."""
        if self._marks_words or sum(map(len, texts)) > FAR * self.limit:
            return [None] * len(texts)
        try:
            codes = np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")
        except UnicodeEncodeError:  # half of a surrogate pair, which the library does not take
            return [None] * len(texts)
        encodings: list[Encoding] = self._tokenizer.encode_batch(list(texts))
        counts = np.fromiter(map(len, encodings), np.int64, len(encodings))
        ids = _flat((e.ids for e in encodings), counts)
        types = _flat((e.type_ids for e in encodings), counts)
        ours = _flat(([part is not None for part in e.sequence_ids] for e in encodings), counts).astype(bool)
        chars = _flat((chain.from_iterable(e.offsets) for e in encodings), 2 * counts).astype(np.int32).reshape(-1, 2)
        usual = _usual(codes, texts, chars, ours, counts) & (counts <= self.limit)
        parts = np.zeros(int(counts.max(initial=0)), np.int32)
        made: list[Tokens | None] = []
        for good, end, count in zip(usual.tolist(), np.cumsum(counts).tolist(), counts.tolist(), strict=True):
            part = slice(end - count, end)
            positions = np.flatnonzero(ours[part])
            spans = TokenSpans(positions, chars[part][positions], parts[: len(positions)])
            made.append(Tokens(ids[part], types[part], spans, prompt=0, cut=0) if good and len(positions) else None)
        return made

    @cached_property
    def _marks_words(self) -> bool:
        """Whether the beginnings of words are marked as SentencePiece does."""
        return self._tokenizer.token_to_id(WORD_MARK) is not None

    def _fitted(self, text: str, pair: str | None, *, truncate: bool) -> tuple[Encoding, int]:
        """An encoding within the limit, and how many tokens the text has: an estimate where it is far over the limit."""
        head, pair_head = self._head(text, pair)
        found = _encode(self._tokenizer, head, pair_head)
        share = (len(head) + len(pair_head or "")) / (len(text) + len(pair or ""))
        length = round(len(found) / share)
        if length <= self.limit:
            return found, length
        if truncate:
            return _encode(self._truncating, head, pair_head), length
        raise InvalidInput(
            f"the text has {'about ' if share < 1 else ''}{length} tokens (prompt and pair included); the limit is {self.limit}",
            remedy="shorten it or split it, or set the option truncate to true",
        )

    def _head(self, text: str, pair: str | None) -> tuple[str, str | None]:
        """All of it; or, where that is enough to cut from, its beginning: a megabyte takes a second and 200 MB."""
        far = FAR * self.limit
        head, pair_head = text[:far], pair and pair[:far]
        if (head, pair_head) == (text, pair) or self.length(head, pair_head) <= 2 * self.limit:
            return text, pair
        return head, pair_head

    @cached_property
    def _truncating(self) -> Tokenizer:
        """A second tokenizer: truncation is a state of the object, and others encode in other threads meanwhile."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.enable_truncation(self.limit)
        return tokenizer


def _flat(values: Iterable[Iterable[int]], counts: Array) -> Array:
    """All numbers one after another, (sum of counts,) int64."""
    return np.fromiter(chain.from_iterable(values), np.int64, int(counts.sum()))


def _usual(codes: Array, texts: Sequence[str], chars: Array, ours: Array, counts: Array) -> Array:
    """(texts,) bool: that have no token of ours which begins with what may be white space. `codes` are their characters."""
    begins = np.repeat(starts_of(np.fromiter(map(len, texts), np.int64, len(texts))), counts)
    first = codes[np.minimum(begins + chars[:, 0], len(codes) - 1)]
    blank = (first <= 0x20) | (first == 0x85) | (first == 0xA0) | ((first >= 0x1680) & (first <= 0x3000))
    return np.asarray(sums_of(blank & ours, counts) == 0)


def _encode(tokenizer: Tokenizer, text: str, pair: str | None) -> Encoding:
    """By `encode_batch`, which lets go of the interpreter lock; `encode` keeps it, and a long text would stop the server."""
    return tokenizer.encode_batch([text if pair is None else (text, pair)])[0]


def _spans(encoding: Encoding, prompt: int, text: str, pair: str | None) -> TokenSpans:
    """Rows are the tokens of the text and of the pair: not special ones, and none that lies in the prompt."""
    positions, chars, parts = [], [], []
    texts = (text, pair or "")
    found = zip(encoding.sequence_ids, encoding.offsets, encoding.tokens, strict=True)
    for position, (part, (start, end), token) in enumerate(found):
        if part is None or (part == 0 and prompt and end <= prompt):
            continue
        shift = prompt if part == 0 else 0
        positions.append(position)
        parts.append(part)
        chars.append(_covered(texts[part], max(start - shift, 0), end - shift, token))
    return TokenSpans(np.array(positions, np.int64), np.array(chars, np.int32).reshape(-1, 2), np.array(parts, np.int32))


def _covered(text: str, start: int, end: int, token: str) -> tuple[int, int]:
    """The characters of a token. SentencePiece and byte-level tokens take the space before the word with them: not ours.

    SentencePiece's mark of a word's beginning, as a token of its own, is reported as the word's first letter: it covers nothing.
    """
    if token == WORD_MARK and text[start:end] != WORD_MARK:
        return start, start
    while start < end - 1 and text[start].isspace():
        start += 1
    return start, end
