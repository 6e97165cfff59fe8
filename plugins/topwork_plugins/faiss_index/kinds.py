"""The kinds that are registered, and how a factory string becomes one.

The figures in the docstrings: 100,000 rows, cosine, 2 threads of a machine that others used too, so read them as ratios. Build in
seconds; bytes a row; queries a second, one at a time / in batches of 64, at the first effort that has recall .95 at 10.
"tight": 384 numbers, 1,000 clusters that hardly touch. "spread": 384 numbers, clusters with 32 directions of their own, which lie
into one another. "glove": 100,000 real word vectors of 50 numbers.

| kind    | tight                    | spread                   | glove                  |
|---------|--------------------------|--------------------------|------------------------|
| flat    | 0.3 s 1,536 B 52 / 1,262 | 0.3 s 1,536 B            | 0.1 s 200 B 539 / 3,161 |
| hnsw    | 43 s 1,808 B 5,892 / 3,711 | 37 s 1,808 B 2,131 / 5,050 | 5.8 s 472 B 7,985 / 24,365 |
| ivf     | 5.5 s 1,560 B 6,294 / 8,065 | 9.5 s 1,560 B 820 / 877 | 0.8 s 210 B 5,133 / 19,418 |
| ivf-sq8 | 4.2 s 408 B 10,227 / 80,338 | 8.9 s 408 B 1,260 / 1,273 | 1.0 s 60 B 2,180 / 4,983 |
| ivf-pq  | 13 s 460 B 6,515 / 3,137 | 36 s 460 B 1,045 / 1,163 | 12 s 71 B 1,189 / 1,181 |
"""

from __future__ import annotations

from typing import Any, ClassVar

from topwork_server import NoOptions

from topwork_plugins.faiss_index import recipes
from topwork_plugins.faiss_index.index import FaissIndex
from topwork_plugins.faiss_index.options import HnswOptions, IvfOptions, PqOptions
from topwork_plugins.faiss_index.recipes import Recipe


class FlatIndex(FaissIndex):
    """Every row, compared exactly. To 10,000 rows of 384 numbers it answers 500 questions a second and more."""

    kind = "flat"

    @classmethod
    def recipe(cls, rows: int, dim: int, options: NoOptions, target_recall: float) -> Recipe:
        return recipes.FLAT


class HnswIndex(FaissIndex):
    """A graph over exact rows: the fastest where clusters lie into one another, six times as long to build as `ivf`, and 272 bytes
    a row for its links. Under a mask that leaves few rows it compares with all of those: recall .984 or more at any share."""

    kind = "hnsw"
    options = HnswOptions

    @classmethod
    def recipe(cls, rows: int, dim: int, options: HnswOptions, target_recall: float) -> Recipe:
        return recipes.hnsw(target_recall, options)


class IvfIndex(FaissIndex):
    """Lists of exact rows around the centres of a k-means. With all lists looked into, masked or not, nothing is missed."""

    kind = "ivf"
    options = IvfOptions

    @classmethod
    def recipe(cls, rows: int, dim: int, options: IvfOptions, target_recall: float) -> Recipe:
        return recipes.ivf(rows, options, "Flat")


class IvfSq8Index(FaissIndex):
    """As `ivf`, a byte a number: a quarter of the memory, recall at most .98 to .99 of what `ivf` finds."""

    kind = "ivf-sq8"
    options = IvfOptions

    @classmethod
    def recipe(cls, rows: int, dim: int, options: IvfOptions, target_recall: float) -> Recipe:
        return recipes.ivf(rows, options, "SQ8")


class IvfPqIndex(FaissIndex):
    """Product-quantised codes in lists, and a byte a number beside them to order the candidates by.

    Codes of 8 numbers a byte have recall .46 (tight), .75 (spread) and .57 (glove) by themselves, at 76 bytes a row of 384 numbers:
    `refine="none"` is for those whom that suffices. With the refinement it is .95 to .99, and memory a tenth above `ivf-sq8`:
    it pays where many lists must be looked into (3 times as fast with all 1,024 of them masked to half of the rows as `ivf`),
    and hardly elsewhere. SQ6 in place of SQ8 saves a quarter and ends at .93 to .97.
    """

    kind = "ivf-pq"
    options = PqOptions

    @classmethod
    def recipe(cls, rows: int, dim: int, options: PqOptions, target_recall: float) -> Recipe:
        return recipes.ivf_pq(rows, dim, options, target_recall)


class FactoryIndex(FaissIndex):
    """A factory string of faiss, built as it is said; "Flat" where the rows are too few to train it."""

    factory: ClassVar[str]

    @classmethod
    def recipe(cls, rows: int, dim: int, options: Any, target_recall: float) -> Recipe:
        return recipes.of_factory(cls.factory, rows)


def of_factory(factory: str) -> type[FactoryIndex]:
    """The class of a factory string; its files are told apart by it."""
    return type("FactoryIndex", (FactoryIndex,), {"factory": factory, "kind": factory, "__doc__": FactoryIndex.__doc__})
