from __future__ import annotations

import ctypes

import psutil
import pytest
from topwork_server import process_resources

MIB = 1 << 20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library has no malloc_trim")
def test_what_was_freed_goes_back_to_the_machine() -> None:
    blocks = [b"x" * (64_000 + i % 2) for i in range(2000)]
    last = blocks[-1]  # at the end of the heap, which free() alone therefore cannot shorten
    full = psutil.Process().memory_info().rss
    del blocks
    assert psutil.Process().memory_info().rss > full - 30 * MIB
    process_resources.give_back()
    assert psutil.Process().memory_info().rss < full - 90 * MIB
    assert last
