"""Splits many texts into words at once, each as `Tokenizer.tokens` does, at a small part of the cost.

Texts repeat their words, so a piece (what stands between white space) is split once and remembered: how it is split does not
depend on its neighbors, but where an entry of several words may begin. Texts that may have one are marked: they are not for a
batch. A text of one piece is a piece of its own kind, because it is first looked up as a whole. A batch of texts then costs a
dict look-up a piece, and numpy for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from topwork_server import Array, starts_of, sums_of

from topwork_plugins.word2vec.tokens import UNKNOWN, Tokenizer

#: A word is packed into one number: row + 1, and where it begins and ends within its piece, in so many bits each.
SPAN_BITS = 14
LOW = (1 << SPAN_BITS) - 1
SEVERAL = -1
#: Characters of a text that may go through a batch, so that spans fit, and no piece takes much of the memory.
LONGEST_TEXT = LOW
#: Pieces and characters that are remembered (about 12 MB) before all are forgotten.
MOST_PIECES, MOST_CHARACTERS = 1 << 16, 1 << 21
#: Before a piece that is the whole of its text.
ALONE = " "
_PIECE = re.compile(r"\S+")


@dataclass(frozen=True)
class Words:
    """The words of several texts, one text after another: `rows` (words,) int64, UNKNOWN among them; `chars` (words, 2) int32,
    the half-open spans in their texts; `counts` (texts,) int64; `phrased` (texts,) bool, those that may have entries of several
    words, which are not found here."""

    rows: Array
    chars: Array
    counts: Array
    phrased: Array

    def without_unknown(self) -> Words:
        known = self.rows != UNKNOWN
        if known.all():
            return self
        return Words(self.rows[known], self.chars[known], sums_of(known, self.counts), self.phrased)


class BatchTokenizer:
    """Splits batches of texts, in any number of threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces = _Pieces(tokenizer)

    def words(self, texts: Sequence[str]) -> Words:
        """Split texts that are not blank and have at most LONGEST_TEXT characters."""
        if self._pieces.is_full:
            self._pieces = _Pieces(self._tokenizer)  # other threads end with the one that they have
        pieces = self._pieces
        split = [text.split() for text in texts]
        per_text = np.fromiter(map(len, split), np.int64, len(split))
        starts = _starts(texts, split, per_text)
        for i in np.flatnonzero(per_text == 1).tolist():
            split[i] = [ALONE + split[i][0]]
        tokens, per_piece = pieces.tokens(list(chain.from_iterable(split)))
        phrased = np.fromiter(map(pieces.may_have_phrase, split), bool, len(split))
        chars = tokens[:, 1:] + np.repeat(starts, per_piece)[:, None]
        return Words(tokens[:, 0], chars.astype(np.int32), sums_of(per_piece, per_text), phrased)


class _Pieces(dict[str, int]):
    """Pieces, and the packed word of each that has exactly one; SEVERAL of the others."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._several: dict[str, tuple[int, ...]] = {}
        self._openers: dict[str, str] = {}
        self._characters = 0

    @property
    def is_full(self) -> bool:
        return len(self) > MOST_PIECES or self._characters > MOST_CHARACTERS

    def may_have_phrase(self, pieces: list[str]) -> bool:
        """Tell whether an entry of several words may begin with one of the pieces, which are known, and the next."""
        if self._openers.keys().isdisjoint(pieces):
            return False
        openers, may_go_on = self._openers, self._tokenizer.may_go_on
        return any(one in openers and may_go_on(openers[one], two) for one, two in pairwise(pieces))

    def tokens(self, pieces: list[str]) -> tuple[Array, Array]:
        """Return (words, 3) int64 of row, start and end within the piece, and how many words each piece has, (pieces,)."""
        packed = np.fromiter(map(self.__getitem__, pieces), np.int64, len(pieces))
        several = [self._packed(pieces[i]) for i in np.flatnonzero(packed == SEVERAL).tolist()]
        counts = np.ones(len(pieces), np.int64)
        counts[packed == SEVERAL] = [len(found) for found in several]
        packed = np.repeat(packed, counts)
        packed[packed == SEVERAL] = list(chain.from_iterable(several))
        return np.stack([(packed >> 2 * SPAN_BITS) - 1, packed >> SPAN_BITS & LOW, packed & LOW], axis=1), counts

    def __missing__(self, piece: str) -> int:
        found = self._packed(piece)
        self._characters += len(piece)
        if opener := self._tokenizer.opens(piece):
            self._openers[piece] = opener
        if len(found) != 1:
            self._several[piece] = found
        self[piece] = one = found[0] if len(found) == 1 else SEVERAL
        return one

    def _packed(self, piece: str) -> tuple[int, ...]:
        """The words of a piece, a number each."""
        found = self._several.get(piece)
        if found is not None:
            return found
        alone = piece.startswith(ALONE)
        tokens = self._tokenizer.tokens(piece) if alone else self._tokenizer.parts(piece)
        return tuple(((row + 1) << SPAN_BITS | start - alone) << SPAN_BITS | end - alone for row, start, end in tokens)


def _starts(texts: Sequence[str], split: list[list[str]], per_text: Array) -> Array:
    """Find where each piece begins in its text; by a search only where white space is more than one character between two."""
    sizes = np.fromiter(map(len, chain.from_iterable(split)), np.int64, int(per_text.sum())) + 1
    first = starts_of(per_text)
    starts = starts_of(sizes)
    lengths = sums_of(sizes, per_text)
    starts -= np.repeat(starts_of(lengths), per_text)
    for i in np.flatnonzero(lengths != np.fromiter(map(len, texts), np.int64, len(texts)) + 1).tolist():
        starts[first[i] : first[i] + per_text[i]] = [found.start() for found in _PIECE.finditer(texts[i])]
    return starts
