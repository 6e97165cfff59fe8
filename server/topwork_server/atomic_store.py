"""Durable storage: a file or a folder of the home is there completely or not at all, and is on disk before it has its name.

Both are written beside their place, synced and renamed. What is not finished, or is being deleted, has a name that begins with
`.` and ends with `.part`, as nothing else has; what a killed process left of it is swept.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from topwork_server import regular_files
from topwork_server.errors import DiskFull, TopworkError

PART = ".part"
#: The folder of the home with all temporary files of a server and of the processes that it starts.
TEMPORARY = "scratch"

log = logging.getLogger(__name__)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, durably, where they are missing."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        sync(path.parent)


@contextmanager
def replacing(path: Path, mode: int | None = None) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` once it is complete and on disk. A failure leaves what was there. `mode`
    are its permissions, where they are not the usual ones."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PART}")  # of this writer alone: threads may write one file
    try:
        with part.open("wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.is_dir():  # damage
            delete(path)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write(path: Path, text: str, mode: int | None = None) -> None:
    """Write a file in UTF-8, in place of an older one, with these permissions where they are not the usual ones."""
    with replacing(path, mode) as file:
        file.write(text.encode())


@contextmanager
def scratch_folder(parent: Path, prefix: str = ".") -> Iterator[Path]:
    """A new folder in `parent`, deleted afterwards unless it was published. `prefix` begins its name."""
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix, suffix=PART))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(scratch: Path, place: Path) -> None:
    """Give a finished folder its place, which is beside it, instead of an older one."""
    for path in (*scratch.rglob("*"), scratch):
        sync(path)
    old = scratch.with_name(f"{scratch.stem}.old{PART}")
    if place.exists():
        place.rename(old)
    scratch.rename(place)
    sync(place.parent)
    delete_if_possible(old)


def build_once(folder: Path, is_ready: Callable[[], bool], build: Callable[[Path], object]) -> None:
    """Let `build` fill a new folder, and publish it as `folder`, unless that is ready. One process at a time builds it;
    those that waited find it ready. A killed one leaves nothing that looks done."""
    make_folder(folder.parent)
    with folder_lock(folder):
        if is_ready():
            return
        prefix = f".{folder.name}."
        sweep(folder.parent, prefix)  # we hold the lock: their makers are dead
        with scratch_folder(folder.parent, prefix) as scratch:
            build(scratch)
            publish(scratch, folder)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock under which a folder is built or deleted, beside it. Its file goes with it: a process
    that waits makes a new one."""
    path = folder.with_name(f".{folder.name}.lock")
    with lock(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Remove a folder in one step, however long the deletion of its files takes. FileNotFoundError where it is not there."""
    doomed = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}{PART}")  # a rename needs no room on a full disk
    folder.rename(doomed)
    sync(folder.parent)
    delete_if_possible(doomed)


def sweep(folder: Path, prefix: str = ".") -> None:
    """Delete what killed processes left in a folder. Nothing may be writing there under that prefix."""
    for name in regular_files.names_in(folder):
        if name.startswith(prefix) and name.endswith(PART):
            log.info("removing what is left of %s", folder / name)
            delete_if_possible(folder / name)


def delete(path: Path) -> None:
    """Delete a file, a link, or a folder that stands in the place of one; nothing where nothing is there."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def delete_if_possible(path: Path) -> None:
    """Delete what has a name, be it a pipe, which `shutil.rmtree` would wait for; what cannot be deleted is logged and left."""
    try:
        delete(path)
    except FileNotFoundError:  # another deletes it
        pass
    except OSError as error:
        log.warning("%s could not be deleted whole: %s", path, error.strerror)


def file_sha256(path: Path) -> str:
    with regular_files.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_unchanged(path: Path, sha256: str) -> bool:
    """Tell whether there is a file with that checksum."""
    return path.is_file() and file_sha256(path) == sha256


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder, by name."""
    return {path.name: file_sha256(path) for path in sorted(folder.iterdir())}


@contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file, also against other processes; False where another holds it and `wait` is False. The file is
    made where there is none, and in place of what is no file; its content is nothing."""
    from filelock import FileLock, Timeout

    if path.is_symlink() or (path.exists() and not path.is_file()):
        delete(path)
    try:
        held = FileLock(path, timeout=-1 if wait else 0).acquire()
    except Timeout:
        yield False
        return
    with held:
        yield True


@contextmanager
def disk_errors(what: str, again: str) -> Iterator[None]:
    """Raise DiskFull where `what` finds no room, with `again` as the remedy, and TopworkError for other errors of the disk."""
    try:
        with room_for(what, again):
            yield
    except OSError as error:
        raise TopworkError(f"{what} cannot be written: {error}", remedy="repair the folder of the server's state") from error


@contextmanager
def room_for(what: str, again: str) -> Iterator[None]:
    """Raise DiskFull where `what` finds no room, with `again` as the remedy; other errors stay as they are. numpy, safetensors
    and processes that ended tell of it without an errno."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not (full or re.search("no space left|not enough free space", str(error), re.IGNORECASE)):
            raise
        raise DiskFull(f"the disk is full: {what} was not written", remedy=f"free some room, and {again}") from error


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Keep temporary files of this process and of its children in a folder, which the caller deletes."""
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        os.environ.pop("TMPDIR")
        if variable is not None:
            os.environ["TMPDIR"] = variable


@contextmanager
def temporary_files_of(home: Path) -> Iterator[None]:
    """Keep temporary files of this process and of its children in a folder of the home, emptied first.

    The caller holds the home's lock: what lies there is of a server that was killed.
    """
    folder = home / TEMPORARY
    if folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)  # not by a link, which leads to another disk
    else:
        delete_if_possible(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_files_in(folder):
        yield
