"""Files of the home: opened if they are regular ones, listed and measured while others delete them.

To read a pipe waits for ever, and a device has no end.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from io import FileIO
from pathlib import Path


def status_of(path: str | Path) -> os.stat_result:
    """The status of a regular file. OSError names what else it is."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return status


def checked(path: Path) -> Path:
    """The path, of a regular file: for libraries that open it by themselves."""
    status_of(path)
    return path


def opened(path: str | Path) -> FileIO:
    """A regular file to read from."""
    status_of(path)
    return open(path, "rb", buffering=0)


def names_in(folder: str | Path) -> list[str]:
    """The names in a folder, sorted; none where it is gone. (`Path.glob` raises if a folder goes while it is read.)"""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def bytes_below(folder: str | Path) -> int:
    """Sum the files below a folder; what is deleted meanwhile counts nothing."""
    total = 0
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += bytes_below(entry.path)
                continue
            with suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_size
    return total


def contents(path: Path, most: int) -> bytes:
    """Read all bytes of a regular file. OSError where it has more than `most`."""
    size = status_of(path).st_size
    if size > most:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, and {most:,} are the most that it should have", str(path))
    return path.read_bytes()
