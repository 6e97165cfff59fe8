"""Finds sentences by their punctuation, in any language: a small rule without a model.

A sentence ends at . ! ? or their like in other scripts, with the quotes and brackets that close behind it, and at an empty line.
The marks of scripts that are written without blanks end one wherever they stand; the others only before a blank, and before no
small letter. A full stop ends none after an abbreviation of the list here or of single letters (J. Smith, z.B.), or a number of
one or two digits (am 3. Mai). Where the rule is wrong it mostly leaves two sentences together.
"""

from __future__ import annotations

import re

#: Marks before a blank: of Latin, Greek and Cyrillic writing with ellipses and doubled marks, Arabic and Urdu, Armenian,
#: Devanagari, Burmese, Ethiopic, Khmer, Tibetan.
_SPACED = ".!?\u2026\u203d\u2047-\u2049\u061f\u06d4\u0589\u0964\u0965\u104b\u1362\u1367\u17d4\u0f0d"
#: Marks that need no blank, of Chinese and Japanese, and what closes behind a mark: quotes and brackets.
_UNSPACED = "\u3002\uff01\uff1f\uff61\uff0e"
_CLOSING = "[\"')\\]}\u00bb\u2018\u2019\u201c\u201d\u203a\u3009\u300b\u300d\u300f\u3011\uff09]*"
_END = re.compile(rf"(?P<stop>\.){_CLOSING}(?=\s)|(?P<spaced>[{_SPACED}]+){_CLOSING}(?=\s)|[{_UNSPACED}]+{_CLOSING}|\n[^\S\n]*\n")
_WORD_BEFORE = re.compile(r"[\w.\-]*\Z")
_INITIALS = re.compile(r"(\w{1,2}\.)*\w")
_ABBREVIATIONS = frozenset(
    """
    abs al approx apr assoc aufl aug ave bd betr blvd bspw bsp bzgl bzw ca capt cf col corp dec dept dez dipl dr dra
    eds etc evtl feb fig figs geb gen ggf gov hon hrsg inc inkl jan jr jul jun kap lt ltd messrs mio mlle mme mr mrd
    mrs ms mt no nov nr oct okt pp prof prov pt sec sen sep sept sgt spp sr sra srta st sta ste tel univ usw vgl viz
    vol vols vs zzgl
    """.split()
)
#: How many characters before and behind a mark are looked at.
_NEAR = 24


def sentences(text: str) -> list[tuple[int, int]]:
    """Return the half-open ranges of characters of a text's sentences, in order, without the blanks around them. What a text has
    but blanks is in one of them."""
    found, start = [], 0
    for match in _END.finditer(text):
        if (match["stop"] or match["spaced"]) and not _ends(text, match):
            continue
        found.append((start, match.end()))
        start = match.end()
    found.append((start, len(text)))
    return [trimmed for one in found if (trimmed := _trimmed(text, *one))]


def _ends(text: str, mark: re.Match[str]) -> bool:
    """Tell whether a mark with a blank behind it ends a sentence."""
    if text[mark.end() : mark.end() + _NEAR].lstrip()[:1].islower():
        return False
    if not mark["stop"]:
        return True
    found = _WORD_BEFORE.search(text[max(0, mark.start() - _NEAR) : mark.start()])
    word = found[0] if found else ""
    if word.isdigit():
        return len(word) > 2
    return not (_INITIALS.fullmatch(word) or word.casefold() in _ABBREVIATIONS)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    part = text[start:end]
    begin = start + len(part) - len(part.lstrip())
    return (begin, begin + len(part.strip())) if part.strip() else None
