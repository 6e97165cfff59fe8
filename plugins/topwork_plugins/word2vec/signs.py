"""Signs in a text that are no letters: which may belong to a word, and which are words of their own (emoji)."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

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
