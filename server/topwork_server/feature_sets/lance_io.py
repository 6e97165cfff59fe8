"""The one door to Lance: its import with threads that fit, its errors as ours, and files that are truly on disk."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from topwork_server.config import usable_cores
from topwork_server.errors import DiskFull, TopworkError
from topwork_server.feature_sets import daemon_pool, lance_layout
from topwork_server.feature_sets.daemon_pool import sync as sync

log = logging.getLogger(__name__)

STORAGE_VERSION = "2.1"
FULL = ("no space left on device", "os error 28", "disk quota exceeded", "os error 122")

# Where in Lance's own source an error arose: of no use to a caller.
_SOURCE_LINES = re.compile(r",?\s*/\S+\.rs:\d+:\d+")


@cache
def load_lance() -> Any:
    """The lance module. Its two pools default to all cores and more I/O threads than a local disk can use; they share the
    machine with the encoders here, so each has as many threads as there are cores. Read at the import, hence before it."""
    threads = str(min(8, max(2, usable_cores())))
    os.environ.setdefault("LANCE_CPU_THREADS", threads)
    os.environ.setdefault("LANCE_IO_THREADS", threads)
    import lance

    return lance


def open_dataset(path: Path, version: int | None = None) -> Any:
    """The dataset at a version, or at its latest one."""
    return load_lance().dataset(str(path), version=version)


def error_text(error: BaseException) -> str:
    """The error's own words on one line, without the lines of Lance's source."""
    text = _SOURCE_LINES.sub("", str(error)).removeprefix("Invalid user input: ")
    return " ".join(text.split()) or type(error).__name__


@contextmanager
def map_errors(doing: str) -> Iterator[None]:
    """Errors of Lance, Arrow and the disk as ours: DiskFull where the disk is full, else TopworkError that says `doing`."""
    try:
        yield
    except TopworkError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise translate_error(error, doing) from error


def is_panic(error: BaseException) -> bool:
    """Tell whether Lance's own code panicked: pyo3's class is no `Exception`, and cannot be imported."""
    return type(error).__name__ == "PanicException"


def translate_error(error: BaseException, doing: str) -> TopworkError:
    if isinstance(error, TopworkError):
        return error
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT) or any(word in str(error).lower() for word in FULL):
        return DiskFull(
            f"{doing}: no space left on the disk",
            remedy="free some space (prune versions, drop sets) and try again; what was stored is as it was",
        )
    return TopworkError(f"{doing}: {error_text(error)}")


def write_rows(dataset: Any, path: Path, table: Any, hashed: Callable[[list[str]], None]) -> list[Any]:
    """Write a table as data files (on disk when this returns) that no version holds yet; return their fragments. `hashed` takes
    the checksums of the files of those names while the disk writes them."""
    load_lance()
    from lance.fragment import write_fragments

    fragments: list[Any] = list(write_fragments(table, dataset))
    names = data_files(fragments)
    if names:
        daemon_pool.run_parallel([lambda: hashed(names), *daemon_pool.sync_calls(_with_folders(path, names))])
    return fragments


def data_files(fragments: Iterable[Any]) -> list[str]:
    """Name the data files of fragments of which Lance gave the metadata."""
    return [lance_layout.data_file(file) for fragment in fragments for file in fragment.files]


def sync_files(path: Path, names: Iterable[str]) -> None:
    """Wait until files of a dataset, and their names, are on disk."""
    sync(_with_folders(path, names))


def _with_folders(path: Path, names: Iterable[str]) -> list[Path]:
    files = [path / name for name in names]
    return [*files, *{file.parent for file in files}]


def delete_rows(dataset: Any, path: Path, addresses: Any) -> tuple[list[int], list[Any]]:
    """Delete rows as `lance_layout.delete_rows` does, with the deletion files on disk when this returns."""
    emptied, updated = lance_layout.delete_rows(dataset, addresses)
    sync_files(path, [fragment.deletion_file.path(fragment.id) for fragment in updated])
    return emptied, updated


def commit(dataset: Any, path: Path, operation: Any) -> Any:
    """Make a version of it, on disk when this returns. The given dataset stays at its own version."""
    made = load_lance().LanceDataset.commit(dataset, operation, read_version=dataset.version)
    sync_version(path, made.version)
    return made


def sync_version(path: Path, version: int) -> None:
    sync_files(path, [lance_layout.manifest_name(version)])


def delete_leftovers(dataset: Any) -> None:
    """Delete what a failed attempt left; the disk may be full of it. Nothing else may be writing."""
    try:
        with map_errors("deleting leftovers"):
            dataset.cleanup_old_versions(versions=[dataset.version], delete_unverified=True, error_if_tagged_old_versions=False)
    except Exception:
        log.warning("leftovers of a failed write to %s stay until the next pruning", dataset.uri, exc_info=True)


def copy_of(dataset: Any) -> Any:
    """Another handle of the same version: what changes a dataset in place must not move the one that readers hold."""
    return dataset.checkout_version(dataset.version)
