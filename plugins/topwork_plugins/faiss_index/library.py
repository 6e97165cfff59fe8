"""The one door to faiss: imported at the first use, so that a server without indexes never maps it."""

from __future__ import annotations

import errno
import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from topwork_server import DiskFull, InvalidInput

#: Exhaustive search multiplies matrices where queries x dim is at least this, and goes row by row below it. Measured at
#: 60,000 x 384, 2 threads, queries a second: 4 at once 455 row by row against 326; 16: 454 against 977; 64: 429 against 1,751.
#: faiss's 128,000 leaves 4x on the table at 64. It is one for the process, and either way finds the same.
BLAS_FROM = 4096


@functools.cache
def load() -> Any:
    """The module faiss, tuned."""
    import faiss

    faiss.cvar.distance_compute_blas_threshold = BLAS_FROM
    return faiss


@contextmanager
def translate_errors(doing: str, remedy: str = "") -> Iterator[None]:
    """What faiss throws becomes an error of ours that keeps its last sentence."""
    try:
        yield
    except MemoryError as error:
        raise InvalidInput(f"{doing}: not enough memory", remedy="choose a smaller kind, such as ivf-sq8") from error
    except RuntimeError as error:
        if "No space left" in str(error):
            raise DiskFull(f"{doing}: {error_sentence(error)}") from error
        raise InvalidInput(f"{doing}: {error_sentence(error)}", remedy=remedy) from error


def error_sentence(error: Exception) -> str:
    """faiss's sentence, without the function and the source line that it puts before it."""
    return re.sub(r"^Error in .* at \S+?:\d+: ", "", str(error), flags=re.DOTALL).strip()


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"{doing}: {error.strerror}") from error
        raise
