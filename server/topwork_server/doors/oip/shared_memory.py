"""Tensors in POSIX shared memory, which clients on this machine register: regions of files under /dev/shm.

They are read and written as files, not mapped: a mapping of a file that its owner cuts short would end the process.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork._display.excerpts import excerpt

from topwork_server.errors import AlreadyExists, InvalidInput, NotFound, TopworkError, Unsupported

FOLDER = Path("/dev/shm")
#: Regions that are registered at a time; each holds a file open.
MOST_REGIONS = 256
#: Parameters of a tensor that is in a region.
REGION, SIZE, OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a tensor: bytes of a region, from an offset in it."""

    region: str
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes of a file under /dev/shm, which is open."""

    name: str
    key: str
    offset: int
    size: int
    file: int

    def as_fields(self) -> dict[str, Any]:
        return {"name": self.name, "key": self.key, "offset": self.offset, "byte_size": self.size}


class SharedMemory:
    """The regions that are registered; none can be where it is not `allowed`."""

    def __init__(self, *, allowed: bool) -> None:
        self.allowed = allowed
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Open a region. AlreadyExists where the name is taken; InvalidInput where the file is not there or too short."""
        self._check_allowed()
        if not name or name in self._regions:
            raise AlreadyExists(f"there is a region {excerpt(name)}", remedy="unregister it first, or choose another name")
        if len(self._regions) >= MOST_REGIONS:
            raise InvalidInput(f"{MOST_REGIONS} regions are registered", remedy="unregister one")
        file = _open(key)
        try:
            there = os.fstat(file)
            if not stat.S_ISREG(there.st_mode) or offset < 0 or size < 1 or offset + size > there.st_size:
                raise InvalidInput(
                    f"{size:,} bytes from {offset:,} of the key {excerpt(key)}, which has {there.st_size:,}",
                    remedy="make it larger, or register less of it",
                )
        except BaseException:
            os.close(file)
            raise
        self._regions[name] = Region(name, key, offset, size, file)

    def status(self, name: str) -> Sequence[Region]:
        """The region of that name, or all where none is named."""
        self._check_allowed()
        return [self._region(name)] if name else list(self._regions.values())

    def unregister(self, name: str) -> None:
        """Close a region, if there is one of that name, or all where none is named."""
        self._check_allowed()
        for one in [name] if name else list(self._regions):
            if region := self._regions.pop(one, None):
                os.close(region.file)

    def close(self) -> None:
        for region in self._regions.values():
            os.close(region.file)
        self._regions.clear()

    def read(self, place: Place) -> bytes:
        """The bytes of an input."""
        region = self._region_with(place)
        found = os.pread(region.file, place.size, region.offset + place.offset)
        if len(found) != place.size:
            raise InvalidInput(f"the file of the region {excerpt(place.region)} was cut short", remedy="register it again")
        return found

    def write(self, place: Place, data: bytes) -> int:
        """Write an output into its place, and return how many bytes it has. An error of the status INTERNAL where they are too
        many, as Triton's clients know it."""
        region = self._region_with(place)
        if len(data) > place.size:
            raise TopworkError(
                f"an output has {len(data):,} bytes, and its place in the region {excerpt(place.region)} {place.size:,}",
                remedy="register a larger region",
            )
        if os.fstat(region.file).st_size < region.offset + region.size:
            raise InvalidInput(f"the file of the region {excerpt(place.region)} was cut short", remedy="register it again")
        return os.pwrite(region.file, data, region.offset + place.offset)

    def _region_with(self, place: Place) -> Region:
        self._check_allowed()
        region = self._region(place.region)
        if place.offset + place.size > region.size:
            raise InvalidInput(
                f"{place.size:,} bytes from {place.offset:,} of the region {excerpt(place.region)}, which has {region.size:,}",
                remedy="register a larger region",
            )
        return region

    def _region(self, name: str) -> Region:
        if name not in self._regions:
            raise NotFound(f"there is no region {excerpt(name)}", remedy="register it first")
        return self._regions[name]

    def _check_allowed(self) -> None:
        if not self.allowed:
            raise Unsupported("shared memory is off", remedy="serve with --shared-memory, or send bytes")


def place_of(parameters: Mapping[str, Any]) -> Place | None:
    """Return the place of a tensor of these parameters; None where it is in the message."""
    if REGION not in parameters:
        return None
    region, size, offset = parameters[REGION], parameters.get(SIZE, -1), parameters.get(OFFSET, 0)
    if not isinstance(region, str) or not all(type(one) is int and 0 <= one < 1 << 40 for one in (size, offset)):
        raise InvalidInput(f"a tensor in shared memory without {SIZE}", remedy=f"send {REGION}, {SIZE} and {OFFSET}")
    return Place(region, size, offset)


def check_sole_place(name: str, in_message: bool) -> None:
    """Raise InvalidInput for an input in shared memory that is in the message too."""
    if in_message:
        raise InvalidInput(f"the input {excerpt(name)} has data, beside {REGION}", remedy="send one of them")


def _open(key: str) -> int:
    name = key.removeprefix("/")
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise InvalidInput(f"{excerpt(key)} is no key of shared memory", remedy="send a name such as /mine, without folders")
    try:
        return os.open(FOLDER / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput(f"the key {excerpt(key)} cannot be opened: {error.strerror}", remedy="make it first") from None
