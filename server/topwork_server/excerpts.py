"""What a caller sent, as a message may repeat it: short, and quickly made, however long it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

#: Characters of a name, and names of a list, that a message repeats.
LONGEST, MOST = 80, 10
#: Bytes of a message and a remedy. Together they stay below the 8 KiB of trailing metadata that a client takes by default: a
#: message goes out twice, once with three bytes for each that is not ASCII.
LONGEST_MESSAGE, LONGEST_REMEDY = 1200, 500


def excerpt(value: Any, longest: int = LONGEST) -> str:
    """The value's repr, cut; of a long text, list or map the rest is never looked at."""
    if isinstance(value, str | bytes) and len(value) > longest:
        return f"{value[:longest]!r}... ({len(value):,} {'characters' if isinstance(value, str) else 'bytes'})"
    if isinstance(value, list | tuple | dict) and len(value) > MOST:
        return f"a {type(value).__name__} of {len(value):,}"
    said = repr(value)
    return said if len(said) <= 2 * longest else f"{said[: 2 * longest]}..."


def cut_bytes(text: str, longest: int) -> str:
    """So many bytes of UTF-8 at most, and nothing that UTF-8 does not have."""
    encoded = text[:longest].encode("utf-8", "replace")
    return encoded[:longest].decode("utf-8", "ignore")


def listed(names: Iterable[str], most: int = MOST) -> str:
    """The first few, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
