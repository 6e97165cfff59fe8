"""Excerpts of what a caller sent, for messages: short and quickly made, however long the value is. Used by the server too."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

#: Characters of a name or of the beginning of a long word, and names of a list, that a message repeats.
LONGEST, MOST = 80, 10
#: Characters of a word without blanks, or of a quote, that a message repeats whole; and of a message.
LONGEST_WORD, LONGEST_TEXT = 300, 10_000
#: Bytes of a message and a remedy on the wire. Together they stay below the 8 KiB of trailing metadata that a client takes by
#: default: a message goes out twice, once with three bytes for each that is not ASCII.
LONGEST_MESSAGE, LONGEST_REMEDY = 1200, 500
_MORE = f"{{{LONGEST_WORD + 1},}}"
_LONG = re.compile(rf"'[^']{_MORE}'|\"[^\"]{_MORE}\"|\S{_MORE}(?<![:;,])")


def shortened(message: str) -> str:
    """The message with an excerpt in the place of each word that is too long to read."""
    if len(message) <= LONGEST_WORD:
        return message
    short = _LONG.sub(lambda found: f"{found[0][:LONGEST]}... ({len(found[0]):,} characters)", message)
    return short if len(short) <= LONGEST_TEXT else f"{short[:LONGEST_TEXT]}..."


def excerpt(value: Any, longest: int = LONGEST) -> str:
    """The value's repr, cut; of a long text, list or map the rest is never looked at."""
    if isinstance(value, str | bytes) and len(value) > longest:
        return f"{value[:longest]!r}... ({len(value):,} {'characters' if isinstance(value, str) else 'bytes'})"
    if isinstance(value, list | tuple | dict) and len(value) > MOST:
        return f"a {type(value).__name__} of {len(value):,}"
    shown = repr(value)
    return shown if len(shown) <= 2 * longest else f"{shown[: 2 * longest]}..."


def cut_bytes(text: str, longest: int) -> str:
    """Cut a text to at most `longest` bytes of valid UTF-8."""
    encoded = text[:longest].encode("utf-8", "replace")
    return encoded[:longest].decode("utf-8", "ignore")


def listed(names: Iterable[str], most: int = MOST) -> str:
    """The first few, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
