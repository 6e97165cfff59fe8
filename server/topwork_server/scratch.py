"""Temporary files of a server and of the processes that it starts: in its home, where the next server deletes what is left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = "scratch"


def use(home: Path) -> None:
    """Empty the folder and make it that of all temporary files of this process and of its children. The caller holds the home's
    lock, so whoever made what lies there was killed."""
    folder = home / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)


@contextmanager
def within(folder: Path) -> Iterator[None]:
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
