"""Private knowledge of Lance, all in this file, each item with its reason; everything else uses Lance's public interface.

    data/NAME.lance                             rows
    _deletions/FRAGMENT-VERSION-ID.arrow        (or .bin) offsets of deleted rows
    _versions/18446744073709551614.manifest     version 1: the newest comes first
    _refs/tags/NAME.json                        {"version": 1, ...}
    _transactions, _versions/*.json             notes and hints: Lance reads them, and no row depends on them

Why names: Lance may abort the process, or wait for ever, on a damaged file, so the files that it is going to read are checked
before it opens a set. Its listings (`tracked_files`, `version_refs`, `tags.list`) need an open one, and one damaged file fails
them whole. `test_lance_layout.py` compares each item with what Lance itself says, and fails when a release changes one.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from topwork_server import json_records
from topwork_server.regular_files import names_in
from topwork_server.types import Array

DATA, DELETIONS, VERSIONS, TRANSACTIONS, TAGS = "data", "_deletions", "_versions", "_transactions", "_refs/tags"

_MANIFEST, _TAG = ".manifest", ".json"
_NEWEST = (1 << 64) - 1
# The last bytes of a manifest: one without them is of a commit that a power cut tore.
_MAGIC = b"LANC"
_FRAGMENT_BITS = np.uint64(32)


def make_folders(path: Path) -> None:
    """Create the folders of a new dataset that Lance creates when it needs them: commits sync files and the names in their
    folders, not the names of folders."""
    for folder in (DATA, DELETIONS, TAGS):
        (path / folder).mkdir(parents=True, exist_ok=True)


def manifest_name(version: int) -> str:
    """Name a version's manifest, relative to the dataset."""
    return f"{VERSIONS}/{_NEWEST - version:020}{_MANIFEST}"


def manifest_version(name: str) -> int:
    """Return the version of a manifest, 0 for any other file."""
    number = name.removeprefix(f"{VERSIONS}/").removesuffix(_MANIFEST)
    return _NEWEST - int(number) if name.endswith(_MANIFEST) and number.isdecimal() else 0


def manifests(path: Path) -> dict[int, str]:
    """Map each version that is there to its manifest's name. Nothing is opened."""
    names = (f"{VERSIONS}/{name}" for name in names_in(path / VERSIONS))
    return {version: name for name in names if (version := manifest_version(name))}


def is_whole_manifest(path: Path) -> bool:
    """Tell whether a manifest was written to its end."""
    return path.read_bytes().endswith(_MAGIC)


def checked_files(path: Path) -> list[str]:
    """List the files that have checksums: those of the folders of data, deletions, versions and tags."""
    return _files_in(path, DATA, DELETIONS, VERSIONS, TAGS)


def unchecked_files(path: Path) -> list[str]:
    """List the files that Lance looks for by itself in the folders of versions and transactions."""
    return _files_in(path, VERSIONS, TRANSACTIONS)


def _files_in(path: Path, *folders: str) -> list[str]:
    return [f"{folder}/{name}" for folder in folders for name in names_in(path / folder)]


def data_file(file: Any) -> str:
    """Name a data file: Lance's `DataFile.path` is relative to its folder of data."""
    return f"{DATA}/{file.path}"


def is_deletion_file(name: str) -> bool:
    return name.startswith(f"{DELETIONS}/")


def files_of(
    dataset: Any, before: Mapping[int, tuple[str, ...]] = MappingProxyType({}), touched: Container[int] = ()
) -> dict[int, tuple[str, ...]]:
    """Map each fragment of the dataset's version to its data and deletion files. `before` are those of a version since when only
    the `touched` fragments lost rows, and none got or lost data files: Lance takes 14 us to tell those of one."""
    ids = dataset.fragment_ids()
    return {id: before[id] if id in before and id not in touched else _files_of_one(dataset.get_fragment(id)) for id in ids}


def _files_of_one(fragment: Any) -> tuple[str, ...]:
    deletions = fragment.deletion_file()
    return (*map(data_file, fragment.data_files()), *([deletions] if deletions else []))


@dataclass(frozen=True)
class _TagRecord:
    version: int


def tag_file(name: str) -> str:
    """Name the file of a tag: to delete it is to delete the tag, be it damaged or not."""
    return f"{TAGS}/{name}{_TAG}"


def tag_name(file: str) -> str:
    """Return the tag of a file, "" for a file that is none of a tag."""
    inside = file.startswith(f"{TAGS}/") and file.endswith(_TAG)
    return file.removeprefix(f"{TAGS}/").removesuffix(_TAG) if inside else ""


def tag_names(path: Path) -> list[str]:
    """List the tags that have a file. Nothing is opened."""
    with suppress(OSError):
        return [name for file in sorted(os.listdir(path / TAGS)) if (name := tag_name(f"{TAGS}/{file}"))]
    return []


def tag_version(path: Path, name: str) -> int:
    """Read the version of a tag. FileNotFoundError, or DataLoss where the file does not say it."""
    return json_records.read(path / tag_file(name), _TagRecord).version


def fragments_of(addresses: Array) -> Array:
    """Return (n,) uint64: the fragments of row addresses, which Lance gives as `_rowaddr`."""
    return np.asarray(addresses, np.uint64) >> _FRAGMENT_BITS


def by_fragment(addresses: Array) -> Iterator[tuple[int, Array]]:
    """Yield each fragment of some row addresses, and the positions of its own among them."""
    owners = fragments_of(addresses)
    for owner in np.unique(owners).tolist():
        yield owner, np.flatnonzero(owners == owner)


def addresses_of(fragment: int, rows: int) -> Array:
    """Return (rows,) uint64: the addresses of the first rows of a fragment, deleted ones included."""
    return (np.uint64(fragment) << _FRAGMENT_BITS) + np.arange(rows, dtype=np.uint64)


def take_rows(dataset: Any, addresses: Array, columns: Sequence[str]) -> Any:
    """Read rows by address, in that order. Lance calls it internal, but `take` (positions among the rows that are left) costs 1.8
    times as much, and a filter on ids 15 times (10 of 20,000 rows, 150 fragments)."""
    import pyarrow as pa

    return dataset._take_rows(pa.array(addresses, pa.uint64()), columns=list(columns))


def delete_rows(dataset: Any, addresses: Array) -> tuple[list[int], list[Any]]:
    """Write deletion files for the rows at those addresses; give the ids of fragments with no row left, and the others' new
    metadata. No version holds them yet. Lance calls it internal, but `delete` and `merge_insert` commit each alone, look for
    the rows first, and make 16 and 19 upserts of 10 rows a second where this makes 44 (20,000 rows)."""
    emptied, updated = [], []
    for fragment, positions in by_fragment(addresses):
        offsets = addresses[positions] - addresses_of(fragment, 1)
        left = dataset.get_fragment(fragment).delete_rows(offsets.tolist())
        emptied.append(fragment) if left is None else updated.append(left)
    return emptied, updated
