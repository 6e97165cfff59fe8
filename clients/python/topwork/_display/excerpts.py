"""Messages that repeat what a caller sent: long words (paths, names) and long quotes are cut, and the message ends somewhere."""

from __future__ import annotations

import re

#: Characters of a word without blanks, or of a quote, that a message repeats whole, and of a longer one's beginning; and of a
#: message.
LONGEST_WORD, BEGINNING, LONGEST_MESSAGE = 300, 80, 10_000
_MORE = f"{{{LONGEST_WORD + 1},}}"
_LONG = re.compile(rf"'[^']{_MORE}'|\"[^\"]{_MORE}\"|\S{_MORE}(?<![:;,])")


def shortened(message: str) -> str:
    """The message with an excerpt in the place of each word that is too long to read."""
    if len(message) <= LONGEST_WORD:
        return message
    short = _LONG.sub(lambda found: f"{found[0][:BEGINNING]}... ({len(found[0]):,} characters)", message)
    return short if len(short) <= LONGEST_MESSAGE else f"{short[:LONGEST_MESSAGE]}..."
