"""Candidates of each query in one table, and what is done with such tables: join, drop doubles, order, and answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.indexes.asked import NOWHERE, Asked
from topwork_server.indexes.model import Hits
from topwork_server.types import Array
from topwork_server.vector_index import Metric


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One line a query, `width` candidates each, in any order: near (q, width) float32, NOWHERE where there is none; keys
    (q, width) int64; numbers (q, width) int32: which of its item's rows."""

    near: Array
    keys: Array
    numbers: Array

    @property
    def width(self) -> int:
        return int(self.near.shape[1])

    def beside(self, other: Found) -> Found:
        if not other.width:
            return self
        return Found(*(np.concatenate([getattr(self, n), getattr(other, n)], axis=1) for n in ("near", "keys", "numbers")))

    def at(self, places: Array) -> Found:
        """The candidates at places (q, n) of each line."""
        return Found(*(np.take_along_axis(getattr(self, n), places, axis=1) for n in ("near", "keys", "numbers")))

    def of(self, lines: Array) -> Found:
        """Some lines only."""
        return Found(self.near[lines], self.keys[lines], self.numbers[lines])

    def put(self, lines: Array, other: Found) -> None:
        """Those lines become the other's, which is as wide or narrower."""
        self.near[lines] = NOWHERE
        for name in ("near", "keys", "numbers"):
            getattr(self, name)[lines, : other.width] = getattr(other, name)

    def lacking(self, drop: Array) -> Found:
        """Without those that `drop` (q, width) bool marks."""
        return Found(np.where(drop, NOWHERE, self.near), self.keys, self.numbers)

    def best(self, k: int) -> Found:
        """The k best, nearest first; of equals the smaller key, then the earlier row."""
        falling = bool((self.near[:, 1:] < self.near[:, :-1]).all())
        if falling:  # the usual answer of an index: nothing to do
            return Found(self.near[:, :k], self.keys[:, :k], self.numbers[:, :k])
        return self.at(np.lexsort((self.numbers, self.keys, -self.near), axis=1)[:, :k])

    def once(self, every_row: bool) -> Found:
        """Each item once (or, of `every_row`, each row once) with its best candidate."""
        inner = (self.numbers, -self.near) if not every_row else (-self.near, self.numbers)
        ordered = self.at(np.lexsort((*inner, self.keys), axis=1))
        double = np.zeros(ordered.near.shape, bool)
        double[:, 1:] = ordered.keys[:, 1:] == ordered.keys[:, :-1]
        if every_row:
            double[:, 1:] &= ordered.numbers[:, 1:] == ordered.numbers[:, :-1]
        return ordered.lacking(double)

    def gathered(self, starts: Array) -> Found:
        """Lines from one start to the next become one line."""
        lengths = np.diff(starts, append=len(self.near))
        line = np.repeat(np.arange(len(starts)), lengths)
        place = np.arange(len(self.near)) - np.repeat(starts, lengths)
        shape = (len(starts), int(lengths.max(initial=0)), self.width)
        wide = empty(shape)
        for name in ("near", "keys", "numbers"):
            getattr(wide, name)[line, place] = getattr(self, name)
        return Found(*(getattr(wide, n).reshape(len(starts), -1) for n in ("near", "keys", "numbers")))


def empty(shape: tuple[int, ...]) -> Found:
    """A table of that shape with nothing in it."""
    return Found(np.full(shape, NOWHERE, np.float32), np.full(shape, -1, np.int64), np.zeros(shape, np.int32))


def hits(found: Found, asked: Asked, version: int, how: str) -> Hits:
    """The answer, from candidates in their order."""
    good = found.near > NOWHERE
    if asked.least > NOWHERE:
        good &= found.near >= asked.least
    counts = good.sum(axis=1)
    near = found.near[good]
    if asked.slots is not None:
        spread = np.zeros(asked.queries, counts.dtype)
        spread[asked.slots] = counts
        counts = spread
    scores = -near if asked.metric is Metric.L2 else near
    return Hits(counts, found.keys[good], found.numbers[good], scores + np.float32(0), version, how)
