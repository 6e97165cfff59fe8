"""Lets preprocessing notice that its caller has left: between two steps of a long item it asks, and ends where nobody waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from topwork_server.errors import DeadlineExceeded

_work = threading.local()


def check_caller() -> None:
    """Raise where the caller of the item that this thread preprocesses has left, or has no time left.

    For an encoder whose `preprocess` works on one item for longer than a second: call it between steps, and let what it raises
    pass. Outside of a request it does nothing.
    """
    has_left: Callable[[], bool] | None = getattr(_work, "has_left", None)
    if has_left is not None and has_left():
        raise DeadlineExceeded(
            "the deadline passed, or the caller left, while an item was preprocessed", remedy="allow more time"
        )


@contextmanager
def working_for(has_left: Callable[[], bool]) -> Iterator[None]:
    """Let `check_caller` ask `has_left` in this thread."""
    before = getattr(_work, "has_left", None)
    _work.has_left = has_left
    try:
        yield
    finally:
        _work.has_left = before
