"""The kinds that are registered, and how a factory string becomes one.

Measured on 100,000 rows by cosine, in one run with 2 threads on 2 cores that others used too (load 2.4 to 3.8), so read ratios:
seconds to build, bytes a row, queries a second one at a time / in batches of 64, and recall at 10, at the first effort that
reaches .95. "tight": 384 numbers, 1,000 clusters that hardly touch; "spread": 384 numbers, 1,000 clusters that share 32
directions and lie into one another; "glove": real word vectors of 50 numbers.

| kind | tight | spread | glove |
|---|---|---|---|
| flat | 0.2 s, 1,536 B, 19 / 1,389, 1.00 | 0.2 s, 1,536 B, 68 / 1,438, 1.00 | 0.1 s, 200 B, 80 / 1,169, 1.00 |
| hnsw | 29.2 s, 1,808 B, 7,090 / 15,713, 0.98 | 42.3 s, 1,808 B, 2,028 / 1,724, 0.99 | 15.5 s, 472 B, 9,819 / 20,619, 0.96 |
| ivf | 3.8 s, 1,560 B, 11,945 / 79,647, 0.97 | 18.6 s, 1,560 B, 935 / 1,050, 0.95 | 3.6 s, 210 B, 4,468 / 6,557, 0.98 |
| ivf-sq8 | 3.7 s, 408 B, 12,498 / 98,451, 0.96 | 9.6 s, 408 B, 1,153 / 1,235, 0.95 | 4.6 s, 60 B, 2,299 / 2,277, 0.97 |
| ivf-pq | 11.4 s, 460 B, 7,376 / 38,297, 0.96 | 40.0 s, 460 B, 683 / 745, 0.96 | 11.4 s, 71 B, 2,481 / 2,610, 0.96 |
"""

from __future__ import annotations

from typing import Any, ClassVar

from topwork_server import NoOptions

from topwork_plugins.faiss_index import build_params
from topwork_plugins.faiss_index.build_params import BuildParams
from topwork_plugins.faiss_index.index import FaissIndex
from topwork_plugins.faiss_index.options import HnswOptions, IvfOptions, PqOptions


class FlatIndex(FaissIndex):
    """Every row, compared exactly: of 10,000 rows of 384 numbers 193 times a second one by one, 4,033 in batches of 64."""

    kind = "flat"

    @classmethod
    def choose_params(cls, rows: int, dim: int, options: NoOptions, target_recall: float) -> BuildParams:
        return build_params.FLAT


class HnswIndex(FaissIndex):
    """A graph over exact rows: the fastest where clusters lie into one another, and the slowest to build; its links take 272
    bytes a row. Under a mask that leaves few rows it compares with all of those: at 50%, 5% and 0.1% of 50,000 "spread" rows the
    least effort had recall .98, .98 and 1."""

    kind = "hnsw"
    options = HnswOptions

    @classmethod
    def choose_params(cls, rows: int, dim: int, options: HnswOptions, target_recall: float) -> BuildParams:
        return build_params.hnsw_params(target_recall, options)


class IvfIndex(FaissIndex):
    """Lists of exact rows around the centres of a k-means. With all lists looked into, masked or not, nothing is missed."""

    kind = "ivf"
    options = IvfOptions

    @classmethod
    def choose_params(cls, rows: int, dim: int, options: IvfOptions, target_recall: float) -> BuildParams:
        return build_params.ivf_params(rows, options, "Flat")


class IvfSq8Index(FaissIndex):
    """As `ivf`, a byte a number: a quarter of the memory, recall at most .98 to .99 of what `ivf` finds."""

    kind = "ivf-sq8"
    options = IvfOptions

    @classmethod
    def choose_params(cls, rows: int, dim: int, options: IvfOptions, target_recall: float) -> BuildParams:
        return build_params.ivf_params(rows, options, "SQ8")


class IvfPqIndex(FaissIndex):
    """Product-quantised codes in lists, and a byte a number beside them to order the candidates by.

    Codes of 8 numbers a byte alone have recall .46 (tight), .75 (spread) and .57 (glove) with all lists looked into, at 76 bytes
    a row of 384 numbers: `refine="none"` is for those whom that suffices. Refined they reach .96 and more, take a tenth more
    memory than `ivf-sq8`, and were measured no faster at the same recall; with all lists of 50,000 rows, half of them masked,
    a search took 2.6 ms where `ivf` took 7.5. SQ6 in place of SQ8 saves a fifth and ended at .93 to .97.
    """

    kind = "ivf-pq"
    options = PqOptions

    @classmethod
    def choose_params(cls, rows: int, dim: int, options: PqOptions, target_recall: float) -> BuildParams:
        return build_params.ivf_pq_params(rows, dim, options, target_recall)


class FactoryIndex(FaissIndex):
    """A factory string of faiss, built as it is said; "Flat" where the rows are too few to train it."""

    factory: ClassVar[str]

    @classmethod
    def choose_params(cls, rows: int, dim: int, options: Any, target_recall: float) -> BuildParams:
        return build_params.factory_params(cls.factory, rows)


def factory_index_class(factory: str) -> type[FactoryIndex]:
    """The class of a factory string; its files are told apart by it."""
    return type("FactoryIndex", (FactoryIndex,), {"factory": factory, "kind": factory, "__doc__": FactoryIndex.__doc__})
