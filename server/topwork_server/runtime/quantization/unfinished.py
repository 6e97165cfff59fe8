"""Scratch folders of quantizations: `.making-NAME` beside the records of encoders, deleted when NAME is exported.

All intermediate files lie in it. If its process was killed, it and all that exists of NAME are deleted by the next `topwork`
command or server that looks at encoders.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from topwork_server import atomic_store

MAKING, LOCK = ".making-", ".quantize.lock"

log = logging.getLogger(__name__)


class EncoderNames(Protocol):
    """The part of the catalog that is used here."""

    def delete(self, name: str) -> None: ...


@contextmanager
def quantization_lock(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Lock that allows one quantization at a time in a home, so that two do not create the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_store.lock(folder / LOCK, wait=False) as held:
        if held:
            yield
            return
    say("waiting for another `topwork quantize` to end")
    with atomic_store.lock(folder / LOCK):
        yield


@contextmanager
def scratch_folder(folder: Path, name: str) -> Iterator[Path]:
    """Scratch folder for NAME, also for temporary files; NAME is unfinished while it exists."""
    scratch = folder / f"{MAKING}{name}"
    scratch.mkdir()
    try:
        with atomic_store.temporary_files_in(scratch):
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sweep(folder: Path, encoders: EncoderNames) -> None:
    """Delete the remains of killed quantizations, unless one is running."""
    if not any(folder.glob(f"{MAKING}*")):
        return
    with atomic_store.lock(folder / LOCK, wait=False) as held:
        if held:  # else its process lives
            delete_unfinished(folder, encoders)


def delete_unfinished(folder: Path, encoders: EncoderNames) -> None:
    """Delete what `sweep` does, for a caller that holds `quantization_lock`."""
    for left in folder.glob(f"{MAKING}*"):
        name = left.name.removeprefix(MAKING)
        log.info("encoder=%s was not finished: it is deleted", name)
        encoders.delete(name)
        atomic_store.delete_if_possible(left)
