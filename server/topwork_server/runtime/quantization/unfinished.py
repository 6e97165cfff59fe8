"""Encoders that are being quantized: a folder `.making-NAME` beside the records of encoders, which goes when NAME is exported.

All that is written on the way lies in it. Where its process was killed, it and whatever there is of NAME are deleted by the next
`topwork` command or server that looks at encoders.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from topwork_server.scratch import within

MAKING = ".making-"

log = logging.getLogger(__name__)


class EncoderNames(Protocol):
    """What is asked of the catalogue."""

    def drop(self, name: str) -> None: ...


@contextmanager
def alone(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """One at a time in a home, so that two do not make the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another `topwork quantize` to end")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def making(folder: Path, name: str) -> Iterator[Path]:
    """A folder for what is made on the way to NAME, of temporary files too; NAME is unfinished while it is there."""
    scratch = folder / f"{MAKING}{name}"
    scratch.mkdir()
    try:
        with within(scratch):
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sweep(folder: Path, encoders: EncoderNames) -> None:
    """Delete what quantizations that were killed left, unless one is under way."""
    if not any(folder.glob(f"{MAKING}*")):
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        delete_left(folder, encoders)
    except BlockingIOError:
        pass  # its maker lives
    finally:
        os.close(handle)


def delete_left(folder: Path, encoders: EncoderNames) -> None:
    """As `sweep`, where the caller is `alone`."""
    for left in folder.glob(f"{MAKING}*"):
        name = left.name.removeprefix(MAKING)
        log.info("encoder=%s was not finished: it is deleted", name)
        encoders.drop(name)
        shutil.rmtree(left, ignore_errors=True)
