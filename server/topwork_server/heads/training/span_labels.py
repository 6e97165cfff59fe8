"""Spans of characters as labels write them, and the rows that they cover."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.types import Array

#: (start, end) or (start, end, label): Unicode code points, half-open.
TAGGED = re.compile(r"([0-9]{1,9}):([0-9]{1,9}):(.*\S.*)", re.DOTALL)
ANSWER = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")
TAGGED_FORM = "write 'start:end:LABEL' in characters of the text, counted from 0, the end not included: '0:5:PER'"
ANSWER_FORM = "write 'start:end' in characters of the context, counted from 0, the end not included: '17:23'"


def tagged(written: Sequence[str | None]) -> list[tuple[int, int, str]]:
    """Spans of one text, in order. InvalidInput for one that is badly written, or overlaps another."""
    spans = []
    for one in written:
        match = TAGGED.fullmatch(one or "")
        if match is None:
            raise InvalidInput(f"{one!r:.80} is not a span", remedy=TAGGED_FORM)
        spans.append((*_ends(one, match, TAGGED_FORM), match[3]))
    spans.sort()
    for (_, end, before), (start, _, after) in pairwise(spans):
        if start < end:
            raise InvalidInput(
                f"spans overlap: {before!r} goes to character {end}, and {after!r} begins at {start}",
                remedy="a token has one tag: leave one of them out, or train a head for each",
            )
    return spans


def answers(written: Sequence[str | None]) -> list[tuple[int, int]]:
    """List the right answers of one question, each once, in order."""
    found = set()
    for one in written:
        match = ANSWER.fullmatch(one or "")
        if match is None:
            raise InvalidInput(f"{one!r:.80} is not an answer", remedy=ANSWER_FORM)
        found.add(_ends(one, match, ANSWER_FORM))
    return sorted(found)


def _ends(written: str | None, match: re.Match[str], form: str) -> tuple[int, int]:
    start, end = int(match[1]), int(match[2])
    if start >= end:
        raise InvalidInput(f"the span {written!r:.80} is empty: it ends at {end}, and begins at {start}", remedy=form)
    return start, end


def covered(start: int, end: int, chars: Array) -> tuple[int, int]:
    """Return the rows (from, to) that cover any character of a span; `chars` (rows, 2) are what they cover, in order. Empty
    where none do.

    The rows between the first and the last of them count too, though they cover no character.
    """
    touching = np.flatnonzero((chars[:, 0] < end) & (chars[:, 1] > start))
    return (int(touching[0]), int(touching[-1]) + 1) if len(touching) else (0, 0)


def rows_of_tags(spans: Iterable[tuple[int, int, int]], chars: Array) -> tuple[list[tuple[int, int, int]], int]:
    """Spans of rows (half-open, label index) from spans of characters, and how many have no row of their own. A row that two
    spans share is the first one's."""
    found, lost, free = [], 0, 0
    for start, end, label in spans:
        first, last = covered(start, end, chars)
        first = max(first, free)
        if first < last:
            found.append((first, last, label))
            free = last
        else:
            lost += 1
    return found, lost


def values_of_answers(spans: Iterable[tuple[int, int]], chars: Array) -> Array:
    """Mark the first and the last row of each right answer with 1, (rows, 2) float32; all zeros where no row covers one."""
    values = np.zeros((len(chars), 2), np.float32)
    for start, end in spans:
        first, last = covered(start, end, chars)
        if first < last:
            values[first, 0] = values[last - 1, 1] = 1
    return values
