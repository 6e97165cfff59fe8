"""Bounds how much of a text is tokenized, of any text: the beginning that its first tokens depend on.

A text is read in steps, each of a longer beginning, until enough of its tokens cannot change any more with what follows. No step
reads more than `most` characters (a quarter of a million takes 0.6 s where it is few words; where it is many, fewer are read).
Runs of blanks count as one blank where the tokenizer takes them so: they are passed over, 64 Ki characters at a time.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from topwork_server import Array, check_caller

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

#: The first step reads FIRST characters, but at least LEAST_A_TOKEN and at most FIRST_A_TOKEN for each token of the limit; each
#: further one GROWTH times as many. A text that the first step reads whole has its tokens counted, not estimated.
FIRST_A_TOKEN, LEAST_A_TOKEN, FIRST, GROWTH = 64, 8, 1 << 15, 4
#: Of no text more characters are tokenized than this, or than so many for each token of the limit where that is more.
MOST_CHARACTERS, MOST_A_TOKEN = 1 << 18, 64
#: Tokens from the end of a beginning that what follows may change, where words have no greatest length.
MARGIN = 128
#: Characters that are searched for runs of blanks at a time, and how long a run is that is cut to its last blank.
PIECE = 1 << 16
_RUN = re.compile(r"[ \t\n\r]{64,}")
_BLANKS = " \t\n\r"


@dataclass(frozen=True)
class Condensed:
    """A text without the inside of its long runs of blanks. `at` (ascending) are the places in `text` where characters are left
    out, `left_out` how many up to each; `whole` says that nothing follows, else `rest` counts the characters that do."""

    text: str
    at: Array
    left_out: Array
    rest: int = 0

    @property
    def whole(self) -> bool:
        return not self.rest

    def places(self, chars: Array) -> Array:
        """Half-open spans (n, 2) of `text` as spans of the original."""
        if not len(self.at):
            return chars
        left_out = np.concatenate([[0], self.left_out])
        starts = chars[:, 0] + left_out[np.searchsorted(self.at, chars[:, 0], side="right")]
        ends = chars[:, 1] + left_out[np.searchsorted(self.at, chars[:, 1], side="left")]
        return np.stack([starts, np.maximum(starts, ends)], axis=1).astype(np.int32)


@dataclass(frozen=True)
class Beginning:
    """A text's beginning, and how many tokens the text has, special ones not counted: an estimate where it is not `whole`."""

    text: str
    tokens: int
    whole: bool
    ends: tuple[int, ...]

    def cut(self, tokens: int) -> Beginning:
        """Cut a text to the part that its first tokens cover."""
        if len(self.ends) <= tokens:
            return self
        return Beginning(self.text[: self.ends[tokens - 1]], self.tokens, False, self.ends[:tokens])


class Beginnings:
    """Finds beginnings for a tokenizer (without truncation) of which at most `limit` tokens are used. Any thread may ask."""

    def __init__(self, tokenizer: Tokenizer, limit: int) -> None:
        self._tokenizer, self._limit = tokenizer, limit
        self.first = max(LEAST_A_TOKEN * limit, min(FIRST_A_TOKEN * limit, FIRST))
        self.most = max(MOST_CHARACTERS, MOST_A_TOKEN * limit)

    def condensed(self, text: str) -> Condensed:
        """Keep at most `most` characters of a text; a text of no more than `first` stays as it is."""
        if len(text) <= self.first or not self._skips_blanks:
            return Condensed(text[: self.most], _NONE, _NONE, max(0, len(text) - self.most))
        parts, at, left_out = list[str](), list[int](), list[int]()
        have = lost = read = 0
        for start, end in _kept(text):
            if start > read:
                lost += start - read
                at.append(have)
                left_out.append(lost)
            read = min(end, start + self.most - have)
            parts.append(text[start:read])
            have += read - start
            if have == self.most:
                break
        return Condensed("".join(parts), np.array(at, np.int64), np.array(left_out, np.int64), len(text) - read)

    def of(self, prompt: str, text: Condensed) -> Beginning:
        """Enough of `prompt` + `text` to cut to the limit from."""
        joined = prompt + text.text
        size = self.first
        while True:
            check_caller()
            found: Encoding = self._tokenizer.encode_batch([joined[:size]], add_special_tokens=False)[0]
            if size >= len(joined) or self._settled(found) >= self._limit:
                break
            size *= GROWTH
        tokens = round(len(found) * (len(joined) + text.rest) / max(1, min(size, len(joined))))
        ends = tuple(end for _, end in found.offsets)
        return Beginning(joined[:size], tokens, text.whole and size >= len(joined), ends)

    def both(self, one: Beginning, other: Beginning) -> tuple[Beginning, Beginning]:
        """A pair of which one text is cut: each as short as its cut allows, the one with fewer tokens in all the shorter. The
        library gives an odd token to the longer one, and takes long for what it cuts off."""
        short, long = (one, other) if one.tokens < other.tokens else (other, one)
        far = MARGIN + 2 * self._limit
        long = long.cut(far)
        longest = len(long.ends) - (short.tokens < long.tokens)
        short = short.cut(min(far, longest) if len(long.ends) > self._limit else far)
        return (short, long) if one.tokens < other.tokens else (long, short)

    def _settled(self, found: Encoding) -> int:
        """Count the first tokens that do not change with what follows: not those of the last two words, which may be longer;
        where words have no greatest length, not those near the end."""
        words = [-1 if word is None else word for word in found.word_ids]
        settled = bisect_left(words, words[-1] - 1) if words else 0
        return settled if self._bounds_words else max(settled, len(words) - self._limit - MARGIN)

    @cached_property
    def _bounds_words(self) -> bool:
        """Tell whether a word of more than so many characters is one unknown token, with any beginning."""
        return hasattr(self._tokenizer.model, "max_input_chars_per_word")

    @cached_property
    def _skips_blanks(self) -> bool:
        """Tell whether any run of blanks, in front and between words, counts as one."""

        def ids(text: str) -> list[int]:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

        runs = [_BLANKS * 16 + last for last in _BLANKS]
        return all(ids(f"{run}a{run}b") == ids("a b") and ids(f"{run}a") == ids(" a") == ids("a") for run in runs)


_NONE: Array = np.empty(0, np.int64)


def _kept(text: str) -> Iterator[tuple[int, int]]:
    """The stretches between the insides of long runs of blanks."""
    for start in range(0, len(text), PIECE):
        check_caller()
        end = min(start + PIECE, len(text))
        for run in _RUN.finditer(text, start, end):
            yield start, run.start()
            start = run.end() - 1
        yield start, end
