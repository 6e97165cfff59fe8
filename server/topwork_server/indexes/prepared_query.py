"""Queries ready to search: checked, of unit length where the metric is cosine, and in terms of *nearness*, which is larger the
nearer: the score itself, or minus the distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.features import starts_of
from topwork_server.indexes.index_types import MOST_HITS, SearchQuery
from topwork_server.inference.output_format import normalize
from topwork_server.plugin_api.vector_index import Metric
from topwork_server.types import Array

#: Hits of all queries of one search together: 160 MB.
MOST_HITS_IN_ALL = 10_000_000
#: Longest vector whose squared distance to one as long float32 still holds.
LONGEST = 9e18
#: Nearness of what is not there.
NO_MATCH = np.float32(-np.inf)


@dataclass(frozen=True, slots=True, eq=False)
class PreparedQuery:
    """Checked queries. `vectors` (v, dim) float32; those from `starts[i]` to `starts[i + 1]` are of the i-th query that has any,
    and `slots[i]` is its place among the `queries` of the request (None for both: each query is one vector). `min_similarity` is
    the nearness that a hit must have. `without` (i,) int64 or None."""

    vectors: Array
    metric: Metric
    k: int
    starts: Array | None = None
    slots: Array | None = None
    queries: int = 0
    min_similarity: np.float32 = NO_MATCH
    without: Array | None = None
    every_row: bool = False

    @property
    def searched(self) -> int:
        """Number of queries that have a vector."""
        return len(self.vectors) if self.starts is None else len(self.starts)

    @property
    def query_of_vector(self) -> Array:
        """Number of the searched query that each vector belongs to."""
        if self.starts is None:
            return np.arange(len(self.vectors))
        return np.repeat(np.arange(len(self.starts)), np.diff(self.starts, append=len(self.vectors)))

    def select_vectors(self, vectors: Array) -> PreparedQuery:
        """Make each of some vectors a query of its own, for rows of any items."""
        return PreparedQuery(self.vectors[vectors], self.metric, self.k, queries=len(vectors), every_row=True)

    def select_queries(self, queries: Array) -> PreparedQuery:
        """Keep some of the searched queries only (ascending numbers)."""
        without = None if self.without is None else self.without[queries]
        if self.starts is None:
            return PreparedQuery(
                self.vectors[queries], self.metric, self.k, None, None, len(queries), self.min_similarity, without, self.every_row
            )
        lengths = np.diff(self.starts, append=len(self.vectors))[queries]
        vectors = self.vectors[np.isin(self.query_of_vector, queries)]
        starts = starts_of(lengths)
        return PreparedQuery(
            vectors, self.metric, self.k, starts, None, len(queries), self.min_similarity, without, self.every_row
        )


def prepare_query(query: SearchQuery, metric: Metric, dim: int) -> PreparedQuery:
    """Check and prepare a query. Raises InvalidInput for vectors of another dimension, numbers that are not finite, a zero vector
    under cosine (its query is the error's item), a k that is not in 1 .. MOST_HITS, or more hits than fit in one answer."""
    if not 1 <= query.k <= MOST_HITS:
        raise InvalidInput(f"k = {query.k}", remedy=f"ask for 1 to {MOST_HITS} hits")
    if query.vectors.ndim != 2 or query.vectors.shape[1] != dim:
        raise InvalidInput(f"query vectors of shape {query.vectors.shape}", remedy=f"the index has vectors of {dim} numbers")
    groups = np.asarray(query.groups, np.int64)
    vectors = _checked(query.vectors, groups, metric)
    queries = count_queries(query)
    check_hit_count(queries, query.k)
    without = None if query.without is None or not (query.without >= 0).any() else np.asarray(query.without, np.int64)
    starts = slots = None
    if queries != len(groups) or (groups[1:] == groups[:-1]).any():
        slots, starts = np.unique(groups, return_index=True)
        without = None if without is None else without[slots]
    return PreparedQuery(vectors, metric, query.k, starts, slots, queries, _least(query.within, metric), without, query.every_row)


def check_hit_count(queries: int, k: int) -> None:
    """Raise InvalidInput where an answer could have more hits than are made at once."""
    if queries * k > MOST_HITS_IN_ALL:
        most = f"ask for {MOST_HITS_IN_ALL:,} hits at most at once"
        raise InvalidInput(f"{queries:,} queries of {k:,} hits each", remedy=most)


def count_queries(query: SearchQuery) -> int:
    """Count the queries, with those that have no vector."""
    return max(int(query.groups[-1]) + 1 if len(query.groups) else 0, 0 if query.without is None else len(query.without))


def _checked(vectors: Array, groups: Array, metric: Metric) -> Array:
    ready = np.ascontiguousarray(vectors, np.float32)
    if not np.isfinite(ready).all():
        blamed = int(groups[np.flatnonzero(~np.isfinite(ready).all(axis=1))[0]])
        raise InvalidInput("the query vector has numbers that are not finite", remedy="send finite numbers", item=blamed)
    if metric is not Metric.COSINE:
        _check_lengths(ready, groups, metric)
        return ready
    if not (present := ready.any(axis=1)).all():
        blamed = int(groups[np.flatnonzero(~present)[0]])
        raise InvalidInput(
            "a vector of zeros has no cosine", remedy="send another vector, or use inner_product or l2", item=blamed
        )
    return normalize(ready)


def _check_lengths(vectors: Array, groups: Array, metric: Metric) -> None:
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    for vector in np.flatnonzero(lengths > LONGEST)[:1]:
        raise InvalidInput(
            f"the query vector is {lengths[vector]:.3g} long: float32 does not hold its scores by {metric}",
            remedy=f"send vectors of a length up to {LONGEST:g}, or search by cosine",
            item=int(groups[vector]),
        )


def _least(within: float | None, metric: Metric) -> np.float32:
    if within is None:
        return NO_MATCH
    if np.isnan(within):
        raise InvalidInput("within is not a number", remedy="send a score, or a distance for l2")
    return np.float32(-within if metric is Metric.L2 else within)
