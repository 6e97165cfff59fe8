"""Durable writes: files and folders are on disk before they get their names, and errors of the disk are told as ours."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from topwork_server.errors import DiskFull, TopworkError


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Wait until all files of a folder are on disk, and then the folder itself."""
    for path in (*folder.iterdir(), folder):
        sync(path)


def delete(path: Path) -> None:
    """Delete a file, a link, or a folder that stands in the place of one; nothing where nothing is there."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


@contextmanager
def disk_errors(what: str, again: str) -> Iterator[None]:
    """Raise DiskFull where `what` finds no room, with `again` as the remedy, and TopworkError for other errors of the disk."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"the disk is full: {what} was not written", remedy=f"free some room, and {again}") from error
        raise TopworkError(f"{what} cannot be written: {error}", remedy="mend the folder of the server's state") from error
