"""Factory strings of faiss as kinds: "OPQ16_64,IVF1024,PQ16". A wrong one fails when it is asked for."""

from __future__ import annotations

import math
import re
from typing import Any

from topwork_server import InvalidInput, Metric

from topwork_plugins.faiss_index import library

_WORDS = (
    "Flat|IVF|HNSW|NSG|NNDescent|PQ|OPQ|SQ|PCA|PCAR|PCAW|PCAWR|RR|ITQ|L2norm|Pad|Hadamard|LSH|RaBitQ|RQ|LSQ|PRQ|PLSQ|IMI|"
    "Residual|ZnLattice|IDMap"
)
#: A word of faiss's, then digits, options, and more parts after commas. "flat" and "hnsw" alone are registered kinds.
LOOKS = re.compile(rf"(?:{_WORDS})(?:[\dx_].*|,.*|\(.*|fs.*|lsh.*)?", re.IGNORECASE)
GUIDE = "see https://github.com/facebookresearch/faiss/wiki/The-index-factory"
#: Above these a string asks for gigabytes before there is a row.
MOST_LISTS, MOST_BITS, MOST_SEGMENTS = 1 << 20, 16, 4096
#: Their distances are not distances: bits that differ.
HAMMING = re.compile(r"(?:^|,)(?:LSH|SH)", re.IGNORECASE)


def is_factory_string(kind: str) -> bool:
    return bool(LOOKS.fullmatch(kind))


def check_factory(kind: str) -> None:
    """InvalidInput in faiss's words where the string is none, whatever the dim. Those that need a dim fail at the build."""
    _check_sizes(kind)
    if "IDMap" in kind:
        raise InvalidInput(f"{kind!r}: positions are the server's", remedy="leave IDMap out")
    if HAMMING.search(kind) and "," not in kind.partition("LSH")[2]:
        raise InvalidInput(f"{kind!r} measures bits that differ, not a distance", remedy="order its hits by one: LSH,RFlat")
    make_index(kind, _likely_dim(kind), Metric.L2)


def check_dim(kind: str, dim: int) -> None:
    """InvalidInput for what faiss finds out when it trains: OPQ rotates a whole number of segments."""
    for segments, reduced in re.findall(r"OPQ(\d+)(?:_(\d+))?", kind):
        numbers = int(reduced or dim)
        if int(segments) == 0 or numbers % int(segments):
            raise InvalidInput(
                f"{kind!r}: {segments} segments do not divide {numbers} numbers", remedy="give OPQ a divisor of them"
            )


def make_index(kind: str, dim: int, metric: Metric) -> Any:
    """An empty index of faiss. L2 orders unit vectors as cosine does: COSINE is built on it, and the index's metric_type says so,
    where the kind knows only L2 or shifts the rows to their mean, which moves inner products and no distance."""
    faiss = library.load()
    metric = _without_shift(kind, metric) if "PCA" in kind else metric
    with library.translate_errors(f"faiss cannot make {kind!r} of {dim} numbers", remedy=GUIDE):
        index = None if metric is Metric.L2 else _by_inner_product(kind, dim, metric)
        return faiss.index_factory(dim, kind, faiss.METRIC_L2) if index is None else index


def _without_shift(kind: str, metric: Metric) -> Metric:
    if metric is Metric.INNER_PRODUCT:
        raise InvalidInput(
            f"{kind!r} shifts rows to their mean, which changes their order by inner product", remedy="use OPQ or RR"
        )
    return Metric.L2


def _by_inner_product(kind: str, dim: int, metric: Metric) -> Any | None:
    """None where the kind knows only L2 and that will do."""
    faiss = library.load()
    try:
        index = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError:
        if metric is Metric.INNER_PRODUCT:
            raise
        return None
    if index.metric_type == faiss.METRIC_INNER_PRODUCT:
        return index
    if metric is Metric.INNER_PRODUCT:
        raise InvalidInput(f"faiss's {kind} knows no inner product", remedy="ask for the metric cosine or l2")
    return None


def _check_sizes(kind: str) -> None:
    for word, number in re.findall(r"([A-Za-z]+)(\d+)", kind):
        most = {"IVF": MOST_LISTS, "x": MOST_BITS, "HNSW": 512, "NSG": 512}.get(word, 1 << 16)
        if int(number) > most:
            raise InvalidInput(f"{kind!r} asks for {word}{number}", remedy=f"give at most {word}{most}")


def _likely_dim(kind: str) -> int:
    """A dim that this string can be made for: every number of segments divides it, and it is no less than any reduced one."""
    segments = [int(n) for n in re.findall(r"PQ(\d+)", kind)] + [int(n) for n in re.findall(r"IMI(\d+)", kind)]
    segments = [n for n in segments if 0 < n <= MOST_SEGMENTS]
    reduced = [int(n) for n in re.findall(r"(?:PCA[RW]*|RR|_|ITQ)(\d+)", kind)]
    step = math.lcm(8, *segments[:4])
    return step * -(-max(64, *reduced, 1) // step) if reduced else step * -(-64 // step)
