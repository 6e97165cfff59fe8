"""Checksums of the files that commits wrote: `_checksums` in the folder of a set, one line a file.

    LINE PATH SIZE SUM TIME

SUM is xxh3 (128 bits) of the file, TIME the seconds since 1970 of a manifest's commit, or the version that a pin holds, LINE
xxh3 (64 bits) of the rest of the line. A negative SIZE takes the line before it back. The lines of a commit are appended and on
disk before its writers are answered. A commit whose process was killed before that has a manifest newer than all lines:
`open_set.py` tells it from damage. Pruned files keep their lines until the log is rewritten.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import xxhash

from topwork_server import atomic_store, regular_files
from topwork_server.config import usable_cores
from topwork_server.errors import DataLoss, TopworkError
from topwork_server.feature_sets import daemon_pool, lance_layout
from topwork_server.feature_sets.dropped_sets import was_dropped

NAME = "_checksums"
#: Bytes of data files that one call checks before Lance reads them; the rest is left to later calls and to the scrub.
MOST_BYTES = 2 << 30
CHUNK_BYTES = 1 << 20
#: Bytes of the log itself: each pruning rewrites it.
MOST_LOG_BYTES = 1 << 30
#: Threads that read the files of one call.
THREADS = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileChecksum:
    size: int
    digest: str
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class FileSignature:
    """Stat fields that tell without reading that a file is still the one that was checked."""

    modified: int
    size: int
    inode: int


class Checksums:
    """The checksums of one set. Thread-safe; only the `owner`, the process that writes the set, writes the log."""

    def __init__(self, path: Path, owner: bool = True) -> None:
        self.path, self.owner = path, owner
        self._file = path / NAME
        self._root = str(path)
        self._lock = threading.Lock()
        self._computed: dict[str, tuple[FileSignature, FileChecksum]] = {}
        self._checked: dict[str, FileSignature] = {}
        self._damaged: dict[str, tuple[FileSignature | None, str]] = {}
        self.entries: dict[str, FileChecksum] = {}
        self.log_damage = self._load()

    @property
    def newest_version(self) -> int:
        """The newest version that is on record, 0 where there is none."""
        return max(map(lance_layout.manifest_version, list(self.entries)), default=0)

    @property
    def damaged_files(self) -> Mapping[str, str]:
        """Files found damaged, and how."""
        return {name: how for name, (_, how) in list(self._damaged.items())}

    def compute(self, names: Iterable[str]) -> None:
        """Compute the sums of files that a commit has written, while other threads wait for the disk; `record` stores them."""
        self._computed = {name: self._compute_one(name) for name in names}

    def record(self, names: Iterable[str], at: float = 0.0) -> None:
        """Store the sums of files that have none yet. On a full disk nothing is stored, and the next commit tries again."""
        new = [name for name in names if name not in self.entries]
        taken, self._computed = self._computed, {}
        lines = []
        for name in new:
            signature, one = taken.get(name) or self._compute_one(name)
            self.entries[name] = replace(one, time=at)
            lines.append(_format_line(name, self.entries[name]))
            self._checked[name] = signature
            self._damaged.pop(name, None)
        if lines and self.owner:
            self._append("".join(lines), new)

    def check(self, names: Iterable[str], most: int = MOST_BYTES) -> None:
        """Raise DataLoss for the first file that is not what was written. A file checked before costs one stat."""
        left, due = most, list[str]()
        for name in names:
            signature = self._signature_of(name)
            if self._checked.get(name) == signature:
                continue
            if name not in self.entries:
                self.record([name])
            elif left > 0:
                left -= signature.size
                due.append(name)
        self._verify_all(due, most - left)

    def _verify_all(self, names: list[str], size: int) -> None:
        """Verify in several threads: hashing releases the interpreter lock, which halves the wait of a first read."""
        parts = min(THREADS, usable_cores(), len(names)) if size > CHUNK_BYTES else 1
        daemon_pool.run_parallel([partial(self._verify_each, names[part::parts]) for part in range(parts)])

    def _verify_each(self, names: list[str]) -> None:
        for name in names:
            self.verify(name)

    def verify(self, name: str) -> None:
        """Read a whole file and compare it with its sum, even if it was checked before. A file without a sum gets one."""
        signature, recorded = self._signature_of(name), self.entries.get(name)
        if recorded is None:
            return self.record([name])
        return self._compare(name, signature, recorded)

    def check_recorded(self, name: str, recorded: FileChecksum) -> None:
        """Raise DataLoss where a file is not the one on record. It is given no sum where that is retracted meanwhile."""
        signature = self._signature_of(name)
        if self._checked.get(name) != signature:
            self._compare(name, signature, recorded)

    def _compare(self, name: str, signature: FileSignature, recorded: FileChecksum) -> None:
        if signature.size != recorded.size:
            raise self._mark_damaged(name, signature, f"it has {signature.size} bytes, and {recorded.size} were written")
        if (bad := self._damaged.get(name)) and bad[0] == signature:
            raise self._data_loss(name)
        try:
            found = digest_of(self._full_path(name))
        except OSError as error:
            raise self._mark_damaged(name, signature, error.strerror or str(error)) from error
        if found != recorded.digest:
            raise self._mark_damaged(name, signature, "it is not the file that was written (its checksum is another)")
        self._damaged.pop(name, None)
        self._checked[name] = signature

    def retract(self, name: str) -> None:
        """Retract the sum of a file that is about to be deleted."""
        recorded = self.entries.pop(name, None)
        self.discard_state(name)
        if recorded and self.owner:
            self._append(_format_line(name, FileChecksum(-1, "-")), [])

    def discard_state(self, name: str) -> None:
        """Discard findings about a file that no longer belongs to the set."""
        self._checked.pop(name, None)
        self._damaged.pop(name, None)

    def rewrite(self, there: Iterable[str]) -> None:
        """Rewrite the log with the lines of the present files only; leave it where nothing would change."""
        present = set(there)
        if not self.log_damage and {*self.entries, *self._damaged} <= present and self._file.is_file():
            return
        with self._lock:
            self.entries = {name: one for name, one in self.entries.items() if name in present}
            for recorded in (self._checked, self._damaged):
                for name in [name for name in recorded if name not in present]:
                    del recorded[name]
            try:
                atomic_store.sweep(self.path)  # one writer has the set
                atomic_store.write(self._file, "".join(_format_line(name, one) for name, one in self.entries.items()))
                self.log_damage = ""
            except OSError as error:
                log.warning("%s could not be written: %s", self._file, error)

    def _compute_one(self, name: str) -> tuple[FileSignature, FileChecksum]:
        signature = self._signature_of(name)
        return signature, FileChecksum(signature.size, digest_of(self._full_path(name)))

    def _full_path(self, name: str) -> str:
        """Join the path as text: building a Path takes longer than the stat."""
        return f"{self._root}/{name}"

    def _signature_of(self, name: str) -> FileSignature:
        try:
            return _signature(self._full_path(name))
        except OSError as error:
            raise self._mark_damaged(
                name, None, "it is gone" if isinstance(error, FileNotFoundError) else str(error.strerror)
            ) from error

    def _mark_damaged(self, name: str, signature: FileSignature | None, how: str) -> TopworkError:
        """Note the damage and return DataLoss, or NotFound where the set was dropped during the read."""
        if not self.path.is_dir():
            return was_dropped(self.path.stem)
        if name not in self._damaged:
            log.error("%s is damaged: %s", self.path / name, how)
        self._damaged[name] = signature, how
        self._checked.pop(name, None)
        return self._data_loss(name)

    def _data_loss(self, name: str) -> DataLoss:
        return DataLoss(
            f"the feature set {self.path.stem!r} is damaged: {self.path / name}: {self._damaged[name][1]}",
            remedy=f"put the file back from a copy, or read a version from before it (`ListVersions({self.path.stem})`), or drop "
            "the set",
        )

    def _append(self, lines: str, names: list[str]) -> None:
        try:
            with self._lock:
                handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o644)
                try:
                    os.write(handle, lines.encode())
                    os.fdatasync(handle)
                finally:
                    os.close(handle)
        except OSError as error:
            log.warning("%s could not be written: %s", self._file, error)
            for name in names:
                del self.entries[name]

    def _load(self) -> str:
        """Read the log; return what is wrong with it, "" where nothing is."""
        try:
            lines = regular_files.contents(self._file, MOST_LOG_BYTES).splitlines()
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{self._file} is damaged: {error.strerror}"
        wrong = 0
        for line in lines:
            try:
                name, one = _parse_line(line)
                self.entries[name] = one
                if one.size < 0:
                    del self.entries[name]
            except ValueError:
                wrong += 1
        return f"{self._file} is damaged: {wrong} of {len(lines)} lines" if wrong else ""


def digest_of(path: str) -> str:
    """Hash a file in one pass, without a copy of it in memory."""
    hasher = xxhash.xxh3_128()
    with regular_files.opened(path) as file:
        piece = bytearray(min(CHUNK_BYTES, os.fstat(file.fileno()).st_size + 1))
        view = memoryview(piece)
        while count := file.readinto(piece):
            hasher.update(view[:count])
    return hasher.hexdigest()


def _signature(path: str) -> FileSignature:
    status = regular_files.status_of(path)
    return FileSignature(status.st_mtime_ns, status.st_size, status.st_ino)


def _format_line(name: str, one: FileChecksum) -> str:
    rest = f"{name} {one.size} {one.digest} {one.time or time.time():.3f}"
    return f"{xxhash.xxh3_64_hexdigest(rest.encode())} {rest}\n"


def _parse_line(line: bytes) -> tuple[str, FileChecksum]:
    checksum, _, rest = line.partition(b" ")
    if xxhash.xxh3_64_hexdigest(rest).encode() != checksum:
        raise ValueError("not a line that was written")
    name, size, digest, at = rest.decode().rsplit(" ", 3)
    return name, FileChecksum(int(size), digest, float(at))
