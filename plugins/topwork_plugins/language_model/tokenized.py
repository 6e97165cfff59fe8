"""Texts as tokens: cut into pieces, with the words that the tokens are of, and some texts held out."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from topwork_server import Array, InvalidInput

#: Texts that are tokenized at a time, and the most that are held out.
STEP, MOST_HELD = 256, 2000


@dataclass
class Pieces:
    """Pieces of texts, one after another: their tokens, and the number of the word of each token within its text (-1: none)."""

    ids: array[int] = field(default_factory=lambda: array("i"))
    words: array[int] = field(default_factory=lambda: array("i"))
    starts: array[int] = field(default_factory=lambda: array("q", [0]))

    def add(self, ids: Iterable[int], words: Iterable[int]) -> None:
        self.ids.extend(ids)
        self.words.extend(words)
        self.starts.append(len(self.ids))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def piece(self, number: int) -> tuple[Array, Array]:
        """The tokens (n,) int64 of a piece, and their words (n,) int64."""
        start, end = self.starts[number], self.starts[number + 1]
        return np.array(self.ids[start:end], np.int64), np.array(self.words[start:end], np.int64)


class TextTokenizer:
    """The fast tokenizer of a folder, without special tokens, truncation and padding."""

    def __init__(self, tokenizer: Any, *, lower_case: bool) -> None:
        self._tokenizer, self._lower_case = tokenizer.backend_tokenizer, lower_case
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def special(self) -> tuple[list[int], list[int]]:
        """The tokens before a text and after it."""
        encoding = self._tokenizer.encode("a", add_special_tokens=True)
        own = [position for position, special in enumerate(encoding.special_tokens_mask) if not special]
        return encoding.ids[: own[0]], encoding.ids[own[-1] + 1 :]

    def encode(self, texts: list[str]) -> Iterator[tuple[list[int], list[int]]]:
        """The tokens of each text, and the number of the word of each."""
        lowered = [text.lower() for text in texts] if self._lower_case else texts
        for encoding in self._tokenizer.encode_batch_fast(lowered, add_special_tokens=False):
            yield encoding.ids, [-1 if word is None else word for word in encoding.word_ids]


def check_held_out(texts: Collection[str]) -> None:
    """Raise InvalidInput where there is one text alone, or all are equal."""
    first = next(iter(texts), "")
    if all(text == first for text in texts):
        which = f"all {len(texts):,} texts are equal" if len(texts) > 1 else "there is one text alone"
        raise InvalidInput(f"{which}: none can be held out", remedy="give texts that differ, a line each")


def held_out(texts: Collection[str], part: float, seed: int) -> Callable[[str], bool]:
    """Choose the texts that are held out, by their content: equal ones are on one side. InvalidInput where none would be left."""
    hashes = np.unique(np.fromiter((_hash(text, seed) for text in texts), np.uint32, len(texts)))
    if len(hashes) < 2:  # else two texts have one hash
        check_held_out(texts)
    count = min(MOST_HELD, max(1, round(part * len(hashes))))
    limit = int(hashes[count - 1])
    return lambda text: _hash(text, seed) <= limit


def tokenize(
    texts: Collection[str], tokenizer: TextTokenizer, tokens: int, is_held: Callable[[str], bool], report: Callable[[float], None]
) -> tuple[Pieces, Pieces]:
    """Cut texts into pieces of at most so many tokens: those to learn from, and those that are held out."""
    learned, held = Pieces(), Pieces()
    rest, done = iter(texts), 0
    while chunk := list(islice(rest, STEP)):
        for text, (ids, words) in zip(chunk, tokenizer.encode(chunk), strict=True):
            pieces = held if is_held(text) else learned
            for start in range(0, len(ids), tokens):
                pieces.add(ids[start : start + tokens], words[start : start + tokens])
        done += len(chunk)
        report(done / len(texts))
    if not len(learned) or not len(held):
        raise InvalidInput("the texts have no tokens to learn from", remedy="give more texts, of letters")
    return learned, held


def _hash(text: str, seed: int) -> int:
    return zlib.crc32(text.encode("utf-8", "replace"), seed & 0xFFFFFFFF)
