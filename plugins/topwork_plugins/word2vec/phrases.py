"""Entries of more than one word ("New York", "New_York"): where in a text one may begin, found by its first two words.

    phrases.npy   a byte that says how many words the longest has (0: there are none), then bits: an entry's are at the CRC-32 of
                  its first word, and of its first two

So a text costs one hash a word, and nothing where the vocabulary has no such entries.
"""

from __future__ import annotations

import re
import zlib
from array import array
from pathlib import Path

import numpy as np
from topwork_server import Array

FILE = "phrases.npy"
#: Longer entries are not looked for in texts.
MOST_WORDS = 8
#: Bits for each entry: one pair of words in so many is looked up for nothing.
BITS = 64
_SEPARATOR = re.compile(r"[ _]+")


class Phrases:
    """Index of a table's entries of several words."""

    def __init__(self, stored: Array) -> None:
        self.longest = int(stored[0])
        self._bits = stored[1:].tobytes()
        self._mask = 8 * len(self._bits) - 1

    def may_begin(self, *words: str) -> bool:
        """Tell whether an entry may begin with one word, or with two."""
        place = _place(*words) & self._mask
        return bool(self._bits[place >> 3] >> (place & 7) & 1)


def write(words: bytearray, offsets: array[int], folder: Path) -> None:
    """Write the index of all words, one after another: word i is words[offsets[i]:offsets[i + 1]]."""
    letters = np.frombuffer(words, np.uint8)
    separators = np.flatnonzero((letters == 0x20) | (letters == 0x5F))
    rows = np.unique(np.searchsorted(np.array(offsets, np.int64), separators, "right") - 1)
    places, longest = list[int](), 0
    for row in rows.tolist():
        parts = [part for part in _SEPARATOR.split(words[offsets[row] : offsets[row + 1]].decode("utf-8", "replace")) if part]
        if 1 < len(parts) <= MOST_WORDS and not any(part.isdigit() for part in parts):  # GloVe's formula_1 is a placeholder
            places += [_place(parts[0]), _place(*parts[:2])]
            longest = max(longest, len(parts))
    size = 1 << max(3, (BITS * len(places)).bit_length())
    bits = np.zeros(size, bool)
    bits[np.array(places, np.int64) & (size - 1)] = True
    np.save(folder / FILE, np.concatenate([np.array([longest], np.uint8), np.packbits(bits, bitorder="little")]))


def _place(*words: str) -> int:
    """However they are written."""
    return zlib.crc32(" ".join(words).lower().encode("utf-8", "surrogatepass"))
