"""All feature sets of a home: the folder `sets`, one Lance dataset each, opened when first asked for."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from topwork._display.excerpts import excerpt

from topwork_server import atomic_store
from topwork_server.access.passes import SetPass, require, visible_sets
from topwork_server.errors import AlreadyExists, DataLoss, NotFound, NotReady, TopworkError
from topwork_server.feature_sets import lance_io, lance_layout, schema
from topwork_server.feature_sets.checksums import Checksums
from topwork_server.feature_sets.daemon_pool import DaemonPool
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_types import ItemBatch, SetDefinition, WriteResult
from topwork_server.names import SET_NAME, instead
from topwork_server.types import Numerics

SUFFIX = ".lance"


class FeatureSets:
    """Owns its folder: no other process writes there. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._threads = DaemonPool()
        self._lock = threading.Lock()
        self._opening: dict[str, threading.Lock] = {}
        self._open: dict[str, FeatureSet] = {}
        atomic_store.sweep(folder)

    def names(self) -> list[str]:
        """List all sets, sorted, with those that cannot be opened."""
        found = (path.name.removesuffix(SUFFIX) for path in self.folder.glob(f"*{SUFFIX}") if path.is_dir())
        return sorted(name for name in found if SET_NAME.fullmatch(name))

    def get(self, name: SetPass) -> FeatureSet:
        """Open a set. NotFound (with names near to it), or NotReady where its folder cannot be read: other sets are served all
        the same."""
        return self._get(require(name, SetPass))

    def _get(self, name: str) -> FeatureSet:
        with self._set_lock(name):
            if name in self._open:
                return self._open[name]
            if not self._exists(name):
                raise self._not_found(name)
            self._open[name] = FeatureSet(self._path(name), name, self._threads)
            return self._open[name]

    def checksums(self, name: str) -> Checksums:
        """Return the checksums of the open set, or those on disk."""
        opened = self._open.get(name)
        return opened.checksums if opened else Checksums(self._path(name), owner=False)

    def damage(self, name: str) -> str:
        """Name the damaged file of a set, as far as that is known; "" where none is. NotFound."""
        try:
            damage = self._get(name).damage()
        except DataLoss as error:
            return error.message
        return damage.message if damage else ""

    def pins(self) -> dict[str, list[str]]:
        """Map each set to the names of its pins, without opening a set."""
        return {name: lance_layout.tag_names(self._path(name)) for name in self.names()}

    def create(self, definition: SetDefinition) -> FeatureSet:
        """Create an empty set. AlreadyExists, or InvalidInput for what cannot be stored."""
        with self._new_folder(definition) as making:
            self._publish(making, definition.name)
        return self._get(definition.name)

    def create_with(
        self, definition: SetDefinition, batch: ItemBatch, numerics: Numerics | None = None
    ) -> tuple[FeatureSet, WriteResult]:
        """Create a set with its first rows, visible only once they are on disk. Errors of `create` and of a write."""
        with self._new_folder(definition) as making:
            unseen = FeatureSet(making, definition.name, self._threads)
            try:
                written = unseen.write(batch, numerics).result()
            finally:
                unseen.close()
            self._publish(making, definition.name)
        return self._get(definition.name), written

    @contextmanager
    def _new_folder(self, definition: SetDefinition) -> Iterator[Path]:
        """A folder that holds the set without rows, under a name that no set has; gone afterwards unless it was renamed."""
        self._check_free(definition.name)
        set_metadata = schema.new_set_metadata(definition)
        doing = f"making the set {definition.name!r}"
        with lance_io.map_errors(doing), atomic_store.scratch_folder(self.folder) as scratch:
            making = scratch / f"{definition.name}{SUFFIX}"
            empty = schema.arrow_schema(set_metadata).empty_table()
            made = lance_io.load_lance().write_dataset(empty, str(making), data_storage_version=lance_io.STORAGE_VERSION)
            lance_layout.make_folders(making)
            lance_io.sync_version(making, made.version)
            Checksums(making).record([lance_layout.manifest_name(made.version)], set_metadata.created)
            yield making

    def _publish(self, making: Path, name: str) -> None:
        """Move the folder to the set's name. AlreadyExists where another writer was faster."""
        with self._lock:
            self._check_free(name)
            lance_io.sync([*making.iterdir(), making])
            making.rename(self._path(name))
            lance_io.sync([self.folder])

    def _check_free(self, name: str) -> None:
        if self._path_is_blocked(name):
            raise self._not_found(name)
        if self._path(name).exists():
            raise AlreadyExists(f"there is a feature set {name!r}", remedy="choose another name, or drop it first")

    def drop(self, name: SetPass) -> None:
        """Delete a set with all of its versions: gone at once; what a crash leaves on disk goes at the next start."""
        with self._set_lock(require(name, SetPass)):
            if not self._exists(name):
                raise self._not_found(name)
            opened = self._open.pop(name, None)
            if opened is not None:
                opened.drop()
            with lance_io.map_errors(f"dropping the set {name!r}"):
                atomic_store.remove(self._path(name))

    def close(self) -> None:
        """Finish the writes that wait, and take no more."""
        with self._lock:
            opened, self._open = list(self._open.values()), {}
        for feature_set in opened:
            feature_set.close()

    def _set_lock(self, name: str) -> threading.Lock:
        """Held while a set is opened or dropped: a lock of its own for each, so that none waits for another."""
        if not self._exists(name):
            raise self._not_found(name)
        with self._lock:
            return self._opening.setdefault(name, threading.Lock())

    def _exists(self, name: str) -> bool:
        return bool(SET_NAME.fullmatch(name)) and self._path(name).is_dir()

    def _path_is_blocked(self, name: str) -> bool:
        """Tell whether something other than a folder has the place of a set."""
        return bool(SET_NAME.fullmatch(name)) and os.path.lexists(self._path(name)) and not self._path(name).is_dir()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"

    def _not_found(self, name: str) -> TopworkError:
        if self._path_is_blocked(name):
            return NotReady(
                f"{self._path(name)} is in the way of the feature set {name!r}: it is no folder",
                remedy="move it away, or delete it",
            )
        remedy = instead(name, visible_sets(self.names()), "write to it to make it")
        return NotFound(f"there is no feature set {excerpt(name)}", remedy=remedy)
