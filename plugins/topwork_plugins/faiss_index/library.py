"""FAISS itself: its import, its errors, its factory strings ("OPQ16_64,IVF1024,PQ16"), and the layers of its indexes.

FAISS is imported at the first use, so that a server without indexes never maps it.
"""

from __future__ import annotations

import errno
import functools
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from topwork_server import Array, DiskFull, InvalidInput, Metric

#: Exhaustive search multiplies matrices where queries x dim is at least this, and goes row by row below it. Measured at
#: 60,000 x 384, 2 threads, queries a second: 4 at once 455 row by row against 326; 16: 454 against 977; 64: 429 against 1,751.
#: FAISS's 128,000 leaves 4x on the table at 64. It is one for the process, and either way finds the same.
BLAS_FROM = 4096

_WORDS = (
    "Flat|IVF|HNSW|NSG|NNDescent|PQ|OPQ|SQ|PCA|PCAR|PCAW|PCAWR|RR|ITQ|L2norm|Pad|Hadamard|LSH|RaBitQ|RQ|LSQ|PRQ|PLSQ|IMI|"
    "Residual|ZnLattice|IDMap"
)
#: A word of FAISS's, then digits, options, and more parts after commas. "flat" and "hnsw" alone are registered kinds.
LOOKS = re.compile(rf"(?:{_WORDS})(?:[\dx_].*|,.*|\(.*|fs.*|lsh.*)?", re.IGNORECASE)
GUIDE = "see https://github.com/facebookresearch/faiss/wiki/The-index-factory"
#: Above these a string asks for gigabytes before there is a row: by the word before the number, and for all other words.
LARGEST, LARGEST_OTHER, MOST_SEGMENTS = {"IVF": 1 << 20, "x": 16, "HNSW": 512, "NSG": 512}, 1 << 16, 4096
#: Their distances are not distances: bits that differ.
HAMMING = re.compile(r"(?:^|,)(?:LSH|SH)", re.IGNORECASE)


@functools.cache
def load_faiss() -> Any:
    """Import the module faiss and tune it."""
    import faiss

    faiss.cvar.distance_compute_blas_threshold = BLAS_FROM
    return faiss


@contextmanager
def translate_errors(doing: str, remedy: str = "") -> Iterator[None]:
    """Turn what FAISS raises into an error of ours that keeps its last sentence."""
    try:
        yield
    except MemoryError as error:
        raise InvalidInput(f"{doing}: not enough memory", remedy="choose a smaller kind, such as ivf-sq8") from error
    except RuntimeError as error:
        if "No space left" in str(error):
            raise DiskFull(f"{doing}: {error_sentence(error)}") from error
        raise InvalidInput(f"{doing}: {error_sentence(error)}", remedy=remedy) from error


def error_sentence(error: Exception) -> str:
    """Return FAISS's sentence, without the function and the source line that it puts before it."""
    return re.sub(r"^Error in .* at \S+?:\d+: ", "", str(error), flags=re.DOTALL).strip()


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"{doing}: {error.strerror}") from error
        raise


def is_factory_string(kind: str) -> bool:
    """Tell whether `kind` looks like a factory string; check_factory tells whether it is one."""
    return bool(LOOKS.fullmatch(kind))


def check_factory(kind: str) -> None:
    """Raise InvalidInput, in FAISS's words, for a string that can be made for no dim. The others are checked by `check_dim`."""
    _check_sizes(kind)
    if "IDMap" in kind:
        raise InvalidInput(f"{kind!r}: positions are the server's", remedy="leave IDMap out")
    if HAMMING.search(kind) and "," not in kind.partition("LSH")[2]:
        raise InvalidInput(f"{kind!r} measures bits that differ, not a distance", remedy="order its hits by one: LSH,RFlat")
    make_index(kind, _likely_dim(kind), Metric.L2)


def check_dim(kind: str, dim: int) -> None:
    """Raise InvalidInput for what FAISS would find out when it trains: OPQ rotates a whole number of segments."""
    for segments, reduced in re.findall(r"OPQ(\d+)(?:_(\d+))?", kind):
        numbers = int(reduced or dim)
        if int(segments) == 0 or numbers % int(segments):
            raise InvalidInput(
                f"{kind!r}: {segments} segments do not divide {numbers} numbers", remedy="give OPQ a divisor of them"
            )


def make_index(kind: str, dim: int, metric: Metric) -> Any:
    """Make an empty index. L2 orders unit vectors as cosine does: COSINE is built on L2, and the index's metric_type says so,
    where the kind knows only L2 or shifts the rows to their mean, which moves inner products and no distance."""
    faiss = load_faiss()
    metric = _without_shift(kind, metric) if "PCA" in kind else metric
    with translate_errors(f"faiss cannot make {kind!r} of {dim} numbers", remedy=GUIDE):
        index = None if metric is Metric.L2 else _by_inner_product(kind, dim, metric)
        return faiss.index_factory(dim, kind, faiss.METRIC_L2) if index is None else index


def _without_shift(kind: str, metric: Metric) -> Metric:
    if metric is Metric.INNER_PRODUCT:
        raise InvalidInput(
            f"{kind!r} shifts rows to their mean, which changes their order by inner product", remedy="use OPQ or RR"
        )
    return Metric.L2


def _by_inner_product(kind: str, dim: int, metric: Metric) -> Any | None:
    """Make an index by inner product; None where the kind knows only L2 and the metric is cosine."""
    faiss = load_faiss()
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
        most = LARGEST.get(word, LARGEST_OTHER)
        if int(number) > most:
            raise InvalidInput(f"{kind!r} asks for {word}{number}", remedy=f"give at most {word}{most}")


def _likely_dim(kind: str) -> int:
    """Choose a dim that the string can be made for: every number of segments divides it, and it is no less than a reduced one."""
    segments = [int(n) for n in re.findall(r"PQ(\d+)", kind)] + [int(n) for n in re.findall(r"IMI(\d+)", kind)]
    segments = [n for n in segments if 0 < n <= MOST_SEGMENTS]
    reduced = [int(n) for n in re.findall(r"(?:PCA[RW]*|RR|_|ITQ)(\d+)", kind)]
    step = math.lcm(8, *segments[:4])
    return step * -(-max(64, *reduced, 1) // step) if reduced else step * -(-64 // step)


def layers(index: Any) -> Iterator[Any]:
    """Yield the index, then what its wrappers wrap; the last one is the core."""
    faiss = load_faiss()
    while index is not None:
        index = faiss.downcast_index(index)
        yield index
        if isinstance(index, faiss.IndexPreTransform):
            index = index.index
        elif isinstance(index, faiss.IndexRefine):
            index = index.base_index
        else:
            index = None


def core(index: Any) -> Any:
    """Return the index inside all wrappers: IVF, HNSW or another."""
    return list(layers(index))[-1]


def refined(index: Any) -> Any | None:
    """Return the outermost IndexRefine, or None."""
    faiss = load_faiss()
    return next((layer for layer in layers(index) if isinstance(layer, faiss.IndexRefine)), None)


def is_flat(index: Any) -> bool:
    """Tell whether it is a plain matrix of float32 rows. (Subclasses of IndexFlat may lay them out in another way.)"""
    faiss = load_faiss()
    return type(index) in (faiss.IndexFlat, faiss.IndexFlatL2, faiss.IndexFlatIP)


def storage(index: Any) -> Any | None:
    """Return the index under a graph or a refinement, which compares with every row; None where there is none or the rows are
    changed before they get there."""
    faiss = load_faiss()
    if isinstance(index, faiss.IndexRefine):
        return faiss.downcast_index(index.refine_index)
    if isinstance(index, faiss.IndexHNSW | faiss.IndexNSG):
        return faiss.downcast_index(index.storage)
    return None


def matrix(index: Any) -> Any | None:
    """Return the IndexFlat that holds the rows exactly as they were added, or None."""
    held = index if is_flat(index) else storage(index)
    return held if held is not None and is_flat(held) else None


def lists_of_rows(index: Any) -> bool:
    """Tell whether it is an IndexIVFFlat: rows as they were added, but in lists."""
    return type(index) is load_faiss().IndexIVFFlat


def looks_into_all(index: Any) -> bool:
    """Tell whether the largest nprobe finds all: the lists are ordered exactly, and nothing reorders what is found in them."""
    faiss = load_faiss()
    inner = core(index)
    if refined(index) is not None or not isinstance(inner, faiss.IndexIVF):
        return False
    return is_flat(faiss.downcast_index(inner.quantizer))


def rows_of(flat: Any) -> Array:
    """View the rows (count, dim) float32 of an IndexFlat, in its own memory, for reading while nothing is added."""
    faiss = load_faiss()
    if flat.ntotal == 0:
        return np.empty((0, flat.d), np.float32)
    numbers: Array = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
    return numbers.reshape(flat.ntotal, flat.d)
