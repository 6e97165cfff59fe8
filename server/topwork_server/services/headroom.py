"""Headroom of the process: where there is neither memory nor a thread left, nothing can be served, and health says so."""

from __future__ import annotations

import _thread
import mmap

#: Bytes that a small request takes, with what it is computed by. They are mapped and not touched, which takes microseconds: a
#: bytearray is filled with zeros, and held the interpreter for 80 ms on a busy machine.
LEAST = 32 << 20


def has_headroom() -> bool:
    """Whether memory for a request and one more thread can be had."""
    try:
        mmap.mmap(-1, LEAST, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        _thread.start_new_thread(bool, ())  # the threading module would wait until it runs
    except (OSError, MemoryError, RuntimeError):
        return False
    return True
