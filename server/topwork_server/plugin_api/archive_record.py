"""The record of what was unpacked of a downloaded archive, and the check that its files are still those.

It is `archive.json`, in the folder that the archive was unpacked into. A folder without it was not unpacked whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from topwork_server import json_records
from topwork_server.atomic_store import file_sha256, is_unchanged
from topwork_server.errors import DataLoss, NotReady

RECORD = "archive.json"


@dataclass(frozen=True)
class ArchiveRecord:
    """The source of an archive, its size and its SHA-256. `files` has the SHA-256 of each file that was unpacked of it,
    by path. `stamp` is the size and the time of an archive that lies on this machine."""

    source: str
    bytes: int
    sha256: str
    stamp: tuple[int, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Record the checksums of all that is in a folder, which an archive was just unpacked into."""
        files = {name: file_sha256(folder / name) for name in sorted(_names(folder))}
        json_records.write(folder / RECORD, {**asdict(self), "files": files})


def read(folder: Path) -> ArchiveRecord | None:
    """The record of a folder; None where there is none, or it is damaged, or lists no files, as those of older servers."""
    try:
        record = json_records.read(folder / RECORD, ArchiveRecord)
    except (FileNotFoundError, NotADirectoryError, DataLoss):
        return None
    return record if record.files else None


def check(folder: Path, source: str, sha256: str | None) -> None:
    """Raise NotReady where a folder is not of the archive with that SHA-256, or a file in it was changed, lost or added since it
    was unpacked. The error names the file."""
    record = read(folder)
    if record is None:
        raise _refused(f"{folder} has no record of what was downloaded", folder, source)
    if sha256 and record.sha256 != sha256:
        raise _refused(f"{folder} is of an archive with SHA-256 {record.sha256}, not {sha256}", folder, source)
    for name, digest in record.files.items():
        if not is_unchanged(folder / name, digest):
            raise _refused(f"{folder / name} is not the file that was downloaded: its SHA-256 is not {digest}", folder, source)
    added = sorted(_names(folder) - record.files.keys())
    if added:
        raise _refused(f"{folder / added[0]} was not in the archive that was downloaded", folder, source)


def _names(folder: Path) -> set[str]:
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {name for name in paths if name != RECORD}


def _refused(what: str, folder: Path, source: str) -> NotReady:
    return NotReady(what, remedy=f"delete the folder {folder}, and run `topwork pull` for {source} again")
