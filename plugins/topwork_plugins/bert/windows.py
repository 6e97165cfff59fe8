"""Reads a text of any length as windows that overlap, for its tokens alone: "long late chunking" (Günther et al. 2024,
arXiv:2409.04701, algorithm 2).

Each token is a row of the first window that has it; the later one has it as what stands before. The text is tokenized in pieces
that end before a blank, so that a long one never is in memory as tokens of the library.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from topwork_server import Array, InvalidInput, TokenSpans, check_caller

from topwork_plugins.bert.token_rows import WORD_MARK, Tokens, covered

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Characters that are tokenized at a time, and the most of one text: a million tokens of English.
PIECE, MOST_CHARACTERS = 1 << 16, 1 << 22
#: The part of a window that the one before has too.
OVERLAP = 1 / 8


@dataclass(frozen=True)
class _Frame:
    """Special tokens around a text: ids before and after, and the token types of these and of the text."""

    before: Array
    after: Array
    types_before: Array
    types_after: Array
    type: int


@dataclass
class _Found:
    """Tokens of a part of a text: ids (n,), and their characters (n, 2) in the text; those of the prompt end at 0 or before."""

    ids: Array
    chars: Array

    def __len__(self) -> int:
        return len(self.ids)

    def __add__(self, other: _Found) -> _Found:
        return _Found(np.concatenate([self.ids, other.ids]), np.concatenate([self.chars, other.chars]))

    def part(self, start: int, end: int | None = None) -> _Found:
        return _Found(self.ids[start:end], self.chars[start:end])


class Windows:
    """Windows of at most `limit` tokens, special ones included; `unknown` are ids that say nothing of a text. Any thread."""

    def __init__(self, tokenizer: Tokenizer, limit: int, unknown: Array) -> None:
        self._tokenizer, self._limit, self._unknown = tokenizer, limit, unknown

    def of(self, text: str, prompt: str = "") -> Iterator[Tokens]:
        """The windows of a text, each with the prompt before it, whose tokens are no rows. InvalidInput where there is nothing to
        encode, or more than is read."""
        if not text or text.isspace():
            raise InvalidInput("the text is empty", remedy="send at least one word")
        if len(text) > MOST_CHARACTERS:
            raise InvalidInput(
                f"a text of {len(text):,} characters, of which at most {MOST_CHARACTERS:,} are read", remedy="split it"
            )
        pieces = self._pieces(text, prompt)
        left = next(pieces)
        behind = int(np.searchsorted(left.chars[:, 1], 0, side="right")) if prompt else 0
        prompted, left, earlier, known = left.ids[:behind], left.part(behind), left.part(0, 0), False
        np.maximum(left.chars, 0, out=left.chars)  # a token may begin in the prompt
        room = self._room(len(prompted))
        for more in chain(pieces, [None]):
            while more is None or len(left) > room - len(earlier):
                fresh, left = left.part(0, room - len(earlier)), left.part(room - len(earlier))
                known = known or self._knows(fresh)
                last = more is None and not len(left)
                yield self._window(prompted, earlier, fresh, strange=last and not known)
                if last:
                    return
                both = earlier + fresh
                earlier = both.part(len(both) - int(room * OVERLAP))
            left += more

    def _room(self, prompt: int) -> int:
        """Tokens of a text that a window has room for."""
        room = self._limit - prompt - len(self._frame.before) - len(self._frame.after)
        if room < 2:
            raise InvalidInput(f"the prompt has {prompt} tokens, and the limit is {self._limit}", remedy="shorten the prompt")
        return room

    def _window(self, prompt: Array, earlier: _Found, fresh: _Found, *, strange: bool) -> Tokens:
        if not len(fresh):
            raise InvalidInput("no token of the text is left", remedy="send words that the tokenizer knows, after a short prompt")
        frame, texts = self._frame, np.concatenate([prompt, earlier.ids, fresh.ids])
        ids = np.concatenate([frame.before, texts, frame.after])
        types = np.concatenate([frame.types_before, np.full(len(texts), frame.type), frame.types_after])
        first = len(ids) - len(frame.after) - len(fresh)
        spans = TokenSpans(np.arange(first, first + len(fresh)), fresh.chars, np.zeros(len(fresh), np.int32))
        pooled_from = len(frame.before) + len(prompt) if len(prompt) else 0
        unknown = int(np.isin(fresh.ids, self._unknown).sum())
        return Tokens(ids, types, spans, prompt=pooled_from, cut=0, unknown=unknown, strange=(0,) if strange else ())

    def _knows(self, found: _Found) -> bool:
        return not bool(np.isin(found.ids, self._says_nothing).all())

    @cached_property
    def _says_nothing(self) -> Array:
        mark = self._tokenizer.token_to_id(WORD_MARK)
        return self._unknown if mark is None else np.append(self._unknown, mark)

    @cached_property
    def _frame(self) -> _Frame:
        found = self._tokenizer.encode("a")
        ids, types = np.array(found.ids, np.int64), np.array(found.type_ids, np.int64)
        inside = [i for i, part in enumerate(found.sequence_ids) if part is not None] or [len(ids)]
        before, after = slice(0, inside[0]), slice(inside[-1] + 1, None)
        return _Frame(
            ids[before], ids[after], types[before], types[after], int(types[inside[0]]) if len(types) > inside[0] else 0
        )

    def _pieces(self, text: str, prompt: str) -> Iterator[_Found]:
        """The tokens of each piece, of the first with those of the prompt."""
        start = 0
        while start < len(text):
            check_caller()
            end = _end_of_piece(text, start)
            yield self._tokens(prompt + text[start:end], start - len(prompt))
            start, prompt = end, ""

    def _tokens(self, piece: str, shift: int) -> _Found:
        found = self._tokenizer.encode_batch([piece], add_special_tokens=False)[0]
        chars = [covered(piece, *span, token) for span, token in zip(found.offsets, found.tokens, strict=True)]
        return _Found(np.array(found.ids, np.int64), np.array(chars, np.int32).reshape(-1, 2) + np.int32(shift))


def _end_of_piece(text: str, start: int) -> int:
    """Find the last blank of a piece that is not the last, so that no word is cut but one without end."""
    end = start + PIECE
    if end >= len(text):
        return len(text)
    blank = max(text.rfind(mark, start + 1, end) for mark in " \n\t")
    return blank if blank > start else end
