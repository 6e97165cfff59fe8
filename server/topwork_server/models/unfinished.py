"""Encoders that are being made here: `.making-NAME` beside the records of encoders, deleted when NAME is exported.

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
from topwork_server.errors import AlreadyExists

MAKING, QUANTIZE_LOCK, LOCK = ".making-", ".quantize.lock", ".lock"

log = logging.getLogger(__name__)


class EncoderNames(Protocol):
    """The part of the catalog that is used here."""

    def delete(self, name: str) -> None: ...


@contextmanager
def quantization_lock(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Lock that allows one quantization at a time in a home: each takes all cores."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_store.lock(folder / QUANTIZE_LOCK, wait=False) as held:
        if held:
            yield
            return
    say("waiting for another `topwork quantize` to end")
    with atomic_store.lock(folder / QUANTIZE_LOCK):
        yield


@contextmanager
def scratch_folder(folder: Path, name: str) -> Iterator[Path]:
    """Scratch folder for NAME, also for temporary files; NAME is unfinished while it exists. AlreadyExists where another
    process makes an encoder of that name."""
    atomic_store.make_folder(folder)
    scratch = folder / f"{MAKING}{name}"
    with _lock(scratch) as held:
        if not held:
            raise AlreadyExists(f"an encoder {name!r} is being made", remedy="wait for it, or choose another name")
        atomic_store.delete(scratch)
        scratch.mkdir()
        try:
            with atomic_store.temporary_files_in(scratch):
                yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def sweep(folder: Path, encoders: EncoderNames) -> None:
    """Delete the remains of encoders whose process was killed."""
    for left in [path for path in folder.glob(f"{MAKING}*") if path.suffix != LOCK]:
        with _lock(left) as held:
            if held and left.exists():  # else its process lives, or has ended well meanwhile
                name = left.name.removeprefix(MAKING)
                log.info("encoder=%s was not finished: it is deleted", name)
                encoders.delete(name)
                atomic_store.delete_if_possible(left)


@contextmanager
def _lock(scratch: Path) -> Iterator[bool]:
    """Hold the lock under which one encoder is made; False where another process holds it."""
    path = scratch.with_name(f"{scratch.name}{LOCK}")
    with atomic_store.lock(path, wait=False) as held:
        try:
            yield held
        finally:
            if held:
                path.unlink(missing_ok=True)
