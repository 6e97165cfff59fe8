"""Replies that the main thread may be interrupted at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")

#: Replies that the thread may be ahead of their reader.
AHEAD = 2
#: Seconds after which a wait looks for a signal that came just before it began, and did not end it.
LOOK = 0.2


def interruptible(call: Iterator[T]) -> Iterator[T]:
    """The replies of a gRPC call, for the main thread read by a thread of their own.

    Ctrl-C is raised in the main thread between any two steps of Python, also inside gRPC's: there it would leave a lock taken for
    ever, and the next use of the call, be it to cancel it, would hang.
    """
    return _pumped(call) if threading.current_thread() is threading.main_thread() else call


def _pumped(call: Iterator[T]) -> Iterator[T]:
    wanted: SimpleQueue[bool] = SimpleQueue()
    came: SimpleQueue[T | BaseException] = SimpleQueue()

    def pump() -> None:
        while wanted.get():
            try:
                came.put(next(call))
            except BaseException as error:  # also StopIteration: the reader's to see
                came.put(error)
                return

    threading.Thread(target=pump, name="topwork-replies", daemon=True).start()
    for _ in range(AHEAD):
        wanted.put(True)
    try:
        while not isinstance(reply := _get(came), BaseException):
            wanted.put(True)
            yield reply
        if not isinstance(reply, StopIteration):
            raise reply
    finally:
        wanted.put(False)


def _get(came: SimpleQueue[T]) -> T:
    while True:
        try:
            return came.get(timeout=LOOK)
        except Empty:
            continue
