"""Number of threads of numpy's matrix products.

Left alone, numpy's OpenBLAS spreads each product over a pool of threads of its own, which spin while they wait for one another.
Beside others who work that costs much: in a search beside the OpenMP threads of an index a product of 0.1 ms took 20 ms on two
cores, and a sweep over 554 x 384 rows took 102 s with two threads and 13 s with one on a busy machine.
"""

from __future__ import annotations

import ctypes

import numpy as np

#: How builds of OpenBLAS call it: that of numpy's wheels, then others.
NAMES = ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads")


def set_threads(count: int) -> bool:
    """Set the threads of numpy's OpenBLAS for the whole process; False where numpy has another BLAS."""
    try:
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return False
    for name in NAMES:
        if found := getattr(library, name, None):
            found(ctypes.c_int(count))
            return True
    return False
