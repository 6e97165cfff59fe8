"""Text to words of a vocabulary, with their characters.

A word is a run of letters, marks and digits; one of - ' _ . , & / may join two of them, and single letters may each have a full
stop ("u.s."). A word is looked up whole, as it is written, then in Unicode's composed form (NFC), then in lower case. What is
not there is split at its last joint, until all parts are found or have no joint: "well-made" is one word where the vocabulary
has it and two where not. An apostrophe goes with the part that the vocabulary has it with: "don't" is do + n't, "owl's" is
owl + 's, "l'amour" is l' + amour in GloVe. An item without white space is first looked up as a whole, whatever is in it:
"New_York", "...", "c++". Punctuation between words is left out. Scripts that write no spaces between words (Chinese, Japanese,
Thai) need to be split before.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import NamedTuple

from topwork_server import check_caller

UNKNOWN = -1
#: Characters that a word with joints may have.
LONGEST = 200
#: Words that are split before it is asked again whether the caller still waits.
STEP = 1024
_SPACE = re.compile(r"\s")


class Token(NamedTuple):
    """A word's row in the vocabulary, or UNKNOWN, and its half-open span of characters."""

    row: int
    start: int
    end: int


class Tokenizer:
    """Splits texts by what `find(word) -> row or -1` knows.

    `lowercase`: None looks words up as they are written and then in lower case; True in lower case alone; False never.
    """

    def __init__(self, find: Callable[[str], int], lowercase: bool | None = None) -> None:
        self._find = find
        self._lowercase = lowercase

    def tokens(self, text: str) -> list[Token]:
        """The words of a text in their order; none where it has no letter or digit."""
        stripped = text.strip()
        start = text.find(stripped)
        if not _SPACE.search(stripped) and (row := self.row(stripped)) != UNKNOWN:
            return [Token(row, start, start + len(stripped))]
        return self.parts(text)

    def parts(self, text: str) -> list[Token]:
        """As `tokens`, but never the whole text as one word."""
        found: list[Token] = []
        for number, span in enumerate(_spans(text)):
            if number % STEP == 0:
                check_caller()
            found += self._split(text, *span)
        return found

    def row(self, word: str) -> int:
        """The row of the first way of writing the word that is known, or UNKNOWN."""
        if not self._lowercase and (row := self._find(word)) != UNKNOWN:
            return row
        return next((row for way in self._ways(word) if (row := self._find(way)) != UNKNOWN), UNKNOWN)

    def _ways(self, word: str) -> Iterable[str]:
        ways = [word]
        if not word.isascii():
            ways += [unicodedata.normalize("NFC", word), word.replace("\u2019", "'")]
        if self._lowercase is not False:
            lower = [way.lower() for way in ways]
            ways = lower if self._lowercase else ways + lower
        return dict.fromkeys(ways)

    def _split(self, text: str, start: int, end: int) -> Iterator[Token]:
        row = self.row(text[start:end])
        joint = -1 if row != UNKNOWN else _last_joint(text, start, end)
        if row == UNKNOWN and text[end - 1] == ".":
            yield from self._split(text, start, end - 1)
        elif joint < 0:
            yield Token(row, start, end)
        else:
            left, right = self._cut(text, start, joint, end)
            yield from self._split(text, start, left)
            yield from self._split(text, right, end)

    def _cut(self, text: str, start: int, joint: int, end: int) -> tuple[int, int]:
        """Where the left part ends and the right part begins."""
        if text[joint] in "'\u2019":
            negated = joint - 1  # do|n't
            if text[negated].lower() == "n" and negated > start and self.row(text[negated:end]) != UNKNOWN:
                return negated, negated
            if self.row(text[joint:end]) != UNKNOWN:
                return joint, joint
            if self.row(text[start : joint + 1]) != UNKNOWN:
                return joint + 1, joint + 1
        return joint, joint + 1


def _last_joint(text: str, start: int, end: int) -> int:
    """The last joint between two letters or digits of text[start:end], or -1."""
    return next((i for i in range(end - 2, start, -1) if text[i] in "-'\u2019_.,&/"), -1)


def _patterns(piece: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Words with joints, and their parts."""
    return re.compile(rf"(?:[^\W\d_]\.){{2,}}|{piece}(?:[-'\u2019_.,&/]{piece})*"), re.compile(piece)


_PLAIN = _patterns(r"[^\W_]+")


@cache
def _with_marks() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """`re` knows no category of marks, and without them Hindi falls to pieces."""
    marks = "".join(chr(code) for code in range(0x300, 0x20000) if unicodedata.category(chr(code)).startswith("M"))
    return _patterns(rf"(?:[^\W_]|[{marks}])+")


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Words with joints; parts at once where a word is too long to be one ("a-a-a-a..."), which bounds the work."""
    # Marks begin at U+0300; without them the search is eight times as fast.
    words, parts = _PLAIN if max(text, default="") < "\u0300" else _with_marks()
    for word in words.finditer(text):
        if word.end() - word.start() <= LONGEST:
            yield word.span()
        else:
            yield from (part.span() for part in parts.finditer(text, *word.span()))
