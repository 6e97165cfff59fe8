"""Waits for the disk side by side: a flush costs milliseconds of waiting whatever its size, and those of several files at a time
cost little more than one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeVar

from topwork_server.feature_sets.commit_threads import DaemonPool

T = TypeVar("T")

#: For all sets together. They wait for the disk, or hash without the interpreter's lock.
_threads = DaemonPool(4, name="disk")


def sync(paths: Iterable[Path]) -> None:
    """Wait until those files or folders are on disk, and not only in the page cache."""
    run_parallel(sync_calls(paths))


def sync_calls(paths: Iterable[Path]) -> list[Callable[[], None]]:
    """The calls that `sync` makes."""
    return [partial(_sync, path) for path in paths]


def run_parallel(calls: Sequence[Callable[[], T]]) -> list[T]:
    """The results of calls that do not depend on each other, once all have ended. The first one's error is raised. None of the
    calls may come here itself: all threads could then wait for calls that wait for a thread."""
    others = [_submit(call) for call in calls[1:]]
    own = [_run_here(call) for call in calls[:1]]
    return [future.result() for future in _wait_for_all([*own, *others])]


def _wait_for_all(futures: list[Future[T]]) -> list[Future[T]]:
    for future in futures:
        future.exception()
    return futures


def _submit(call: Callable[[], T]) -> Future[T]:
    """Where no thread can be had the call is made here."""
    future: Future[T] = Future()
    try:
        _threads.submit(lambda: _resolve(future, call))
    except RuntimeError:
        _resolve(future, call)
    return future


def _run_here(call: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()
    _resolve(future, call)
    return future


def _resolve(future: Future[T], call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
