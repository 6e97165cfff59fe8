"""Searches of a feature set for neighbors within a view of FiftyOne, however many, nearest or farthest first."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from topwork.client import Client
from topwork.features import Array
from topwork.search_results import Hits

#: FiftyOne's names of metrics, and those of a set.
METRICS = {"cosine": "cosine", "dotproduct": "inner_product", "euclidean": "l2"}
#: The column of a set of patches that names their samples.
SAMPLE = "sample_id"
#: Hits that one search gives at the most.
MOST_HITS = 10_000
#: Ids that a filter of a search names at the most; of larger views all hits are looked through.
MOST_FILTERED = 15_000


class Neighbor(NamedTuple):
    """An item of the set, the sample that it is or is a patch of, and its distance: smaller is nearer."""

    id: str
    sample: str
    distance: float


@dataclass
class NeighborSearch:
    """A search of one set; `view` are the ids that may be found, all where it is None."""

    client: Client
    set_name: str
    metric: str
    has_index: bool
    of_patches: bool
    view: Collection[str] | None

    def nearest(self, vectors: Array, k: int | None, within: float | None = None) -> list[list[Neighbor]]:
        """Find for each vector (dim,) of (n, dim) the nearest k items, or all, that are within a distance."""
        settings = self._settings(k, within)
        first = self._hits(vectors, 0, settings)
        return [
            list(islice(self._seen(self._all(vector, hits, settings)), k)) for vector, hits in zip(vectors, first, strict=True)
        ]

    def farthest(self, vectors: Array, k: int | None) -> list[list[Neighbor]]:
        """Find for each vector the farthest k items, or all: those nearest to its opposite. Not by Euclidean distances."""
        return [[one._replace(distance=self._opposite(one.distance)) for one in found] for found in self.nearest(-vectors, k)]

    def _settings(self, k: int | None, within: float | None) -> dict[str, Any]:
        quoted = ", ".join(f"'{one}'" for one in self.view or ())
        is_filtered = self.view is not None and len(self.view) <= MOST_FILTERED
        bounded = min(k or MOST_HITS, MOST_HITS) if is_filtered or self.view is None else MOST_HITS
        metric = {} if self.has_index else {"metric": METRICS[self.metric]}
        where = f"id IN ({quoted})" if is_filtered else ""
        columns = [SAMPLE] if self.of_patches else []
        least = None if within is None else self._distance(within)  # which is its own inverse
        return {"k": bounded, "where": where, "columns": columns, "within": least, **metric}

    def _hits(self, vectors: Array, offset: int, settings: dict[str, Any]) -> list[Hits]:
        """The first hits of each vector, from an offset on."""
        found = self.client.search(self.set_name, vectors=vectors, offset=offset, **settings)
        return [found] if isinstance(found, Hits) else found

    def _all(self, vector: Array, hits: Hits, settings: dict[str, Any]) -> Iterator[Neighbor]:
        """A vector's neighbors in their order, page by page, as many as are read."""
        offset = 0
        while True:
            samples = hits.metadata[SAMPLE] if self.of_patches else hits.ids
            yield from map(Neighbor, hits.ids, samples, map(self._distance, hits.scores.tolist()))
            if len(hits) < settings["k"]:
                return
            offset += len(hits)
            [hits] = self._hits(vector[None], offset, settings)

    def _seen(self, found: Iterator[Neighbor]) -> Iterator[Neighbor]:
        return (one for one in found if self.view is None or one.id in self.view)

    def _distance(self, score: float) -> float:
        """Cosine distance, negative inner product, or Euclidean distance: smaller is nearer."""
        return {"cosine": 1 - score, "dotproduct": -score, "euclidean": score}[self.metric]

    def _opposite(self, distance: float) -> float:
        """The distance of a vector whose opposite has that distance."""
        return 2 - distance if self.metric == "cosine" else -distance
