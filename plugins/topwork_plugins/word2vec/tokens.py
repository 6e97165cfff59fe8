"""Text to words of a vocabulary, with their characters.

A word is a run of letters, marks and digits; one of - ' _ . , & / may join two of them, and single letters may each have a full
stop ("u.s."). A word is looked up whole, as it is written, then in Unicode's composed form (NFC), then in lower case. What is
not there is split at its last joint, until all parts are found or have no joint: "well-made" is one word where the vocabulary
has it and two where not. An apostrophe goes with the part that the vocabulary has it with: "don't" is do + n't, "owl's" is
owl + 's, "l'amour" is l' + amour in GloVe. An item without white space is first looked up as a whole, with anything in it:
"New_York", "...", "c++". In a text, too, what stands between white space is first looked up as a whole where it has signs that
neither end sentences nor join words, then a word with the signs around it: "c++", "#1", "(c++),". Entries of several words,
written with spaces or with _, are found before their words. Emoji are words of their own. Other punctuation between words is
left out. Scripts that write no spaces between words (Chinese, Japanese, Thai) need to be split before.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import NamedTuple

from topwork_server import check_caller

from topwork_plugins.word2vec.phrases import Phrases

#: Ends sentences, encloses words: never the last sign of an entry that is looked for in a text. As the first only "." may be.
SENTENCE = ".,;:'\"()[]{}\u2026\u2018\u2019\u201c\u201d\u00ab\u00bb"
#: Signs on each side of a word that may belong to it ("c++", "#1", ".net").
REACH = 3
_ODD = re.compile(rf"[^\w\s\-/&{re.escape(SENTENCE)}]|(?<!\S)\.[^\W_]|(?<!\S)[^\w\s]{{2,}}(?!\S)")
_VARIANT = "\ufe0f"


def has_odd(text: str) -> bool:
    """Tell whether a text has signs other than those that end sentences or join words, or several that stand alone."""
    return _ODD.search(text) is not None


@cache
def symbols() -> re.Pattern[str]:
    """Emoji, as they are joined from several characters, and other symbols that are no mathematics nor money."""
    so = [chr(code) for code in range(0xA0, 0x20000) if unicodedata.category(chr(code)) == "So"]
    flags = "[\U0001f1e6-\U0001f1ff]"
    one = rf"[{re.escape(''.join(so))}][{_VARIANT}\U0001f3fb-\U0001f3ff]*"
    return re.compile(rf"{flags}{flags}|{one}(?:\u200d{one})*")


def ways_of_symbol(symbol: str) -> list[str]:
    """A symbol as it may stand in a vocabulary: as it is written, with and without the mark of an emoji, without its color."""
    bare = symbol.replace(_VARIANT, "")
    plain = re.sub("[\U0001f3fb-\U0001f3ff]", "", bare)
    return list(dict.fromkeys([symbol, bare, bare + _VARIANT, plain, plain + _VARIANT]))


def is_entry(piece: str) -> bool:
    """Tell whether a piece may be looked up as a whole: not where it is one sign, or one sign repeated ("--", "...")."""
    return len(set(piece)) > 1 or piece.isalnum()


def may_end(text: str, start: int, end: int) -> bool:
    """Tell whether an entry that is looked up in a text may be text[start:end]."""
    return (text[start] == "." or text[start] not in SENTENCE) and text[end - 1] not in SENTENCE


UNKNOWN, UNSPLIT = -1, -2
#: Characters that a word with joints may have.
LONGEST = 200
#: Words that are split before it is asked again whether the caller still waits.
STEP = 1024
_SPACE = re.compile(r"\s")
_PIECE = re.compile(r"\S+")
_POSSESSIVE = re.compile("['\u2019]s$")


class Token(NamedTuple):
    """A word's row in the vocabulary, or UNKNOWN, and its half-open span of characters."""

    row: int
    start: int
    end: int


class Tokenizer:
    """Splits texts by what `find(word) -> row or -1` knows.

    `lowercase`: None looks words up as they are written and then in lower case; True in lower case alone; False never.
    """

    def __init__(self, find: Callable[[str], int], lowercase: bool | None = None, phrases: Phrases | None = None) -> None:
        self._find = find
        self._lowercase = lowercase
        self._phrases = phrases if phrases and phrases.longest else None

    def opens(self, piece: str) -> str:
        """The last word of a piece, if an entry of several words may begin with it; else nothing."""
        last = self._words(piece)[-1:] if self._phrases else []
        return last[0] if last and self._phrases and self._phrases.may_begin(last[0]) else ""

    def may_go_on(self, opener: str, piece: str) -> bool:
        """Tell whether an entry of several words may begin with that word and the first of the piece."""
        first = self._words(piece)[:1]
        return bool(first and self._phrases and self._phrases.may_begin(opener, _POSSESSIVE.sub("", first[0])))

    def _words(self, piece: str) -> list[str]:
        return [piece[token.start : token.end] for token in self._units(piece)]

    def tokens(self, text: str) -> list[Token]:
        """The words of a text in their order; none where it has no letter or digit."""
        stripped = text.strip()
        start = text.find(stripped)
        if not _SPACE.search(stripped) and (row := self.row(stripped)) != UNKNOWN:
            return [Token(row, start, start + len(stripped))]
        return self.parts(text)

    def parts(self, text: str) -> list[Token]:
        """Split as `tokens` does, but never take the whole text as one word."""
        found: list[Token] = []
        units = self._units(text)
        for number, token in enumerate(self._joined(text, list(units)) if self._phrases else units):
            if number % STEP == 0:
                check_caller()
            found += self._split(text, token.start, token.end) if token.row == UNSPLIT else [token]
        return found

    def _units(self, text: str) -> Iterable[Token]:
        """Split into units that are looked up as one word, and split further where they are not known."""
        return self._marked(text) if has_odd(text) else (Token(UNSPLIT, *span) for span in _spans(text))

    def _marked(self, text: str) -> Iterator[Token]:
        """Words and symbols of a text that has other signs, too; UNSPLIT where the signs matter not."""
        for number, piece in enumerate(_PIECE.finditer(text)):
            if number % STEP == 0:
                check_caller()
            start, end = piece.span()
            if not has_odd(piece.group()):
                yield from (Token(UNSPLIT, *span) for span in _spans(text, start, end))
            elif whole := self._whole(text, start, end):
                yield whole
            else:
                yield from self._signed(text, start, end)

    def _whole(self, text: str, start: int, end: int) -> Token | None:
        """A piece as one word, if need be without what encloses it."""
        if end - start > LONGEST:
            return None
        inner = text[start:end].rstrip(SENTENCE)
        left = len(inner) - len(inner.lstrip(SENTENCE.replace(".", "")))
        for one in ((start, end), (start + left, start + len(inner))):
            if one[0] < one[1] and is_entry(text[slice(*one)]) and (row := self.row(text[slice(*one)])) != UNKNOWN:
                return Token(row, *one)
        return None

    def _signed(self, text: str, start: int, end: int) -> Iterator[Token]:
        """A piece's words with the signs that belong to them, and its symbols."""
        found = [Token(UNSPLIT, *symbol.span()) for symbol in symbols().finditer(text, start, end)]
        within = {at for symbol in found for at in range(symbol.start, symbol.end)}
        words = [Token(UNSPLIT, *span) for span in _spans(text, start, end) if span[0] not in within]
        bounds = sorted([*found, *words], key=lambda token: token.start)
        done = start
        for i, token in enumerate(bounds):
            following = bounds[i + 1].start if i + 1 < len(bounds) else end
            if token.start in within:
                token = Token(self._row_of_symbol(text[token.start : token.end]), token.start, token.end)
            else:
                token = self._reaching(text, token, done, following)
            done = token.end
            yield token

    def _row_of_symbol(self, symbol: str) -> int:
        return next((row for way in ways_of_symbol(symbol) if (row := self.row(way)) != UNKNOWN), UNKNOWN)

    def _reaching(self, text: str, token: Token, start: int, end: int) -> Token:
        """A word with as many signs around it as the vocabulary has it with."""
        if token.end - token.start > LONGEST:
            return token
        lefts = range(max(start, token.start - REACH), token.start + 1)
        rights = range(token.end, min(end, token.end + REACH) + 1)
        reaches = sorted(((left, right) for left in lefts for right in rights), key=lambda reach: reach[0] - reach[1])
        for left, right in reaches[:-1]:
            if may_end(text, left, right) and (row := self.row(text[left:right])) != UNKNOWN:
                return Token(row, left, right)
        return token

    def _joined(self, text: str, tokens: list[Token]) -> Iterator[Token]:
        """Entries of several words in the place of these."""
        at = 0
        while at < len(tokens):
            found, count = self._phrase(text, tokens[at : at + self._phrases.longest]) if self._phrases else (None, 0)
            yield found or tokens[at]
            at += count or 1
            if found and found.end < tokens[at - 1].end:  # 's
                yield Token(UNSPLIT, found.end, tokens[at - 1].end)

    def _phrase(self, text: str, tokens: list[Token]) -> tuple[Token | None, int]:
        """The longest entry that the first tokens make, and how many these are."""
        words = [text[token.start : token.end] for token in tokens]
        if len(words) < 2 or not self._phrases or not self._phrases.may_begin(words[0], _POSSESSIVE.sub("", words[1])):
            return None, 0
        together = 1
        while together < len(words) and text[tokens[together - 1].end : tokens[together].start].isspace():
            together += 1
        for count in range(together, 1, -1):
            *before, last = words[:count]
            for end in dict.fromkeys([last, _POSSESSIVE.sub("", last)]):
                for joint in " _":
                    if (row := self.row(joint.join([*before, end]))) != UNKNOWN:
                        return Token(row, tokens[0].start, tokens[count - 1].start + len(end)), count
        return None, 0

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
        """Find where the left part ends and the right part begins."""
        if text[joint] in "'\u2019":
            negated = joint - 1  # do|n't
            if text[negated].lower() == "n" and negated > start and self.row(text[negated:end]) != UNKNOWN:
                return negated, negated
            if self.row(text[joint:end]) != UNKNOWN:
                return joint, joint
            if self.row(text[start : joint + 1]) != UNKNOWN:
                return joint + 1, joint + 1
        return joint, joint + 1


def words(text: str) -> list[str]:
    """The words of a text for a vocabulary that is to be made: with their joints, without other signs, in composed form (NFC)."""
    composed = unicodedata.normalize("NFC", text).replace("\u2019", "'")
    return [composed[start:end] for start, end in _spans(composed)]


def _last_joint(text: str, start: int, end: int) -> int:
    """The last joint between two letters or digits of text[start:end], or -1."""
    return next((i for i in range(end - 2, start, -1) if text[i] in "-'\u2019_.,&/"), -1)


def _patterns(piece: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Words with joints, and their parts."""
    return re.compile(rf"(?:[^\W\d_]\.){{2,}}|{piece}(?:[-'\u2019_.,&/]{piece})*"), re.compile(piece)


_PLAIN = _patterns(r"[^\W_]+")


@cache
def _with_marks() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of words with marks: `re` knows no category of marks, and without them Hindi falls to pieces."""
    marks = "".join(chr(code) for code in range(0x300, 0x20000) if unicodedata.category(chr(code)).startswith("M"))
    return _patterns(rf"(?:[^\W_]|[{marks}])+")


def _spans(text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Words with joints; parts at once where a word is too long to be one ("a-a-a-a..."), which bounds the work."""
    # Marks begin at U+0300; without them the search is eight times as fast.
    end = len(text) if end is None else end
    words, parts = _PLAIN if max(text[start:end], default="") < "\u0300" else _with_marks()
    for word in words.finditer(text, start, end):
        if word.end() - word.start() <= LONGEST:
            yield word.span()
        else:
            yield from (part.span() for part in parts.finditer(text, *word.span()))
