"""Versions of a set: listed, pinned under a name, pruned. A version that somebody reads is never pruned."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork_server.errors import DataLoss, NotFound
from topwork_server.feature_sets import lance_io, pins
from topwork_server.feature_sets.checksums import Checksums
from topwork_server.feature_sets.lance_io import mapped


@dataclass(frozen=True, slots=True)
class SetVersion:
    """`time` in seconds since 1970; `pins` are the names that keep it from pruning, `damaged_pins` those that were made of it and
    whose files are damaged."""

    version: int
    time: float
    pins: tuple[str, ...] = ()
    damaged_pins: tuple[str, ...] = ()


class Readers:
    """Counts who reads which version."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[int] = Counter()

    def enter(self, version: int) -> None:
        with self._lock:
            self._counts[version] += 1

    def leave(self, version: int) -> None:
        with self._lock:
            self._counts[version] -= 1

    @contextmanager
    def holding(self, version: int) -> Iterator[None]:
        self.enter(version)
        try:
            yield
        finally:
            self.leave(version)

    def held(self) -> set[int]:
        with self._lock:
            return {version for version, count in self._counts.items() if count > 0}


def listed(sums: Checksums) -> list[SetVersion]:
    """All versions that are kept, oldest first, damaged ones too. Lance is not asked: it fails where one manifest is damaged."""
    there = pins.found(sums)
    whole, damaged = pins.by_version(there, damaged=False), pins.by_version(there, damaged=True)
    found = []
    for version, name in sorted(lance_io.manifests(sums.path).items()):
        with suppress(FileNotFoundError):  # pruned meanwhile
            at = sums.sums[name].time if name in sums.sums else (sums.path / name).stat().st_mtime
            found.append(SetVersion(version, at, whole.get(version, ()), damaged.get(version, ())))
    return found


def pin(dataset: Any, sums: Checksums, name: str, version: int) -> SetVersion:
    """Keep a version under a name. AlreadyExists where the name is taken, NotFound where the version is gone."""
    there = list(lance_io.manifests(sums.path))
    if version not in there:
        raise NotFound(f"there is no version {version}", remedy=f"choose one of {_some(sorted(there))}")
    pins.add(dataset, sums, name, version)
    return next(info for info in listed(sums) if info.version == version)


def prunable(sums: Checksums, current: int, readers: Readers, older_than: float, most: int | None = None) -> list[int]:
    """Versions that may go: not the current one, not pinned, not read, and older than so many seconds (or beyond the newest
    `most`). DataLoss while a pin is damaged: nobody can tell for sure what it keeps."""
    pins.check(sums)
    held, now = readers.held() | {current}, time.time()
    infos = listed(sums)
    beyond = {info.version for info in infos[:-most]} if most else set()
    old = (info for info in infos if now - info.time >= older_than or info.version in beyond)
    return [info.version for info in old if info.version not in held and not info.pins]


def prune(dataset: Any, sums: Checksums, versions: list[int]) -> tuple[int, int]:
    """Delete those versions, and whatever files no version holds (of commits that never ended): (versions, bytes) removed.

    To be called where no commit is under way. The current version in the list is left, so it alone deletes leftovers only.
    Lance reads every manifest: damaged ones in the list go first, and another one is DataLoss, since nobody can tell its files.
    """
    sums.verify(lance_io.manifest_of(sums.path, dataset.version))  # else the record of a newest one that is gone would go too
    gone = _without_damaged(sums, versions)
    left = [version for version in versions if version not in gone]
    with mapped("pruning versions"):
        stats = dataset.cleanup_old_versions(
            versions=left or [dataset.version], delete_unverified=True, error_if_tagged_old_versions=False
        )
    sums.rewrite(_files(sums.path))
    return int(stats.old_versions) + len(gone), int(stats.bytes_removed)


def _without_damaged(sums: Checksums, versions: list[int]) -> list[int]:
    gone = []
    for version, name in lance_io.manifests(sums.path).items():
        try:
            if name in sums.sums:
                sums.check([name])
        except DataLoss:
            if version not in versions:
                raise
            pins.removed(sums.path / name)
            gone.append(version)
    return gone


def _files(path: Path) -> list[str]:
    """Those that have checksums."""
    folders = ("data", "_deletions", lance_io.VERSIONS, pins.TAGS)
    return [f"{folder}/{name}" for folder in folders if (path / folder).is_dir() for name in os.listdir(path / folder)]


def _some(versions: list[int]) -> str:
    shown = ", ".join(map(str, versions[-5:]))
    return shown if len(versions) <= 5 else f"{versions[0]} ... {shown}"
