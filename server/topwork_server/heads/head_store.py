"""Owns $TOPWORK_HOME/heads, the heads that were trained here. Each is complete or absent.

heads/NAME/VERSION/head.onnx     the graph, as `model.Head` says
                   typicality.onnx  how like the training items an item is (typicality.py); not of each head
                   report.json   where the head was evaluated
                   head.json     the head, and checksums of the others; written last
A version is the time of its publication in nanoseconds and is never reused; the newest is the head. A version is published by
renaming a folder whose files are already on disk, so that a killed job leaves the old head or the new one. Readers take no lock.

heads/.NAME.publishing  heads that were trained together, a folder each, of which NAME is the first: whole, and on their way to
                        their places. Where the job is killed then, `finish` takes them there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from topwork._display.excerpts import excerpt
from topwork.report import Report

from topwork_server import atomic_store, json_records, regular_files
from topwork_server.atomic_store import disk_errors, file_sha256
from topwork_server.errors import DataLoss, NotFound, NotReady, TopworkError
from topwork_server.heads.head_types import Head
from topwork_server.names import NAME, check_name, instead
from topwork_server.regular_files import bytes_below, names_in

log = logging.getLogger(__name__)

#: The format of the folder and its files; raised when they change.
FORMAT = 2
HEAD, GRAPH, REPORT, TYPICALITY = "head.json", "head.onnx", "report.json", "typicality.onnx"
PUBLISHING = ".publishing"
RETRAIN = "train it again with replace, or drop it"
#: Attempts to read a head that keeps being replaced.
TRIES = 100


@dataclass(frozen=True)
class HeadPointer:
    """The contents of head.json."""

    format: int
    head: Head
    files: Mapping[str, str]


@dataclass(frozen=True)
class NewHead:
    """A head to publish: its graph, its report, and the graph of its typicality, if any."""

    head: Head
    graph: bytes
    report: Report | None
    typicality: bytes = b""


@dataclass(frozen=True)
class StoredHead:
    """A head and its graph on the disk.

    `stamp` tells it from other heads that had the name; `sha256` is that of the graph, `report` that of the report and
    `typicality` that of the graph of the typicality, if any.
    """

    head: Head
    graph: Path
    stamp: tuple[Any, ...]
    sha256: str
    report: str = ""
    typicality: str = ""

    @property
    def typicality_graph(self) -> Path | None:
        return self.graph.parent / TYPICALITY if self.typicality else None

    def check_graph(self, graph: Path | None = None) -> None:
        """Raise NotReady where the graph, or the other one, is not the file that was written, FileNotFoundError where it is
        gone."""
        graph = graph or self.graph
        try:
            found = file_sha256(graph)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self.damage(f"cannot be read: {error.strerror}", graph) from error
        if found != (self.sha256 if graph == self.graph else self.typicality):
            raise self.damage("is not the file that was written", graph)

    def damage(self, how: str, graph: Path | None = None) -> NotReady:
        """The error for a damaged graph."""
        remedy = f"run `topwork export {self.head.encoder} --force`" if self.head.pretrained else RETRAIN
        return damaged_head(self.head.name, self.graph.parent, f"{(graph or self.graph).name} {how}", remedy)


class HeadStore:
    """Reads and publishes heads. It is thread-safe; several processes may read, and one at a time may publish a name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cache: dict[str, StoredHead] = {}

    def publish(self, head: Head, graph: bytes, report: Report | None, typicality: bytes = b"") -> None:
        """Write a head in place of an older one of its name, durably. DiskFull where there is no space."""
        self.publish_together([NewHead(head, graph, report, typicality)])

    def publish_together(self, made: Sequence[NewHead]) -> None:
        """Write heads in place of older ones of their names, durably, all or none. DiskFull where there is no space."""
        for one in made:
            check_name(one.head.name, "a head")
        first, places = made[0].head.name, [self.folder / one.head.name for one in made]
        with disk_errors(f"the head {first!r}", "train"):
            for place in places:
                atomic_store.make_folder(place)
            try:
                with atomic_store.scratch_folder(self.folder) as scratch:
                    for one in made:
                        (scratch / one.head.name).mkdir()
                        _write(scratch / one.head.name, one)
                    if len(made) == 1:
                        return self._place(scratch / first)
                    atomic_store.publish(scratch, self._publishing(first))
                self._place_all(first)
            finally:
                for place in places:
                    with suppress(OSError):
                        place.rmdir()  # only a first head that could not be written leaves it empty

    def finish(self, name: str) -> None:
        """Finish the publication of the heads that were trained together with a head, where their job was killed in it. It never
        raises: what is left is tried again at the next start."""
        try:
            self._place_all(name)
        except OSError as error:
            log.warning("head=%s: what was trained together is not published yet: %s", name, error)

    def names(self) -> list[str]:
        """The names of all heads, sorted, including those that cannot be read."""
        return sorted(name for name in names_in(self.folder) if NAME.fullmatch(name) and _versions(self.folder / name))

    def get(self, name: str) -> Head:
        """Read a head. NotFound suggests similar names; NotReady where its files are damaged."""
        return self.find(name).head

    def all(self) -> list[Head]:
        """Return all readable heads, sorted by name; the others are logged and left out."""
        heads = []
        for name in self.names():
            try:
                heads.append(self.get(name))
            except TopworkError as error:
                log.warning("head=%s is left out: %s", name, error)
        return heads

    def graph(self, name: str) -> Path:
        """The path of a graph; `find` gives it together with its head."""
        return self.find(name).graph

    def find(self, name: str) -> StoredHead:
        """Read a head and its graph, of one version. It takes microseconds where the version is cached."""
        for _ in range(TRIES):
            version = self._newest(name)
            folder = self.folder / name / version
            try:
                return self._load(name, folder)
            except (FileNotFoundError, NotADirectoryError) as error:
                if self._newest(name) == version:  # otherwise it was replaced while it was read
                    raise damaged_head(name, folder, f"{HEAD} is gone") from error
        raise NotReady(f"the head {name!r} is replaced again and again", remedy="try again")

    def report(self, name: str) -> Report:
        """Read a report. NotFound where the head was never evaluated."""
        for _ in range(TRIES):
            stored = self.find(name)
            folder = stored.graph.parent
            try:
                return _report(name, folder, stored.report)
            except FileNotFoundError as error:
                if self.find(name).graph.parent != folder:
                    continue
                if stored.report:
                    raise damaged_head(name, folder, f"{REPORT} is gone") from error
                raise NotFound(f"the head {name!r} has no report", remedy="train it: trainings are evaluated") from error
        raise NotReady(f"the head {name!r} is replaced again and again", remedy="try again")

    def bytes(self, name: str) -> int:
        """Bytes that a head takes on the disk."""
        return bytes_below(self.folder / name / self._newest(name))

    def remove(self, name: str) -> None:
        """Remove a head in one step, a damaged one too. NotFound where there is none."""
        self._newest(name)
        with disk_errors(f"the head {name!r}", "train"):
            atomic_store.remove(self.folder / name)
        self._cache.pop(name, None)

    def sweep(self) -> None:
        """Delete what killed jobs and drops left. Called once, at the start: no job may be running."""
        atomic_store.sweep(self.folder)
        for left in self.folder.glob(f".*{PUBLISHING}"):
            self.finish(left.name[1:].removesuffix(PUBLISHING))
        for place in self.folder.glob("[!.]*"):
            atomic_store.sweep(place)
            _prune(place)
            with suppress(OSError):
                place.rmdir()  # no version was ever finished

    def _publishing(self, name: str) -> Path:
        return self.folder / f".{name}{PUBLISHING}"

    def _place_all(self, name: str) -> None:
        """Publish the heads that lie in a folder for it, the one of that name last: its encoder goes with it."""
        folder = self._publishing(name)
        for each in sorted(names_in(folder), key=lambda each: (each == name, each)):
            atomic_store.make_folder(self.folder / each)
            self._place(folder / each)
        with suppress(FileNotFoundError):
            folder.rmdir()

    def _place(self, folder: Path) -> None:
        """Publish a head whose files are in a folder of its name, by one rename. FileNotFoundError where it was removed."""
        place = self.folder / folder.name
        atomic_store.publish(folder, place / _next_version(place))
        _prune(place)

    def _newest(self, name: str) -> str:
        """The newest version of a head."""
        versions = _versions(self.folder / name) if NAME.fullmatch(name) else []
        if not versions:
            raise self._unknown(name)
        return versions[-1]

    def _load(self, name: str, folder: Path) -> StoredHead:
        status = os.stat(folder / HEAD)
        stamp = (str(folder), status.st_mtime_ns, status.st_size)
        known = self._cache.get(name)
        if known is None or known.stamp != stamp:
            known = self._cache[name] = _load_head(name, folder, stamp)
        return known

    def _unknown(self, name: str) -> NotFound:
        return NotFound(f"there is no head {excerpt(name)}", remedy=instead(name, self.names(), "train it first"))


def damaged_head(name: str, folder: Path, how: str, remedy: str = RETRAIN) -> NotReady:
    return NotReady(f"the head {name!r} at {folder} is damaged: {how}", remedy=remedy)


def _load_head(name: str, folder: Path, stamp: tuple[Any, ...]) -> StoredHead:
    """Read head.json. FileNotFoundError where the folder is gone."""
    try:
        plain = json_records.read(folder / HEAD, dict[str, Any])
        if plain.get("format", FORMAT) != FORMAT:  # its fields may have other names
            raise damaged_head(name, folder, f"{HEAD}: format {plain['format']}, and this server reads {FORMAT}")
        record = json_records.convert(plain, HeadPointer)
    except DataLoss as error:
        raise damaged_head(name, folder, f"{HEAD}: {json_records.reason(error)}") from error
    except ValueError as error:
        raise damaged_head(name, folder, f"{HEAD}: {error}") from error
    if GRAPH not in record.files:
        raise damaged_head(name, folder, f"{HEAD} names no {GRAPH}")
    report, typicality = (record.files.get(name, "") for name in (REPORT, TYPICALITY))
    return StoredHead(record.head, folder / GRAPH, stamp, record.files[GRAPH], report, typicality)


def _report(name: str, folder: Path, sha256: str) -> Report:
    """Read and check report.json. FileNotFoundError where there is none; NotReady where it is not what was written."""
    try:
        data = regular_files.contents(folder / REPORT, json_records.LARGEST)
        report = json_records.convert(json.loads(data), Report)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        how = error.strerror if isinstance(error, OSError) else error
        raise damaged_head(name, folder, f"{REPORT}: {how}") from error
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise damaged_head(name, folder, f"{REPORT} is not the file that was written")
    return report


def _write(scratch: Path, new: NewHead) -> None:
    (scratch / GRAPH).write_bytes(new.graph)
    if new.typicality:
        (scratch / TYPICALITY).write_bytes(new.typicality)
    if new.report is not None:
        (scratch / REPORT).write_text(_json(new.report.to_record()), "utf-8")
    record = {"format": FORMAT, "head": asdict(new.head), "files": atomic_store.checksums(scratch)}
    json_records.write(scratch / HEAD, record, 1, _plain)


def _next_version(place: Path) -> str:
    """A number greater than all others: clocks can go back."""
    newest = _versions(place)
    return str(max(time.time_ns(), int(newest[-1]) + 1 if newest else 0))


def _prune(place: Path) -> None:
    """Delete all versions but the newest. Their readers retry."""
    for version in _versions(place)[:-1]:
        atomic_store.delete_if_possible(place / version)


def _versions(place: Path) -> list[str]:
    """The versions of a head, oldest first."""
    return sorted(filter(str.isdecimal, names_in(place)), key=int)


def _json(record: Mapping[str, Any]) -> str:
    """Dump a record; NumPy numbers, which trainers put into `chosen`, become plain ones."""
    return json.dumps(record, indent=1, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    return value.tolist()
