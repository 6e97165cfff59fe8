"""Versions of a set: listed, pinned under a name, pruned. A version in use is never pruned."""

from __future__ import annotations

import threading
import time
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork_server.errors import DataLoss, NotFound
from topwork_server.feature_sets import lance_layout, pins
from topwork_server.feature_sets.checksums import Checksums
from topwork_server.feature_sets.lance_io import map_errors
from topwork_server.regular_files import bytes_below

#: Seconds for which a count of bytes is good: a set under small writes has thousands of files, and each of its writers asks.
FRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class SetVersion:
    """`time` in seconds since 1970; `pins` are the names that keep it from pruning, `damaged_pins` those that were made of it and
    whose files are damaged."""

    version: int
    time: float
    pins: tuple[str, ...] = ()
    damaged_pins: tuple[str, ...] = ()


class DiskUsage:
    """Thread-safe; one thread counts at a time, and others take what was counted before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counting = threading.Lock()
        self._counted = float("-inf"), 0

    def bytes(self) -> int:
        """Return the bytes of all versions, as they were up to a second ago."""
        when, found = self._counted
        first = found == 0
        if time.monotonic() - when > FRESH_SECONDS and self._counting.acquire(blocking=first):
            try:
                found = bytes_below(self._folder)
                self._counted = time.monotonic(), found
            finally:
                self._counting.release()
        return found


def list_versions(checksums: Checksums) -> list[SetVersion]:
    """List all versions that are kept, oldest first, damaged ones too. Lance's own list fails where one manifest is damaged."""
    there = pins.read_pins(checksums)
    whole, damaged = pins.names_by_version(there, damaged=False), pins.names_by_version(there, damaged=True)
    found = []
    for version, name in sorted(lance_layout.manifests(checksums.path).items()):
        with suppress(FileNotFoundError):  # pruned meanwhile
            at = checksums.entries[name].time if name in checksums.entries else (checksums.path / name).stat().st_mtime
            found.append(SetVersion(version, at, whole.get(version, ()), damaged.get(version, ())))
    return found


def pin(dataset: Any, checksums: Checksums, name: str, version: int) -> SetVersion:
    """Keep a version under a name. AlreadyExists where the name is taken, NotFound where the version is gone."""
    there = list(lance_layout.manifests(checksums.path))
    if version not in there:
        raise NotFound(f"there is no version {version}", remedy=f"choose one of {_shown(sorted(there))}")
    pins.add_pin(dataset, checksums, name, version)
    return next(info for info in list_versions(checksums) if info.version == version)


def prunable(checksums: Checksums, in_use: Container[int], older_than: float, most: int | None = None) -> list[int]:
    """List the versions that may go: not in use, not pinned, and older than so many seconds (or beyond the newest
    `most`). DataLoss while a pin is damaged: it is not certain which version it keeps."""
    pins.check_pins(checksums)
    now = time.time()
    infos = list_versions(checksums)
    beyond = {info.version for info in infos[:-most]} if most else set()
    old = (info for info in infos if now - info.time >= older_than or info.version in beyond)
    return [info.version for info in old if info.version not in in_use and not info.pins]


def prune(dataset: Any, checksums: Checksums, versions: list[int]) -> tuple[int, int]:
    """Delete those versions, and files that no version holds (of commits that never ended): (versions, bytes) removed.

    To be called where no commit is under way. The current version in the list is left, so it alone deletes leftovers only.
    Lance reads every manifest: damaged ones in the list go first, and another one is DataLoss, since its files are unknown.
    """
    # Else the record of a newest manifest that is gone would go too.
    checksums.verify(lance_layout.manifest_name(dataset.version))
    deleted = _delete_damaged(checksums, versions)
    left = [version for version in versions if version not in deleted]
    with map_errors("pruning versions"):
        stats = dataset.cleanup_old_versions(
            versions=left or [dataset.version], delete_unverified=True, error_if_tagged_old_versions=False
        )
    checksums.rewrite(lance_layout.checked_files(checksums.path))
    return int(stats.old_versions) + len(deleted), int(stats.bytes_removed)


def _delete_damaged(checksums: Checksums, versions: list[int]) -> list[int]:
    deleted = []
    for version, name in lance_layout.manifests(checksums.path).items():
        try:
            if name in checksums.entries:
                checksums.check([name])
        except DataLoss:
            if version not in versions:
                raise
            pins.delete_path(checksums.path / name)
            deleted.append(version)
    return deleted


def _shown(versions: list[int]) -> str:
    shown = ", ".join(map(str, versions[-5:]))
    return shown if len(versions) <= 5 else f"{versions[0]} ... {shown}"
