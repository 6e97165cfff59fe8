"""The one door to Lance: its import with threads that fit, its errors as ours, and files that are truly on disk."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from topwork_server.config import usable_cores
from topwork_server.errors import DiskFull, TopworkError
from topwork_server.feature_sets import daemon_pool
from topwork_server.feature_sets.daemon_pool import sync as sync
from topwork_server.regular_files import names_in

log = logging.getLogger(__name__)

STORAGE_VERSION = "2.1"
VERSIONS, MANIFEST = "_versions", ".manifest"
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


def manifests(path: Path) -> dict[int, str]:
    """By version, the manifests that are there: names relative to the dataset. Nothing is opened."""
    names = [name for name in names_in(path / VERSIONS) if name.endswith(MANIFEST)]
    return {manifest_version(name): f"{VERSIONS}/{name}" for name in names if name.removesuffix(MANIFEST).isdecimal()}


def manifest_name(path: Path, version: int) -> str:
    """The name of a version's manifest, of either kind of names."""
    name = f"{VERSIONS}/{(1 << 64) - 1 - version:020}{MANIFEST}"
    return name if (path / name).exists() else f"{VERSIONS}/{version}{MANIFEST}"


def manifest_version(manifest: str) -> int:
    """Lance counts versions down in the names of their manifests, so that the newest is listed first; it once counted up."""
    number = int(manifest.rpartition("/")[2].removesuffix(MANIFEST))
    return (1 << 64) - 1 - number if number >= 1 << 63 else number


def files_of(
    dataset: Any, before: Mapping[int, tuple[str, ...]] = MappingProxyType({}), touched: Container[int] = ()
) -> dict[int, tuple[str, ...]]:
    """By fragment, the data and deletion files of the dataset's version: names relative to it. `before` are those of a version
    since when only the `touched` fragments lost rows, and none got or lost data files: Lance takes 14 us to tell those of one."""
    found = {}
    for fragment in dataset._ds.get_fragments():
        number = fragment.id()
        names = before.get(number)
        if names is not None and number not in touched:
            found[number] = names
            continue
        data = tuple(name for name in names or () if name.startswith("data/"))
        data = data or tuple(f"data/{file.path}" for file in fragment.data_files())
        deletions = fragment.deletion_file()
        found[number] = (*data, deletions) if deletions else data
    return found


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
    """Whether Lance's own code gave up: pyo3's class is no `Exception`, and cannot be imported."""
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
    """Write a table as data files (on disk when this returns) that no version holds yet; gives their fragments. `hashed` takes
    the checksums of the files of those names while the disk writes them."""
    load_lance()
    from lance.fragment import write_fragments

    fragments: list[Any] = list(write_fragments(table, dataset))
    names = [f"data/{file.path}" for fragment in fragments for file in fragment.files]
    if names:
        daemon_pool.run_parallel(
            [lambda: hashed(names), *daemon_pool.sync_calls([path / "data", *(path / name for name in names)])]
        )
    return fragments


def sync_new(path: Path, before: Any, after: Any) -> None:
    """Wait until the data files that a fragment has gained are on disk."""
    names = {file.path for file in before.files}
    sync([*(path / "data" / file.path for file in after.files if file.path not in names), path / "data"])


def delete_rows(dataset: Any, path: Path, addresses: Any) -> tuple[list[int], list[Any]]:
    """Deletion files for the rows at those addresses (fragment << 32 | offset): ids of fragments with no row left, and the
    fragments that some are left of. No version holds them yet."""
    import numpy as np

    emptied, updated = [], []
    owners = addresses >> np.uint64(32)
    for owner in np.unique(owners).tolist():
        offsets = (addresses[owners == owner] & np.uint64(0xFFFFFFFF)).tolist()
        left = dataset.get_fragment(owner).delete_rows(offsets)
        if left is None:
            emptied.append(owner)
        else:
            updated.append(left)
    if updated:
        folder = path / "_deletions"
        newest = {fragment.id: _newest(folder, fragment.id) for fragment in updated}
        sync([*newest.values(), folder])
    return emptied, updated


def _newest(folder: Path, fragment: int) -> Path:
    return max(folder.glob(f"{fragment}-*"), key=lambda path: path.stat().st_mtime_ns)


def commit(dataset: Any, path: Path, operation: Any) -> Any:
    """Make a version of it, on disk when this returns. The given dataset stays at its own version."""
    made = load_lance().LanceDataset.commit(dataset, operation, read_version=dataset.version)
    sync_version(path, made.version)
    return made


def sync_version(path: Path, version: int) -> None:
    folder = path / "_versions"
    names = (f"{(1 << 64) - 1 - version}.manifest", f"{version}.manifest")
    sync([*(folder / name for name in names if (folder / name).exists()), folder])


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
