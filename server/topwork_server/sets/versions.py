"""Versions of a set: listed, pinned under a name, pruned. A version that somebody reads is never pruned."""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork_server import stored_json
from topwork_server.errors import AlreadyThere, DataLoss, InvalidInput, NotFound
from topwork_server.sets import lance_io
from topwork_server.sets.checksums import Checksums
from topwork_server.sets.lance_io import mapped

log = logging.getLogger(__name__)

TAGS = "_refs/tags"

# As Lance has them: a pin is a file of that name.
PIN = re.compile(r"(?!.*\.\.)(?!.*\.lock$)[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """`time` in seconds since 1970; `pins` are the names that keep it from pruning."""

    version: int
    time: float
    pins: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Tag:
    """What Lance's file of a pin says."""

    version: int


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
    return sorted(file.stem for file in (path / TAGS).glob("*.json"))


def listed(sums: Checksums) -> list[VersionInfo]:
    """All versions that are kept, oldest first, damaged ones too. Lance is not asked: it fails where one manifest is damaged."""
    pins: dict[int, list[str]] = {}
    for pin, version in pinned(sums).items():
        pins.setdefault(version, []).append(pin)
    found = []
    for version, name in sorted(lance_io.manifests(sums.path).items()):
        with suppress(FileNotFoundError):  # pruned meanwhile
            at = sums.sums[name].time if name in sums.sums else (sums.path / name).stat().st_mtime
            found.append(VersionInfo(version, at, tuple(sorted(pins.get(version, ())))))
    return found


def pinned(sums: Checksums) -> dict[str, int]:
    """The version of each pin. Where the file of one is damaged, what was recorded of it."""
    found = {}
    for pin in {*pins_of(sums.path), *(Path(name).stem for name in list(sums.sums) if name.startswith(TAGS))}:
        try:
            found[pin] = stored_json.read(sums.path / _tag(pin), _Tag).version
        except (FileNotFoundError, DataLoss) as error:
            known = sums.sums.get(_tag(pin))
            if known is not None:
                found[pin] = int(known.time)
            elif isinstance(error, DataLoss):
                stored_json.warn_once(error.message)
    return found


def mend_pins(dataset: Any, sums: Checksums) -> None:
    """Write the files of pins anew that are damaged or gone, and record those that no record has."""
    for pin, version in pinned(sums).items():
        name = _tag(pin)
        try:
            sums.verify(name) if name in sums.sums else sums.record([name], version)
        except DataLoss as error:
            log.warning("the pin is written anew: %s", error.message)
            _removed(sums.path / name)
            with mapped(f"pinning version {version}"):
                dataset.tags.create(pin, version)
            sums.take_back(name)
            sums.record([name], version)


def pin(dataset: Any, sums: Checksums, name: str, version: int) -> VersionInfo:
    """Keep a version under a name. AlreadyThere where the name is taken, NotFound where the version is gone."""
    if not PIN.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot name a version",
            remedy="use letters, digits, '.', '_' and '-', a letter or digit first, at most 100",
        )
    versions = {info.version: info for info in listed(sums)}
    if version not in versions:
        raise NotFound(f"there is no version {version}", remedy=f"choose one of {_some(list(versions))}")
    for info in versions.values():
        if name in info.pins:
            raise AlreadyThere(f"the pin {name!r} holds version {info.version}", remedy="unpin it first, or choose another name")
    with mapped(f"pinning version {version}"):
        dataset.tags.create(name, version)
    sums.record([_tag(name)], version)
    info = versions[version]
    return VersionInfo(version, info.time, tuple(sorted((*info.pins, name))))


def unpin(sums: Checksums, name: str) -> None:
    """A pin is a file, which is gone in one step."""
    pins = {*pinned(sums), *pins_of(sums.path)}
    if name not in pins:
        raise NotFound(f"there is no pin {name!r}", remedy=f"pins are: {', '.join(sorted(pins)) or 'none'}")
    with mapped(f"unpinning {name!r}"):
        sums.take_back(_tag(name))
        _removed(sums.path / _tag(name))


def prunable(sums: Checksums, current: int, readers: Readers, older_than: float, most: int | None = None) -> list[int]:
    """Versions that may go: not the current one, not pinned, not read, and older than so many seconds (or beyond the newest
    `most`)."""
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
            _removed(sums.path / name)
            gone.append(version)
    return gone


def _files(path: Path) -> list[str]:
    """Those that have checksums."""
    folders = ("data", "_deletions", lance_io.VERSIONS, TAGS)
    return [f"{folder}/{name}" for folder in folders if (path / folder).is_dir() for name in os.listdir(path / folder)]


def _tag(pin: str) -> str:
    return f"{TAGS}/{pin}.json"


def _removed(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    lance_io.sync([path.parent])


def _some(versions: list[int]) -> str:
    shown = ", ".join(map(str, versions[-5:]))
    return shown if len(versions) <= 5 else f"{versions[0]} ... {shown}"
