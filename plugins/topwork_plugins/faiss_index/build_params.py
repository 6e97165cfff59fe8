"""What to build for so many rows: a factory string of faiss, and what it does not say."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from topwork_server import InvalidInput

from topwork_plugins.faiss_index.options import HnswOptions, IvfOptions, PqOptions

#: faiss warns below this: the centres then follow their few points.
POINTS_A_LIST = 39
#: What k-means is given for each centre: more moves recall by less than a thousandth and takes as much longer.
SAMPLED_A_LIST = 64
LEAST_LISTS, MOST_LISTS = 4, 1 << 16


@dataclass(frozen=True)
class BuildParams:
    """`factory` for faiss.index_factory; rows to train on (0: none); efConstruction (0: faiss's)."""

    factory: str
    training_rows: int = 0
    construction_effort: int = 0


FLAT = BuildParams("Flat")


def lists_for(rows: int, wanted: int | None) -> int:
    """The power of two next to 4 sqrt(rows), or what is wanted, with POINTS_A_LIST rows a list; 0 where that leaves too few."""
    best = wanted or min(MOST_LISTS, 2 ** round(math.log2(4 * math.sqrt(max(1, rows)))))
    most = rows // POINTS_A_LIST
    if best > most:
        best = 2 ** int(math.log2(most)) if most else 0
    return best if best >= min(LEAST_LISTS, wanted or LEAST_LISTS) else 0


def ivf_params(rows: int, options: IvfOptions, code: str) -> BuildParams:
    lists = lists_for(rows, options.lists)
    return BuildParams(f"IVF{lists},{code}", SAMPLED_A_LIST * lists) if lists else FLAT


def hnsw_params(target_recall: float, options: HnswOptions) -> BuildParams:
    """More links and a more careful graph where more is asked of it."""
    careful = target_recall > 0.97
    neighbours = options.neighbours or (48 if careful else 32)
    return BuildParams(f"HNSW{neighbours},Flat", construction_effort=options.construction_effort or (200 if careful else 80))


#: What is kept beside the codes, as the option `refine` names it.
REFINED = {"none": "", "sq4": ",Refine(SQ4)", "sq6": ",Refine(SQ6)", "sq8": ",Refine(SQ8)", "exact": ",RFlat"}
#: Codes alone seldom reach this; a byte a number beside them does.
REFINED_FROM = 0.7


def ivf_pq_params(rows: int, dim: int, options: PqOptions, target_recall: float) -> BuildParams:
    """Codes need 39 rows for each of their 2^bits centres; with fewer the rows are kept as ivf-sq8 keeps them."""
    points = POINTS_A_LIST * 2**options.bits
    params = ivf_params(rows, options, "")
    segments = _segments(dim, options.segments)
    if params is FLAT or rows < points:
        return ivf_params(rows, options, "SQ8")
    auto = "sq8" if target_recall >= REFINED_FROM else "none"
    kept = REFINED[auto if options.refine == "auto" else options.refine]
    return BuildParams(f"{params.factory}PQ{segments}x{options.bits}{kept}", max(params.training_rows, points))


def _segments(dim: int, wanted: int | None) -> int:
    """Eight numbers a segment, or as many fewer as divide the dim: 50 numbers go in tens of five."""
    divisors = [n for n in range(1, dim + 1) if dim % n == 0]
    if wanted is None:
        return next(n for n in divisors if 8 * n >= dim)
    if wanted not in divisors:
        raise InvalidInput(f"{wanted} segments do not divide {dim} numbers", remedy=f"give one of {divisors}")
    return wanted


def factory_params(factory: str, rows: int) -> BuildParams:
    """As it is said. All that it is trained on is what its largest k-means wants."""
    numbers = [int(n) for n in re.findall(r"IVF(\d+)", factory)]
    return BuildParams(factory, max([65_536, *(SAMPLED_A_LIST * n for n in numbers)])) if rows else FLAT
