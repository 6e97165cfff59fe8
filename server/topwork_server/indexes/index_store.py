"""Storage of indexes under $TOPWORK_HOME/indexes: their definitions and builds, each complete or not there at all.

indexes/SET/NAME/definition.json        what was asked for, and of which set
                 queries.npy            (q, dim) float32: the caller's own queries, where recall is measured on such
                 builds/N/index.bin     the plugin's own file
                          keys.npy      (n,) int64: the key at each position
                          rows.npy      (n,) int32, where items have several rows
                          facts.json    what the build was and measured, checksums; written last
                 failure.json           why the last build failed, where it did
The newest complete build is the current one. No file here is trusted: what cannot be read is built again from the set.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from topwork_server import atomic_store, json_records
from topwork_server.atomic_store import disk_errors, file_sha256
from topwork_server.errors import DataLoss
from topwork_server.indexes.index_types import BuildFacts, BuiltIndex, DamagedIndex, IndexDefinition
from topwork_server.plugin_api.vector_index import VectorIndex
from topwork_server.regular_files import names_in
from topwork_server.types import Array

#: Of the folder and its files; raised when they change, so that those of an older server are built again.
FORMAT = 1
DEFINITION, FACTS, INDEX, KEYS, ROWS = "definition.json", "facts.json", "index.bin", "keys.npy", "rows.npy"
FAILURE, QUERIES = "failure.json", "queries.npy"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """A definition on disk, and when the set that it belongs to was made: another set of that name is not this one."""

    definition: IndexDefinition
    set_created: float


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """The contents of FACTS: `files` maps each file of the build to its SHA-256."""

    format: int
    facts: BuildFacts
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BuildFailure:
    """The reason on disk why the last build failed."""

    error: str


class BuildFolder:
    """The folder of one index. Several processes may read it; one at a time publishes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.builds = folder / "builds"

    def facts(self) -> BuildFacts | None:
        """Read the facts of the newest complete build, or None; its other files are not looked at."""
        return next((facts for _, facts, _ in self._complete()), None)

    def facts_since(self, seconds: float) -> BuildFacts | None:
        """Read the facts of the newest complete build where it was written after a time in seconds since 1970, else None."""
        for folder, facts, _ in self._complete():
            return facts if (folder / FACTS).stat().st_mtime >= seconds else None
        return None

    def queries(self, definition: IndexDefinition) -> Array | None:
        """Read the caller's own queries, ready to be searched; None where there are none, or where their file is damaged."""
        if not definition.queries:
            return None
        try:
            _verify(self.folder, {QUERIES: definition.queries})
            return np.asarray(np.load(self.folder / QUERIES, allow_pickle=False), np.float32)
        except (OSError, ValueError) as error:
            log.warning("index=%s is measured on rows of its set, since its queries cannot be read: %s", self.folder, error)
            return None

    def load(self, opener: Callable[[BuildFacts], Callable[[Path], VectorIndex]]) -> BuiltIndex | None:
        """Load the newest build that is whole, or None. `opener` gives what loads an index file of such facts."""
        for folder, facts, files in self._complete():
            try:
                _verify(folder, files)
                return _built(folder, facts, opener(facts)(folder / INDEX))
            except Exception as error:  # a plugin may raise anything on a damaged file
                log.warning("index=%s is damaged and will be built again: %s: %s", folder, type(error).__name__, error)
        return None

    def damage(self) -> Iterator[str]:
        """Yield what is wrong with the newest build, which is then built again."""
        for folder in sorted(self._numbered(), key=lambda path: -int(path.name))[:1]:
            try:
                _verify(folder, dict(json_records.read(folder / FACTS, BuildRecord).files))
            except DataLoss as error:
                yield error.message
            except (OSError, ValueError) as error:
                yield f"the index in {folder} is damaged: {error}"

    def publish(self, built: BuiltIndex) -> Path:
        """Write into a scratch folder, then rename: a killed job leaves nothing that looks done. DiskFull where it cannot."""
        with disk_errors("the index", "rebuild it"), self.scratch() as scratch:
            built.index.save(scratch / INDEX)
            np.save(scratch / KEYS, built.keys)
            if built.rows is not None:
                np.save(scratch / ROWS, built.rows)
            _write_facts(scratch, built.facts)
            target = self.builds / str(max((int(path.name) for path in self._numbered()), default=0) + 1)
            atomic_store.publish(scratch, target)
            return target

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder on the same disk, gone afterwards unless it was published."""
        self.builds.mkdir(exist_ok=True)  # no parents: what was dropped meanwhile does not come back
        with atomic_store.scratch_folder(self.builds) as folder:
            yield folder

    def failure(self) -> str:
        """Read why the last build failed; "" where it did not."""
        try:
            return json_records.read(self.folder / FAILURE, BuildFailure).error
        except (OSError, DataLoss):
            return ""

    def note_failure(self, error: str) -> None:
        """Keep it for the next start; "" where there is none any more. Never raises: without it a build is tried once more."""
        with contextlib.suppress(OSError):
            if not error:
                (self.folder / FAILURE).unlink(missing_ok=True)
            elif self.folder.exists():
                json_records.write(self.folder / FAILURE, asdict(BuildFailure(error)))

    def prune(self, facts: BuildFacts | None) -> None:
        """Delete all builds but the one of these facts."""
        stored = [folder for folder, found, _ in self._complete() if found == facts][:1]
        for folder in self._numbered():
            if folder not in stored:
                atomic_store.delete_if_possible(folder)

    def sweep(self) -> None:
        """Delete what killed jobs left. No job may be running."""
        atomic_store.sweep(self.folder)
        atomic_store.sweep(self.builds)

    def _numbered(self) -> list[Path]:
        return [self.builds / name for name in names_in(self.builds) if name.isdecimal()]

    def _complete(self) -> Iterator[tuple[Path, BuildFacts, dict[str, str]]]:
        """Yield the complete builds, newest first."""
        for folder in sorted(self._numbered(), key=lambda path: -int(path.name)):
            try:
                record = json_records.read(folder / FACTS, BuildRecord)
            except (OSError, DataLoss) as error:
                log.warning("index=%s cannot be read: %s", folder, error)
                continue
            if record.format == FORMAT:
                yield folder, record.facts, dict(record.files)


class IndexStore:
    """All indexes on this disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sweep(self) -> None:
        """Delete what jobs and drops left when they were killed. Once, at the start."""
        for folder in (self.folder, *self.folder.glob("[!.]*")):
            atomic_store.sweep(folder)
        for stored in self.stored():
            self.build_folder(stored.definition.set, stored.definition.name).sweep()

    def stored(self) -> list[StoredIndex]:
        """List the stored indexes by set and name, without damaged ones."""
        return [stored for stored in map(_read_stored, self._definitions()) if isinstance(stored, StoredIndex)]

    def damaged(self) -> list[DamagedIndex]:
        """List indexes whose definition is damaged, or is gone though they were built. Their files are left alone."""
        found = [stored for stored in map(_read_stored, self._definitions()) if isinstance(stored, DamagedIndex)]
        built = {path.parent.parent for path in self.folder.glob("[!.]*/[!.]*/builds/[0-9]*")}
        for folder in sorted(built):
            if not os.path.lexists(folder / DEFINITION):
                found.append(DamagedIndex(folder.parent.name, folder.name, f"{folder / DEFINITION} is gone"))
        return found

    def _definitions(self) -> list[Path]:
        return sorted(self.folder.glob(f"[!.]*/[!.]*/{DEFINITION}"))

    def build_folder(self, set_name: str, name: str) -> BuildFolder:
        return BuildFolder(self.folder / set_name / name)

    def add(self, stored: StoredIndex, queries: Array | None = None) -> StoredIndex:
        """Add an index atomically; return its definition with the digest of its queries. DiskFull where there is no room."""
        folder = self.folder / stored.definition.set / stored.definition.name
        with disk_errors("the index", "rebuild it"):
            atomic_store.make_folder(folder)
            if queries is not None:
                with atomic_store.replacing(folder / QUERIES) as file:
                    np.save(file, queries, allow_pickle=False)
                stored = replace(stored, definition=replace(stored.definition, queries=file_sha256(folder / QUERIES)))
            record = {"format": FORMAT, "definition": asdict(stored.definition), "set_created": stored.set_created}
            json_records.write(folder / DEFINITION, record, indent=1)
        return stored

    def remove(self, set_name: str, name: str = "") -> None:
        """Remove one index, or all of a set, in one step, however long the deletion takes. A missing one is ignored."""
        folder = self.folder / set_name / name if name else self.folder / set_name
        if folder.exists():
            atomic_store.remove(folder)


def read_definition(slot: BuildFolder) -> IndexDefinition:
    """Read the definition in the process of a job. DataLoss where it cannot be read."""
    stored = _read_stored(slot.folder / DEFINITION)
    if isinstance(stored, DamagedIndex):
        raise stored.error()
    return stored.definition


def order_by_key(keys: Array, rows: Array | None) -> Array | None:
    """Return the positions by key and row, (n,) int64, or None where they stand so already."""
    if len(keys) < 2 or bool((np.diff(keys) >= 0).all()):
        return None
    return np.argsort(keys, kind="stable")  # an item's rows stand together, in order


def _read_stored(path: Path) -> StoredIndex | DamagedIndex:
    of = path.parent.parent.name, path.parent.name
    try:
        stored = json_records.read(path, StoredIndex)
    except (OSError, DataLoss) as error:
        return DamagedIndex(*of, error.message if isinstance(error, DataLoss) else f"{path}: {error.strerror}")
    if (stored.definition.set, stored.definition.name) != of:
        return DamagedIndex(*of, f"{path} is of the index {stored.definition.name!r} of {stored.definition.set!r}")
    return stored


def _write_facts(scratch: Path, facts: BuildFacts) -> None:
    size = sum(path.stat().st_size for path in scratch.iterdir())
    record = {"format": FORMAT, "facts": {**asdict(facts), "bytes": size}, "files": atomic_store.checksums(scratch)}
    json_records.write(scratch / FACTS, record, indent=1)


def _verify(folder: Path, files: dict[str, str]) -> None:
    for name, digest in files.items():
        if file_sha256(folder / name) != digest:
            raise ValueError(f"{name} is not the file that was written")


def _built(folder: Path, facts: BuildFacts, index: VectorIndex) -> BuiltIndex:
    keys = np.load(folder / KEYS)
    rows = np.load(folder / ROWS) if (folder / ROWS).exists() else None
    if not len(keys) == index.count == facts.rows or (rows is not None and len(rows) != len(keys)):
        raise ValueError(f"{len(keys)} keys, {index.count} vectors and {facts.rows} rows do not agree")
    return BuiltIndex(facts, index, keys, rows, order_by_key(keys, rows))
