"""The three streams of a command that its caller closed, or that cannot be written to any more."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def open_closed_streams() -> None:
    """Open the streams that the caller closed (`>&-`) on the null device. Otherwise the next file or socket would get their
    numbers, and what libraries print would go into it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            _open(number, mode)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def stop_writing() -> None:
    """Let the rest of the output go nowhere: the interpreter flushes it at its end, and would complain."""
    with suppress(OSError, ValueError):
        _open(sys.stdout.fileno(), "w")


def _open(number: int, mode: str) -> None:
    opened = os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
