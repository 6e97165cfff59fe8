"""What an index of faiss is made of: wrappers around a core, and where the rows lie as they were added."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from topwork_server import Array

from topwork_plugins.faiss_index import library


def layers(index: Any) -> Iterator[Any]:
    """The index, then what its wrappers wrap; the last one is the core."""
    faiss = library.load()
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
    """IVF, HNSW or whatever else is wrapped."""
    return list(layers(index))[-1]


def refined(index: Any) -> Any | None:
    """The outermost IndexRefine, or None."""
    faiss = library.load()
    return next((layer for layer in layers(index) if isinstance(layer, faiss.IndexRefine)), None)


def is_flat(index: Any) -> bool:
    """Whether it is a plain matrix of float32 rows. (Its subclasses may lay them out in another way.)"""
    faiss = library.load()
    return type(index) in (faiss.IndexFlat, faiss.IndexFlatL2, faiss.IndexFlatIP)


def storage(index: Any) -> Any | None:
    """The index under a graph or a refinement, which compares with every row; None where there is none or the rows are changed
    before they get there."""
    faiss = library.load()
    if isinstance(index, faiss.IndexRefine):
        return faiss.downcast_index(index.refine_index)
    if isinstance(index, faiss.IndexHNSW | faiss.IndexNSG):
        return faiss.downcast_index(index.storage)
    return None


def matrix(index: Any) -> Any | None:
    """The IndexFlat that holds the rows exactly as they were added, or None."""
    held = index if is_flat(index) else storage(index)
    return held if held is not None and is_flat(held) else None


def lists_of_rows(index: Any) -> bool:
    """Whether it is an IndexIVFFlat: rows as they were added, but in lists."""
    return type(index) is library.load().IndexIVFFlat


def looks_into_all(index: Any) -> bool:
    """Whether the largest nprobe visits every list: the nearest lists are found exactly, and nothing reorders what is found."""
    faiss = library.load()
    inner = core(index)
    if refined(index) is not None or not isinstance(inner, faiss.IndexIVF):
        return False
    return is_flat(faiss.downcast_index(inner.quantizer))


def rows_of(flat: Any) -> Array:
    """(count, dim) float32: the memory of an IndexFlat itself, for reading while nothing is added."""
    faiss = library.load()
    if flat.ntotal == 0:
        return np.empty((0, flat.d), np.float32)
    numbers: Array = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
    return numbers.reshape(flat.ntotal, flat.d)
