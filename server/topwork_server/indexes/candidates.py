"""Candidates of each query in one table, and what is done with such tables: join, drop doubles, order, and answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.indexes.index_types import SearchHits
from topwork_server.indexes.prepared_query import NOWHERE, PreparedQuery
from topwork_server.plugin_api.vector_index import Metric
from topwork_server.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """One line a query, `width` candidates each, in any order: near (q, width) float32, NOWHERE where there is none; keys
    (q, width) int64; numbers (q, width) int32: which of its item's rows."""

    near: Array
    keys: Array
    numbers: Array

    @property
    def width(self) -> int:
        return int(self.near.shape[1])

    def beside(self, other: TopK) -> TopK:
        if not other.width:
            return self
        return TopK(*(np.concatenate([getattr(self, n), getattr(other, n)], axis=1) for n in ("near", "keys", "numbers")))

    def at(self, places: Array) -> TopK:
        """The candidates at places (q, n) of each line."""
        return TopK(*(np.take_along_axis(getattr(self, n), places, axis=1) for n in ("near", "keys", "numbers")))

    def of(self, lines: Array) -> TopK:
        """Some lines only."""
        return TopK(self.near[lines], self.keys[lines], self.numbers[lines])

    def put(self, lines: Array, other: TopK) -> None:
        """Those lines become the other's, which is as wide or narrower."""
        self.near[lines] = NOWHERE
        for name in ("near", "keys", "numbers"):
            getattr(self, name)[lines, : other.width] = getattr(other, name)

    def lacking(self, drop: Array) -> TopK:
        """Without those that `drop` (q, width) bool marks."""
        return TopK(np.where(drop, NOWHERE, self.near), self.keys, self.numbers)

    def best(self, k: int) -> TopK:
        """The k best, nearest first; of equals the smaller key, then the earlier row."""
        falling = bool((self.near[:, 1:] < self.near[:, :-1]).all())
        if falling:  # the usual answer of an index: nothing to do
            return TopK(self.near[:, :k], self.keys[:, :k], self.numbers[:, :k])
        return self.at(np.lexsort((self.numbers, self.keys, -self.near), axis=1)[:, :k])

    def once(self, every_row: bool) -> TopK:
        """Each item once (or, of `every_row`, each row once) with its best candidate."""
        inner = (self.numbers, -self.near) if not every_row else (-self.near, self.numbers)
        ordered = self.at(np.lexsort((*inner, self.keys), axis=1))
        double = np.zeros(ordered.near.shape, bool)
        double[:, 1:] = ordered.keys[:, 1:] == ordered.keys[:, :-1]
        if every_row:
            double[:, 1:] &= ordered.numbers[:, 1:] == ordered.numbers[:, :-1]
        return ordered.lacking(double)

    def gathered(self, starts: Array) -> TopK:
        """Lines from one start to the next become one line."""
        lengths = np.diff(starts, append=len(self.near))
        line = np.repeat(np.arange(len(starts)), lengths)
        place = np.arange(len(self.near)) - np.repeat(starts, lengths)
        shape = (len(starts), int(lengths.max(initial=0)), self.width)
        wide = empty(shape)
        for name in ("near", "keys", "numbers"):
            getattr(wide, name)[line, place] = getattr(self, name)
        return TopK(*(getattr(wide, n).reshape(len(starts), -1) for n in ("near", "keys", "numbers")))


def empty(shape: tuple[int, ...]) -> TopK:
    """A table of that shape with nothing in it."""
    return TopK(np.full(shape, NOWHERE, np.float32), np.full(shape, -1, np.int64), np.zeros(shape, np.int32))


def hits(found: TopK, asked: PreparedQuery, version: int, how: str) -> SearchHits:
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
    return SearchHits(counts, found.keys[good], found.numbers[good], scores + np.float32(0), version, how)
