"""Indexes on FAISS (Douze et al. 2024, "The Faiss library"): five kinds by name, and any factory string.

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

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from topwork_server import IndexSpec, InvalidInput, NoOptions, hookimpl, option

from topwork_plugins.faiss_index import library
from topwork_plugins.faiss_index.index import FLAT, BuildParams, FaissIndex

#: Rows from which "auto" leaves exact search for lists (one question then takes 5 ms at 384 numbers on a busy core, and 15 to
#: 50 at 100,000 rows), and lists of exact rows for a byte a number (they pass 3 GB at 384 numbers, where SQ8 was as fast or
#: faster and missed one or two in a hundred). `hnsw` is never chosen unasked: on some rows it is twice as fast as lists (see
#: above), but took 2 to 8 times as long to build, and a set that grows is built again.
LISTS_FROM, BYTES_FROM = 10_000, 2_000_000
#: FAISS warns below this: the centers then follow their few points.
POINTS_A_LIST = 39
#: What k-means is given for each center: more moves recall by less than a thousandth and takes as much longer.
SAMPLED_A_LIST = 64
LEAST_LISTS, MOST_LISTS = 4, 1 << 16
#: What is kept beside the codes, as the option `refine` names it.
REFINED = {"none": "", "sq4": ",Refine(SQ4)", "sq6": ",Refine(SQ6)", "sq8": ",Refine(SQ8)", "exact": ",RFlat"}
#: Codes alone seldom reach this; a byte a number beside them does.
REFINED_FROM = 0.7


@dataclass(frozen=True)
class HnswOptions:
    """A graph of neighbors (Malkov and Yashunin 2016)."""

    neighbors: int | None = option(None, "links of a row (M); memory grows by 8 bytes each", minimum=4, maximum=128)
    construction_effort: int | None = option(None, "candidates while building (efConstruction)", minimum=8, maximum=2000)


@dataclass(frozen=True)
class IvfOptions:
    """Lists around the centers of a k-means."""

    lists: int | None = option(None, "lists (nlist); at most rows / 39 are made", minimum=1, maximum=1 << 20)


@dataclass(frozen=True)
class PqOptions(IvfOptions):
    """Lists of product-quantized codes (Jegou et al. 2011)."""

    segments: int | None = option(None, "codes of a row (M); divides the dim", minimum=1, maximum=4096)
    bits: Literal[4, 8] = option(8, "bits of a code")
    refine: Literal["auto", "none", "sq4", "sq6", "sq8", "exact"] = option(
        "auto", "what is kept beside the codes to order the candidates by"
    )


class FlatIndex(FaissIndex):
    """Every row, compared exactly: of 10,000 rows of 384 numbers 193 times a second one by one, 4,033 in batches of 64."""

    kind = "flat"

    @classmethod
    def choose_params(cls, rows: int, dim: int, options: NoOptions, target_recall: float) -> BuildParams:
        return FLAT


class HnswIndex(FaissIndex):
    """A graph over exact rows: the fastest where clusters lie into one another, and the slowest to build; its links take 272
    bytes a row. Under a mask that leaves few rows it compares with all of those: at 50%, 5% and 0.1% of 50,000 "spread" rows the
    least effort had recall .98, .98 and 1."""

    kind = "hnsw"
    options = HnswOptions

    @classmethod
    def choose_params(cls, rows: int, dim: int, options: HnswOptions, target_recall: float) -> BuildParams:
        careful = target_recall > 0.97
        neighbors = options.neighbors or (48 if careful else 32)
        effort = options.construction_effort or (200 if careful else 80)
        return BuildParams(f"HNSW{neighbors},Flat", construction_effort=effort)


class IvfIndex(FaissIndex):
    """Lists of exact rows around the centers of a k-means. With all lists looked into, masked or not, nothing is missed."""

    kind = "ivf"
    options = IvfOptions
    #: What is kept of a row, as a factory string says it.
    code: ClassVar[str] = "Flat"

    @classmethod
    def choose_params(cls, rows: int, dim: int, options: IvfOptions, target_recall: float) -> BuildParams:
        return _lists_of(rows, options, cls.code)


class IvfSq8Index(IvfIndex):
    """`ivf` with a byte a number: a quarter of the memory, recall at most .98 to .99 of what `ivf` finds."""

    kind = "ivf-sq8"
    code = "SQ8"


class IvfPqIndex(FaissIndex):
    """Product-quantized codes in lists, and a byte a number beside them to order the candidates by.

    Codes of 8 numbers a byte alone have recall .46 (tight), .75 (spread) and .57 (glove) with all lists looked into, at 76 bytes
    a row of 384 numbers: `refine="none"` is for those whom that suffices. Refined they reach .96 and more, take a tenth more
    memory than `ivf-sq8`, and were measured no faster at the same recall; with all lists of 50,000 rows, half of them masked,
    a search took 2.6 ms where `ivf` took 7.5. SQ6 in place of SQ8 saves a fifth and ended at .93 to .97. Codes need 39 rows for
    each of their 2^bits centers; with fewer the rows are kept as `ivf-sq8` keeps them.
    """

    kind = "ivf-pq"
    options = PqOptions

    @classmethod
    def choose_params(cls, rows: int, dim: int, options: PqOptions, target_recall: float) -> BuildParams:
        points = POINTS_A_LIST * 2**options.bits
        lists, segments = _lists_of(rows, options, ""), _segments(dim, options.segments)
        if lists is FLAT or rows < points:
            return _lists_of(rows, options, "SQ8")
        auto = "sq8" if target_recall >= REFINED_FROM else "none"
        refined = REFINED[auto if options.refine == "auto" else options.refine]
        return BuildParams(f"{lists.factory}PQ{segments}x{options.bits}{refined}", max(lists.training_rows, points))


class FactoryIndex(FaissIndex):
    """A factory string of FAISS, trained on what its largest k-means wants; "Flat" where the rows are too few to train it."""

    factory: ClassVar[str]

    @classmethod
    def choose_params(cls, rows: int, dim: int, options: Any, target_recall: float) -> BuildParams:
        lists = [int(number) for number in re.findall(r"IVF(\d+)", cls.factory)]
        return BuildParams(cls.factory, max([65_536, *(SAMPLED_A_LIST * n for n in lists)])) if rows else FLAT


def factory_index_class(factory: str) -> type[FactoryIndex]:
    """Make the class of a factory string, whose files are told apart by it."""
    return type("FactoryIndex", (FactoryIndex,), {"factory": factory, "kind": factory, "__doc__": FactoryIndex.__doc__})


def _list_count(rows: int, wanted: int | None) -> int:
    """Choose the power of two next to 4 sqrt(rows), or what is wanted, with POINTS_A_LIST rows a list; 0 for too few rows."""
    best = wanted or min(MOST_LISTS, 2 ** round(math.log2(4 * math.sqrt(max(1, rows)))))
    most = rows // POINTS_A_LIST
    if best > most:
        best = 2 ** int(math.log2(most)) if most else 0
    return best if best >= min(LEAST_LISTS, wanted or LEAST_LISTS) else 0


def _lists_of(rows: int, options: IvfOptions, code: str) -> BuildParams:
    lists = _list_count(rows, options.lists)
    return BuildParams(f"IVF{lists},{code}", SAMPLED_A_LIST * lists) if lists else FLAT


def _segments(dim: int, wanted: int | None) -> int:
    """Choose eight numbers a segment, or as many fewer as divide the dim: 50 numbers go in tens of five."""
    divisors = [n for n in range(1, dim + 1) if dim % n == 0]
    if wanted is None:
        return next(n for n in divisors if 8 * n >= dim)
    if wanted not in divisors:
        raise InvalidInput(f"{wanted} segments do not divide {dim} numbers", remedy=f"give one of {divisors}")
    return wanted


@hookimpl
def register_indexes() -> Iterable[IndexSpec]:
    yield IndexSpec("flat", FlatIndex, "every row, exactly", suits=(0, LISTS_FROM))
    yield IndexSpec("hnsw", HnswIndex, "a graph of neighbors over exact rows")
    yield IndexSpec("ivf", IvfIndex, "exact rows in lists", suits=(LISTS_FROM, BYTES_FROM))
    yield IndexSpec("ivf-sq8", IvfSq8Index, "a byte a number, in lists", suits=(BYTES_FROM, None))
    yield IndexSpec("ivf-pq", IvfPqIndex, "product-quantized codes in lists, refined")


@hookimpl
def resolve_index(kind: str) -> IndexSpec | None:
    """Take what looks like a factory string; InvalidInput where faiss.index_factory makes nothing of it."""
    if not library.is_factory_string(kind):
        return None
    library.check_factory(kind)
    return IndexSpec(kind, factory_index_class(kind), "a factory string of faiss")
