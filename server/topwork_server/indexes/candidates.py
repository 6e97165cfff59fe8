"""Tables of candidates, one line a query: concatenated, deduplicated, ordered, and turned into hits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.indexes.index_types import SearchHits
from topwork_server.indexes.prepared_query import NO_MATCH, PreparedQuery
from topwork_server.plugin_api.vector_index import Metric
from topwork_server.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """Candidates, one line a query, `width` each, in any order: similarity (q, width) float32, NO_MATCH where there is none; keys
    (q, width) int64; numbers (q, width) int32: which of its item's rows."""

    similarity: Array
    keys: Array
    numbers: Array

    @property
    def width(self) -> int:
        return int(self.similarity.shape[1])

    def concat(self, other: TopK) -> TopK:
        if not other.width:
            return self
        return TopK(*(np.concatenate([getattr(self, n), getattr(other, n)], axis=1) for n in ("similarity", "keys", "numbers")))

    def gather(self, places: Array) -> TopK:
        """Take the candidates at `places` (q, n) of each line."""
        return TopK(*(np.take_along_axis(getattr(self, n), places, axis=1) for n in ("similarity", "keys", "numbers")))

    def select_queries(self, lines: Array) -> TopK:
        """Take some of the lines."""
        return TopK(self.similarity[lines], self.keys[lines], self.numbers[lines])

    def assign(self, lines: Array, other: TopK) -> None:
        """Overwrite those lines with the other's, which is as wide or narrower."""
        self.similarity[lines] = NO_MATCH
        for name in ("similarity", "keys", "numbers"):
            getattr(self, name)[lines, : other.width] = getattr(other, name)

    def mask_out(self, drop: Array) -> TopK:
        """Drop the candidates that `drop` (q, width) bool marks."""
        return TopK(np.where(drop, NO_MATCH, self.similarity), self.keys, self.numbers)

    def top(self, k: int) -> TopK:
        """Keep the k most similar, best first; of equals the smaller key, then the earlier row."""
        falling = bool((self.similarity[:, 1:] < self.similarity[:, :-1]).all())
        if falling:  # an index answers in order: nothing to sort
            return TopK(self.similarity[:, :k], self.keys[:, :k], self.numbers[:, :k])
        return self.gather(np.lexsort((self.numbers, self.keys, -self.similarity), axis=1)[:, :k])

    def deduplicate(self, every_row: bool) -> TopK:
        """Keep the best candidate of each item (with `every_row`, of each row)."""
        inner = (self.numbers, -self.similarity) if not every_row else (-self.similarity, self.numbers)
        ordered = self.gather(np.lexsort((*inner, self.keys), axis=1))
        double = np.zeros(ordered.similarity.shape, bool)
        double[:, 1:] = ordered.keys[:, 1:] == ordered.keys[:, :-1]
        if every_row:
            double[:, 1:] &= ordered.numbers[:, 1:] == ordered.numbers[:, :-1]
        return ordered.mask_out(double)

    def merge_groups(self, starts: Array) -> TopK:
        """Join the lines from each start to the next into one line."""
        lengths = np.diff(starts, append=len(self.similarity))
        line = np.repeat(np.arange(len(starts)), lengths)
        place = np.arange(len(self.similarity)) - np.repeat(starts, lengths)
        shape = (len(starts), int(lengths.max(initial=0)), self.width)
        wide = empty_top_k(shape)
        for name in ("similarity", "keys", "numbers"):
            getattr(wide, name)[line, place] = getattr(self, name)
        return TopK(*(getattr(wide, n).reshape(len(starts), -1) for n in ("similarity", "keys", "numbers")))


def empty_top_k(shape: tuple[int, ...]) -> TopK:
    """Return a table of that shape without candidates."""
    return TopK(np.full(shape, NO_MATCH, np.float32), np.full(shape, -1, np.int64), np.zeros(shape, np.int32))


def to_search_hits(top: TopK, query: PreparedQuery, version: int, how: str) -> SearchHits:
    """Turn ordered candidates into the hits of a search. InvalidInput where a score of a query is infinite."""
    good = top.similarity > NO_MATCH
    if query.min_similarity > NO_MATCH:
        good &= top.similarity >= query.min_similarity
    counts = good.sum(axis=1)
    similarity = top.similarity[good]
    if len(overflow := np.flatnonzero((top.similarity == np.inf).any(axis=1))):
        item = int(overflow[0] if query.slots is None else query.slots[overflow[0]])
        raise InvalidInput(
            f"its {query.metric} with a row of the set is more than float32 holds",
            remedy="search by cosine, or for vectors of usual lengths",
            item=item,
        )
    if query.slots is not None:
        spread = np.zeros(query.queries, counts.dtype)
        spread[query.slots] = counts
        counts = spread
    scores = -similarity if query.metric is Metric.L2 else similarity
    return SearchHits(counts, top.keys[good], top.numbers[good], scores + np.float32(0), version, how)
