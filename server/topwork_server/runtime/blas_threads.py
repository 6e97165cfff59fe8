"""Number of threads of matrix products.

Left alone, numpy's OpenBLAS spreads each product over a pool of threads of its own, which spin while they wait for one another.
Beside others who work that costs much: in a search beside the OpenMP threads of an index a product of 0.1 ms took 20 ms on two
cores, and a sweep over 554 x 384 rows took 102 s with two threads and 13 s with one on a busy machine.
"""

from __future__ import annotations


def set_threads(count: int) -> None:
    """Set the threads of each loaded BLAS that has a pool of its own; that of FAISS uses the threads of OpenMP."""
    from threadpoolctl import ThreadpoolController

    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        if library.info().get("threading_layer") != "openmp":
            library.set_num_threads(count)
