"""Encoders that are being made here: `.making-NAME` beside the records of encoders, deleted when NAME is exported.

All intermediate files lie in it. If its process was killed, it is deleted by the next `topwork` command or server that looks at
encoders, and with it all that exists of NAME. A name that is pulled keeps what it meant before: the new meaning is recorded last.
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
from topwork_server.models import artifacts

MAKING, QUANTIZE_LOCK, LOCK = ".making-", ".quantize.lock", ".lock"
#: A file in the folder of an encoder whose name is recorded before it is finished, and meant nothing before.
NEW = "name-is-new"

log = logging.getLogger(__name__)


class EncoderNames(Protocol):
    """The part of the catalog that is used here."""

    def delete(self, name: str) -> None: ...
    def unused_artifacts(self) -> list[Path]: ...


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
def scratch_folder(folder: Path, name: str, *, recorded_last: bool = False) -> Iterator[Path]:
    """Scratch folder for NAME, also for temporary files; NAME is unfinished while it exists. `recorded_last` says that what is
    recorded under NAME meanwhile is what it meant before. AlreadyExists where another process makes an encoder of that name."""
    atomic_store.make_folder(folder)
    scratch = folder / f"{MAKING}{name}"
    with _lock(scratch) as held:
        if not held:
            raise AlreadyExists(f"an encoder {name!r} is being made", remedy="wait for it, or choose another name")
        atomic_store.delete(scratch)
        scratch.mkdir()
        try:
            if not recorded_last:
                (scratch / NEW).touch()
            with atomic_store.temporary_files_in(scratch):
                yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def names(folder: Path) -> list[str]:
    """List the encoders that are being made, or were when their process was killed."""
    return [path.name.removeprefix(MAKING) for path in folder.glob(f"{MAKING}*") if path.suffix != LOCK]


def sweep(folder: Path, encoders: EncoderNames) -> None:
    """Delete the remains of encoders whose process was killed."""
    for name in names(folder):
        left = folder / f"{MAKING}{name}"
        with _lock(left) as held:
            if held and left.exists():  # else its process lives, or has ended well meanwhile
                log.info("encoder=%s was not finished: it is deleted", name)
                is_new = (left / NEW).exists()
                if is_new:
                    encoders.delete(name)
                atomic_store.delete_if_possible(left)
                if not is_new:
                    delete_unused(encoders, name)


def delete_unused(encoders: EncoderNames, name: str) -> None:
    """Delete the artifacts of an encoder's name that no encoder refers to; none while one of that name is being made."""
    for path in encoders.unused_artifacts():
        if artifacts.is_of(path, [name]):
            artifacts.discard(path)


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
