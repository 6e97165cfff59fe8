"""What a caller sent, as a message may repeat it: short, and quickly made, however long it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

#: Characters of a name, and names of a list, that a message repeats.
LONGEST, MOST = 80, 10


def excerpt(value: Any, longest: int = LONGEST) -> str:
    """The value's repr, cut; of a long text, list or map the rest is never looked at."""
    if isinstance(value, str | bytes) and len(value) > longest:
        return f"{value[:longest]!r}... ({len(value):,} {'characters' if isinstance(value, str) else 'bytes'})"
    if isinstance(value, list | tuple | dict) and len(value) > MOST:
        return f"a {type(value).__name__} of {len(value):,}"
    said = repr(value)
    return said if len(said) <= 2 * longest else f"{said[: 2 * longest]}..."


def listed(names: Iterable[str], most: int = MOST) -> str:
    """The first few, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
