"""Versions of a set, listed and pinned. A pin keeps a version from pruning under a name: Lance has a file for each, and the log
of checksums a line that binds the file and says the version too. Where the file is not the one that was written, nothing in it
is believed: the pin is damaged.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork_server import atomic_store, json_records
from topwork_server.errors import AlreadyExists, DataLoss, InvalidInput, NotFound
from topwork_server.feature_sets import lance_io, lance_layout
from topwork_server.feature_sets.checksums import Checksums
from topwork_server.feature_sets.lance_io import map_errors
from topwork_server.feature_sets.lance_layout import tag_file, tag_version
from topwork_server.regular_files import bytes_below

#: Seconds for which a count of bytes is good: a set under small writes has thousands of files, and each of its writers asks.
FRESH_SECONDS = 1.0
#: Names that readers take for the version that is current.
RESERVED_PINS = frozenset({"latest", "current"})
# As Lance has them: a pin is a file of that name.
PIN_PATTERN = re.compile(r"(?!.*\.\.)(?!.*\.lock$)[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")


@dataclass(frozen=True, slots=True)
class Pin:
    """`damage` says why it cannot be trusted: `version` is then the one that was recorded, 0 where none was."""

    name: str
    version: int
    damage: DataLoss | None = None


@dataclass(frozen=True, slots=True)
class SetVersion:
    """`time` in seconds since 1970; `pins` are the names that keep it from pruning, `damaged_pins` those that were made of it and
    whose files are damaged."""

    version: int
    time: float
    pins: tuple[str, ...] = ()
    damaged_pins: tuple[str, ...] = ()


def list_versions(checksums: Checksums) -> list[SetVersion]:
    """List all versions that are kept, oldest first, damaged ones too. Lance's own list fails where one manifest is damaged."""
    there = read_pins(checksums)
    whole, damaged = _names_by_version(there, damaged=False), _names_by_version(there, damaged=True)
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
    _add_pin(dataset, checksums, name, version)
    return next(info for info in list_versions(checksums) if info.version == version)


def read_pins(checksums: Checksums) -> list[Pin]:
    """Read every pin that has a file or a record, by name."""
    recorded = map(lance_layout.tag_name, list(checksums.entries))
    names = {*lance_layout.tag_names(checksums.path), *recorded} - {""}
    pins = [pin for name in sorted(names) if (pin := _read(checksums, name))]
    if not pins:
        return []
    there = lance_layout.manifests(checksums.path)  # after the pins: no version of theirs is pruned meanwhile
    return [pin if pin.damage or pin.version in there else _without_version(checksums, pin) for pin in pins]


def first_damage(checksums: Checksums) -> DataLoss | None:
    """Say why the first damaged pin cannot be trusted; None where all are intact."""
    return next((pin.damage for pin in read_pins(checksums) if pin.damage), None)


def check_pins(checksums: Checksums) -> None:
    """Raise DataLoss where a pin is damaged."""
    if error := first_damage(checksums):
        raise error


def record_pins(checksums: Checksums) -> None:
    """Take the checksums of pins that have none: those of an older server, and one of a server that was killed as it pinned."""
    for pin in read_pins(checksums):
        if not pin.damage and tag_file(pin.name) not in checksums.entries:
            checksums.record([tag_file(pin.name)], pin.version)


def _add_pin(dataset: Any, checksums: Checksums, name: str, version: int) -> None:
    """Keep a version that is there. AlreadyExists where the name is taken, InvalidInput where Lance would not have it."""
    if not PIN_PATTERN.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot name a version",
            remedy="use letters, digits, '.', '_' and '-', a letter or digit first, at most 100",
        )
    if name.isdecimal() or name.lower() in RESERVED_PINS:
        raise InvalidInput(
            f"the pin {name!r} could be taken for a version's number, or for the current version",
            remedy="choose another name with a letter, such as v1",
        )
    for pin in read_pins(checksums):
        if pin.name == name:
            raise _taken(pin)
    _make_folder((checksums.path / tag_file(name)).parent)
    with map_errors(f"pinning version {version}"):
        dataset.tags.create(name, version)
        lance_io.sync_files(checksums.path, [tag_file(name)])
    checksums.record([tag_file(name)], version)


def remove_pin(checksums: Checksums, name: str) -> None:
    """Remove a pin, intact or damaged. A pin is a file, which is deleted in one step."""
    pins = {pin.name for pin in read_pins(checksums)}
    if name not in pins:
        raise NotFound(f"there is no pin {name!r}", remedy=f"pins are: {', '.join(sorted(pins)) or 'none'}")
    with map_errors(f"unpinning {name!r}"):
        checksums.retract(tag_file(name))
        with suppress(NotADirectoryError):
            delete_path(checksums.path / tag_file(name))


def _names_by_version(pins: list[Pin], *, damaged: bool) -> Mapping[int, tuple[str, ...]]:
    """Group the names of intact (or of damaged) pins by version."""
    names: dict[int, tuple[str, ...]] = {}
    for pin in pins:
        if (pin.damage is not None) is damaged:
            names[pin.version] = (*names.get(pin.version, ()), pin.name)
    return names


def delete_path(path: Path) -> None:
    """Delete a file, or a folder in its place, for good."""
    atomic_store.delete(path)
    with suppress(FileNotFoundError):
        lance_io.sync([path.parent])


def _read(checksums: Checksums, name: str) -> Pin | None:
    """Read a pin; None where it was removed meanwhile."""
    file = tag_file(name)
    recorded, missing = checksums.entries.get(file), False
    try:
        if recorded is not None:
            checksums.check_recorded(file, recorded)
        return Pin(name, tag_version(checksums.path, name))
    except (FileNotFoundError, NotADirectoryError) as error:
        how, missing = error.strerror or "it is gone", True
    except DataLoss as error:
        how = checksums.damaged_files.get(file) or json_records.reason(error)
    if checksums.entries.get(file) is not recorded or (missing and os.path.exists(checksums.path / file)):  # changed meanwhile
        checksums.discard_state(file)
        return _read(checksums, name)
    if recorded is None and not os.path.lexists(checksums.path / file):
        return None
    return _damaged(checksums, name, int(recorded.time) if recorded else 0, how)


def _without_version(checksums: Checksums, pin: Pin) -> Pin:
    return _damaged(checksums, pin.name, pin.version, f"there is no version {pin.version}")


def _damaged(checksums: Checksums, name: str, version: int, how: str) -> Pin:
    held = f"; it was made of version {version}" if version else ""
    error = DataLoss(
        f"the pin {name!r} of the feature set {checksums.path.stem!r} is damaged: {checksums.path / tag_file(name)}: {how}{held}",
        remedy=f"remove the pin (`UnpinVersion({checksums.path.stem}, {name})`), then pin "
        + (f"version {version} again" if version else "the version again"),
    )
    if tag_file(name) not in checksums.damaged_files:  # else the log says it
        json_records.warn_once(error.message)
    return Pin(name, version, error)


def _taken(pin: Pin) -> AlreadyExists:
    state = "is damaged: it held" if pin.damage else "holds"
    which = f"version {pin.version}" if pin.version else "an unknown version"
    return AlreadyExists(f"the pin {pin.name!r} {state} {which}", remedy="unpin it first, or choose another name")


def _make_folder(folder: Path) -> None:
    """Delete a file that stands in the place of Lance's folder of pins: it holds none."""
    for place in folder.parent, folder:
        if os.path.lexists(place) and not place.is_dir():
            place.unlink()


def _shown(versions: list[int]) -> str:
    shown = ", ".join(map(str, versions[-5:]))
    return shown if len(versions) <= 5 else f"{versions[0]} ... {shown}"


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
