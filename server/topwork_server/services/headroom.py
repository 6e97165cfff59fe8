"""Headroom of the process: where there is neither memory nor a thread left, nothing can be served, and health says so."""

from __future__ import annotations

import _thread

#: Bytes that a small request takes, with what it is computed by. They are asked for and not touched: that costs microseconds.
LEAST = 32 << 20


def has_headroom() -> bool:
    """Whether memory for a request and one more thread can be had."""
    try:
        bytearray(LEAST)
        _thread.start_new_thread(bool, ())  # the threading module would wait until it runs
    except (MemoryError, RuntimeError):
        return False
    return True
