"""One thread for each of numpy's matrix products.

Left alone, numpy's OpenBLAS spreads each product over a pool of threads of its own. They have the server's priority and not that
of the search, and wait for one another while the OpenMP threads of an index still spin: beside those a product of 0.1 ms took
20 ms on two cores. Searches run side by side instead.
"""

from __future__ import annotations

import ctypes
import functools

import numpy as np

#: How builds of OpenBLAS call it: that of numpy's wheels, then others.
NAMES = ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads")


@functools.cache
def one_thread() -> bool:
    """Asks it of the OpenBLAS that numpy is linked to, for the whole process; False where numpy has another BLAS."""
    try:
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return False
    for name in NAMES:
        if found := getattr(library, name, None):
            found(ctypes.c_int(1))
            return True
    return False
