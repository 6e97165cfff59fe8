"""Memory that was freed goes back to the machine: glibc keeps the heaps of threads that are gone until it is asked."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Takes some milliseconds. Does nothing where the C library has no malloc_trim."""
    gc.collect()  # what an encoder was made of may be in cycles
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
