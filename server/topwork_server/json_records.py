"""JSON records under the home: written with a checksum, and read back as the dataclass that they hold or not at all.

A record says `"checksum"`: xxh3 (64 bits) of the rest, so that a digit that flipped on the disk is no other number. Records of
older servers have none and are taken as they are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import xxhash

from topwork_server import atomic_store, regular_files
from topwork_server.errors import DataLoss

CHECKSUM = "checksum"
#: Bytes of a record: the largest, the report of a head with thousands of classes, has a few MiB.
LARGEST = 256 << 20

T = TypeVar("T")
log = logging.getLogger(__name__)


def dumps(record: Mapping[str, Any], indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """The record with its checksum, as JSON."""
    plain = json.loads(json.dumps(record, default=default))
    return json.dumps({**plain, CHECKSUM: _checksum(plain)}, indent=indent) + "\n"


def write(
    path: Path,
    record: Mapping[str, Any],
    indent: int | None = None,
    default: Callable[[Any], Any] | None = None,
    mode: int | None = None,
) -> None:
    """Write a record with its checksum, in place of an older one; `mode` is for permissions that are not the usual ones."""
    atomic_store.write(path, dumps(record, indent, default), mode)


def read(path: Path, kind: type[T], remedy: str = "") -> T:
    """The record at `path` as `kind`, every field of its type. FileNotFoundError where there is none; DataLoss names the file and
    what is wrong with it."""
    try:
        record = json.loads(regular_files.contents(path, LARGEST))
        if not isinstance(record, dict):
            raise ValueError(f"Expected `object`, got `{type(record).__name__}`")
        checksum = record.pop(CHECKSUM, None)
        if checksum is not None and checksum != _checksum(record):
            raise ValueError("it is not what was written (its checksum is another)")
        return convert(record, kind)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError, RecursionError, OverflowError) as error:
        raise DataLoss(f"{path} is damaged: {_said(error)}", remedy=remedy) from error


def convert(record: Any, kind: type[T]) -> T:
    """A parsed record as `kind`. ValueError names the field that is not of its type."""
    made: T = msgspec.convert(record, kind)
    return made


def reason(error: DataLoss) -> str:
    """Return what `read` found wrong, without the file's name."""
    return error.message.partition(" is damaged: ")[2]


@lru_cache(1024)
def warn_once(message: str) -> None:
    """Say in the log what is wrong with a file that is read again and again."""
    log.warning("%s", message)


def _checksum(record: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(record, sort_keys=True, separators=(",", ":")).encode())


def _said(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "it is no JSON: nested too deeply" if isinstance(error, RecursionError) else str(error) or type(error).__name__
