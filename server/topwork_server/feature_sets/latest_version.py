"""The newest version of a set as readers hold it, access to older ones, and the listeners that learn of every change."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from topwork_server.errors import DataLoss, NotFound, TopworkError
from topwork_server.feature_sets import lance_layout, versions
from topwork_server.feature_sets.checksums import Checksums
from topwork_server.feature_sets.id_map import IdMap, load_id_map
from topwork_server.feature_sets.lance_io import map_errors
from topwork_server.feature_sets.open_set import VersionView, open_newest, open_version, record_version, view_after, view_of
from topwork_server.feature_sets.set_types import Change

#: Seconds between two looks whether a lost version was put back.
AGAIN = 1.0

log = logging.getLogger(__name__)

Listener: TypeAlias = Callable[[Change], None]
OnLost: TypeAlias = Callable[[BaseException], None]


class LatestVersion:
    """The newest view, changed by the commit thread alone."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._loading = threading.Lock()
        self._last_retry = time.monotonic()
        self.readers = VersionReaders()
        self.checksums = Checksums(path)
        if self.checksums.log_damage:
            log.warning("%s: what is missing is computed again", self.checksums.log_damage)
            self.checksums.rewrite([*self.checksums.entries])
        self.view, self.newest_damage = open_newest(self.checksums, name)
        try:
            versions.record_pins(self.checksums)
        except (TopworkError, OSError) as error:
            log.warning("pins of %s: %s", name, error)

    def damage(self) -> DataLoss | None:
        """Known damage: why the newest version cannot be read."""
        try:
            self.check()
        except DataLoss as error:
            return error
        return None

    def check(self) -> None:
        """Raise DataLoss where the newest version is lost, or one of its files is known to be damaged, until it is put back."""
        if self.newest_damage is not None and self.checksums.damaged_files and time.monotonic() - self._last_retry > AGAIN:
            with self._loading:
                self._last_retry = time.monotonic()
                self.view, self.newest_damage = open_newest(self.checksums, self.name)
        if self.newest_damage is not None:
            raise DataLoss(self.newest_damage.message, remedy=self.newest_damage.remedy)
        if self.checksums.damaged_files:
            self.view.check()

    def loaded_view(self) -> VersionView:
        """Return the newest view with its id map. DataLoss where it is damaged."""
        self.check()
        view = self.view
        if view.id_map is not None:
            return view
        with self._loading:
            # Commits load it first, so no view without an id map is ever replaced by another while this lock is held.
            if self.view.id_map is None:
                self.view.check()
                with map_errors(f"reading the ids of the set {self.name!r}"):
                    self.view = replace(self.view, id_map=load_id_map(self.view.dataset))
            return self.view

    @contextmanager
    def reading(self) -> Iterator[VersionView]:
        """Hold the newest view, with its id map, from pruning."""
        while True:
            view = self.loaded_view()
            self.readers.acquire(view.version)
            # Still the newest after it was acquired: so no pruning can have looked before and delete after.
            if self.view.version == view.version:
                break
            self.readers.release(view.version)
        try:
            yield view
        finally:
            self.readers.release(view.version)

    @contextmanager
    def reading_at(self, version: int) -> Iterator[VersionView]:
        """Hold the view of a version (0: the newest) from pruning."""
        if version == 0 or (version == self.view.version and self.newest_damage is None):
            with self.reading() as view:
                yield view
            return
        self.readers.acquire(version)
        try:
            yield self.view_at(version)
        finally:
            self.readers.release(version)

    def publish(self, dataset: Any, id_map: IdMap, touched: Container[int] | None = None) -> VersionView:
        """Make it the newest, once the checksums of what its commit wrote are on disk. `touched` of a commit that only added and
        deleted rows: the fragments that it deleted from."""
        if touched is None:
            view = view_of(dataset, self.name, self.checksums, id_map)
        else:
            view = view_after(self.view, dataset, id_map, touched)
        try:
            record_version(view)
        except (TopworkError, OSError) as error:  # what is committed stays so: the next open finds what is wrong
            log.error("no checksums of version %d of %s: %s", view.version, self.path, error)
        self.view = view
        return self.view

    def view_at(self, version: int) -> VersionView:
        """The view of an older version, 0 for the newest. NotFound where it was pruned or never was."""
        view = self.view
        if version == 0:
            self.check()
        if version in (0, view.version):
            return view
        if not (self.path / lance_layout.manifest_name(version)).exists():
            raise self._no_version(version)
        try:
            return open_version(self.checksums, self.name, version)
        except DataLoss:
            if not (self.path / lance_layout.manifest_name(version)).exists():  # it was pruned meanwhile
                raise self._no_version(version) from None
            raise

    def _no_version(self, version: int) -> TopworkError:
        if self.newest_damage is not None and version >= self.checksums.newest_version:
            return DataLoss(self.newest_damage.message, remedy=self.newest_damage.remedy)
        return NotFound(
            f"the set {self.name!r} has no version {version}; the newest is {self.view.version}",
            remedy="list its versions; pin those that must stay",
        )


class ChangeListeners:
    """The listeners of one set. `lock` is held while a version becomes the newest, so that a new listener misses no change."""

    def __init__(self, name: str) -> None:
        self.lock = threading.RLock()
        self._name = name
        self._listeners: list[tuple[Listener, OnLost | None]] = []

    def add(self, listener: Listener, on_lost: OnLost | None) -> None:
        with self.lock:
            self._listeners.append((listener, on_lost))

    def remove(self, listener: Listener) -> None:
        """Remove a listener; one that is not registered is no error."""
        with self.lock:
            self._listeners = [one for one in self._listeners if one[0] != listener]

    def current(self) -> list[tuple[Listener, OnLost | None]]:
        with self.lock:
            return list(self._listeners)

    def notify(self, listeners: list[tuple[Listener, OnLost | None]], change: Change) -> None:
        """Call each listener. One that raises has missed a change, so it is removed and its `on_lost` is called."""
        for listener, on_lost in listeners:
            try:
                listener(change)
            except BaseException as error:
                log.exception("a listener of the feature set %s failed at version %d", self._name, change.version)
                self.remove(listener)
                self._report_lost(on_lost, error)

    def _report_lost(self, on_lost: OnLost | None, error: BaseException) -> None:
        if on_lost is None:
            return
        try:
            on_lost(error)
        except BaseException:
            log.exception("the removed listener of the feature set %s failed again", self._name)


class VersionReaders:
    """Reference counts of the versions being read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[int] = Counter()

    def acquire(self, version: int) -> None:
        with self._lock:
            self._counts[version] += 1

    def release(self, version: int) -> None:
        with self._lock:
            self._counts[version] -= 1

    def versions_in_use(self) -> set[int]:
        with self._lock:
            return {version for version, count in self._counts.items() if count > 0}
