"""Versions of a set: listed, pinned under a name, pruned. A version that somebody reads is never pruned."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork_server.errors import AlreadyThere, InvalidInput, NotFound
from topwork_server.sets.lance_io import mapped

TRIES = 20

# As Lance has them: a pin is a file of that name.
PIN = re.compile(r"(?!.*\.\.)(?!.*\.lock$)[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """`time` in seconds since 1970; `pins` are the names that keep it from pruning."""

    version: int
    time: float
    pins: tuple[str, ...] = ()


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


def pins_of(path: Path) -> list[str]:
    """Of the dataset there, by the names of Lance's own files: nothing is opened."""
    return sorted(file.stem for file in (path / "_refs" / "tags").glob("*.json"))


def listed(dataset: Any) -> list[VersionInfo]:
    """All versions that are kept, oldest first."""
    with mapped("listing versions"):
        pins: dict[int, list[str]] = {}
        for pin, tag in _tags(dataset).items():
            pins.setdefault(tag["version"], []).append(pin)
        found = [(v["version"], v["timestamp"].timestamp()) for v in dataset.versions()]
    return [VersionInfo(version, at, tuple(sorted(pins.get(version, ())))) for version, at in sorted(found)]


def _tags(dataset: Any) -> dict[str, Any]:
    """Lance reads a file a tag, one after another, and fails where one goes meanwhile: then they are read again."""
    for _ in range(TRIES):
        with suppress(ValueError, OSError):
            return dict(dataset.tags.list())
    return dict(dataset.tags.list())


def pin(dataset: Any, name: str, version: int) -> VersionInfo:
    """Keep a version under a name. AlreadyThere where the name is taken, NotFound where the version is gone."""
    if not PIN.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot name a version",
            remedy="use letters, digits, '.', '_' and '-', a letter or digit first, at most 100",
        )
    versions = {info.version: info for info in listed(dataset)}
    if version not in versions:
        raise NotFound(f"there is no version {version}", remedy=f"choose one of {_some(list(versions))}")
    for info in versions.values():
        if name in info.pins:
            raise AlreadyThere(f"the pin {name!r} holds version {info.version}", remedy="unpin it first, or choose another name")
    with mapped(f"pinning version {version}"):
        dataset.tags.create(name, version)
    info = versions[version]
    return VersionInfo(version, info.time, tuple(sorted((*info.pins, name))))


def unpin(dataset: Any, name: str) -> None:
    with mapped("listing pins"):
        pins = list(_tags(dataset))
    if name not in pins:
        raise NotFound(f"there is no pin {name!r}", remedy=f"pins are: {', '.join(sorted(pins)) or 'none'}")
    with mapped(f"unpinning {name!r}"):
        dataset.tags.delete(name)


def prunable(dataset: Any, readers: Readers, older_than: float, most: int | None = None) -> list[int]:
    """Versions that may go: not the current one, not pinned, not read, and older than so many seconds (or beyond the newest
    `most`)."""
    held, now = readers.held() | {dataset.version}, time.time()
    infos = listed(dataset)
    beyond = {info.version for info in infos[:-most]} if most else set()
    old = (info for info in infos if now - info.time >= older_than or info.version in beyond)
    return [info.version for info in old if info.version not in held and not info.pins]


def prune(dataset: Any, versions: list[int]) -> tuple[int, int]:
    """Delete those versions, and whatever files no version holds (of commits that never ended): (versions, bytes) removed.

    To be called where no commit is under way. The current version in the list is left, so it alone deletes leftovers only.
    """
    with mapped("pruning versions"):
        stats = dataset.cleanup_old_versions(
            versions=versions or [dataset.version], delete_unverified=True, error_if_tagged_old_versions=False
        )
    return int(stats.old_versions), int(stats.bytes_removed)


def _some(versions: list[int]) -> str:
    shown = ", ".join(map(str, versions[-5:]))
    return shown if len(versions) <= 5 else f"{versions[0]} ... {shown}"
