"""One feature set: a Lance dataset that one thread at a time writes and any thread reads.

Every write goes through the set's commit queue (commit_queue.py), where what waits together becomes one version. When a write's
future resolves its rows are on disk: data and manifest have been through fsync, in that order, so they survive the end of the
process (kill -9), and that of the machine as far as the disk keeps what it acknowledges. Only one process may write a set; others
may read it at any time with plain `lance.dataset(path)`, and should pin the version that they work on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from topwork_server.blocking_calls import Check, always_waits
from topwork_server.errors import DataLoss, InvalidInput
from topwork_server.feature_sets import filters, read_set, versions
from topwork_server.feature_sets.checksums import Checksums
from topwork_server.feature_sets.column_changes import ColumnChanges, UpdateResult
from topwork_server.feature_sets.commit import CommitWriter
from topwork_server.feature_sets.commit_queue import CommitQueue, CommitTask, PendingDelete, PendingWrite
from topwork_server.feature_sets.daemon_pool import DaemonPool
from topwork_server.feature_sets.dropped_sets import Presence, was_dropped, while_present
from topwork_server.feature_sets.lance_io import map_errors, open_dataset
from topwork_server.feature_sets.latest_version import ChangeListeners, LatestVersion, OnLost
from topwork_server.feature_sets.maintenance import Maintenance
from topwork_server.feature_sets.set_names import id_array
from topwork_server.feature_sets.set_types import (
    Change,
    Column,
    ColumnType,
    ItemBatch,
    ReadResult,
    Selection,
    SetDefinition,
    SetDescription,
    StoredItem,
    WriteResult,
)
from topwork_server.feature_sets.to_arrow import fit_columns, to_arrow_table
from topwork_server.feature_sets.versions import DiskUsage, Pin, SetVersion
from topwork_server.feature_sets.write_checks import check_numerics
from topwork_server.features import TapRows
from topwork_server.types import Array, Numerics

T = TypeVar("T")


class FeatureSet:
    """Thread-safe; every call blocks but `write` and `delete`, which give futures (they wait only while 256 MB are queued)."""

    def __init__(self, path: Path, name: str, threads: DaemonPool) -> None:
        """Open what `FeatureSets.create` made; `threads` commit. NotReady where the folder is not a readable set."""
        self.path = path
        self.presence = Presence(name)
        self._current = LatestVersion(path, name)
        self._size = DiskUsage(path)
        self._listeners = ChangeListeners(name)
        writer = CommitWriter(self._current, self._listeners)
        self._columns = ColumnChanges(self._current, writer)
        self._maintenance = Maintenance(self._current, writer)
        self._commit_queue = CommitQueue(name, writer.commit_group, self._maintenance.run_due, threads)

    @property
    def definition(self) -> SetDefinition:
        return self._current.view.set_metadata.definition

    @property
    def version(self) -> int:
        """The version of the last commit."""
        return self._current.view.version

    @property
    def created(self) -> float:
        """Seconds since 1970: another set of that name has another time."""
        return self._current.view.set_metadata.created

    @property
    def checksums(self) -> Checksums:
        return self._current.checksums

    def damage(self) -> DataLoss | None:
        """Known damage: why the newest version cannot be read, or a pin cannot be trusted."""
        damage = self._current.damage() or versions.first_damage(self._current.checksums)
        if damage is not None and self.presence.dropped:
            raise was_dropped(self.presence.name)
        return damage

    @while_present
    def damaged_pins(self) -> list[Pin]:
        """List the pins whose files are not what was written."""
        return [pin for pin in versions.read_pins(self._current.checksums) if pin.damage]

    @while_present
    def describe(self) -> SetDescription:
        view = self._current.view
        with map_errors("counting items"):
            items = view.dataset.count_rows() if view.id_map is None else view.id_map.items
        set_metadata = view.set_metadata
        return SetDescription(
            definition=set_metadata.definition,
            columns=dict(view.columns),
            tap_columns=dict(set_metadata.columns),
            items=items,
            version=view.version,
            bytes=self._size.bytes(),
            created=set_metadata.created,
            numerics=set_metadata.numerics,
            path=str(self.path),
            damage=damage.message if (damage := self.damage()) else "",
        )

    @while_present
    def write(self, batch: ItemBatch, numerics: Numerics | None = None) -> Future[WriteResult]:
        """Upsert a batch by id. Its arrays must not be changed before the future resolves.

        The future resolves when the batch is committed and the listeners were called; of batches that wait together, the
        later one wins an id. New metadata columns are grown (nulls for what is older). Raises at once, and leaves the set
        as it is: InvalidInput for ids, shapes, numbers that are not finite, spans, types of metadata; NotReady for another
        fingerprint, or numerics whose parity is below 0.999. The future raises InvalidInput where a batch that was queued
        before it gave a column another type, DiskFull where nothing could be written.
        """
        check_numerics(numerics)
        view = self._current.view
        table = to_arrow_table(view.set_metadata, batch)
        fit_columns(table, view.columns)
        operation = PendingWrite(table, numerics)
        self._commit_queue.put(operation)
        return operation.future

    @while_present
    def delete(self, ids: Sequence[str] | None, where: str = "", check: Check = always_waits) -> Future[tuple[int, int]]:
        """Delete the items of those ids (those that are not there are no error), or those that match a filter, not both.

        The future resolves to how many were deleted, and the version; a bad filter is its InvalidInput, since a column may still
        be on its way. `check` is called while items are matched, and raises once the caller has left: nothing is deleted then.
        """
        if ids is not None and where:
            raise InvalidInput("ids and a filter", remedy="delete by one of them")
        if ids is None and not where:
            raise InvalidInput("neither ids nor a filter", remedy="say what to delete; drop the set to delete everything")
        if ids is not None:
            operation = PendingDelete(id_array(list(dict.fromkeys(ids))))
            self._commit_queue.put(operation)
            return operation.future
        filters.check_constants(where)
        task = CommitTask(lambda: self._delete_matching(where, check))
        self._commit_queue.put(task)
        return task.future

    @while_present
    def count(self, where: str = "", version: int = 0, check: Check = always_waits) -> tuple[int, int]:
        """Count the items that match (all without a filter); return the count and the version."""
        return read_set.count(self._current, where, version, check)

    @while_present
    def update(
        self, columns: Sequence[Column], ids: Sequence[str] = (), where: str = "", check: Check = always_waits
    ) -> UpdateResult:
        """Change metadata alone: a value for each id, or one for all that match. InvalidInput as for writes."""
        if bool(ids) == bool(where):
            raise InvalidInput("an update is of ids or of a filter, one of them", remedy="say whose metadata changes")
        filters.check_constants(where)
        given = id_array(ids) if ids else None
        return self._run_exclusive(lambda: self._columns.update_values(where, given, columns, check))

    @while_present
    def add_column(self, name: str, type: ColumnType) -> None:
        """Add a metadata column without values. AlreadyExists, or InvalidInput for a name that filters do not take."""
        self._run_exclusive(lambda: self._columns.add_column(name, type))

    @while_present
    def rename_column(self, name: str, to: str) -> None:
        self._run_exclusive(lambda: self._columns.rename_column(name, to))

    @while_present
    def cast_column(self, name: str, type: ColumnType) -> None:
        """Cast a column. InvalidInput, and nothing is changed, where a value would be lost."""
        self._run_exclusive(lambda: self._columns.cast_column(name, type))

    @while_present
    def drop_column(self, name: str) -> None:
        """Drop a column; older versions keep it."""
        self._run_exclusive(lambda: self._columns.drop_column(name))

    def _delete_matching(self, where: str, check: Check) -> tuple[int, int]:
        """Delete in the commit thread what matches now, after all that was queued before."""
        check()
        _, keys = read_set.keys(self._current, where, None, check)
        ids = [id for id in self._current.loaded_view().loaded_id_map.ids(keys) if id is not None]
        operation = PendingDelete(id_array(ids))
        self._commit_queue.commit_now(operation)
        return operation.future.result()

    @while_present
    def stored_items(self, ids: Sequence[str]) -> dict[str, StoredItem]:
        """Look up the stored ones of the ids, with their content's digest and metadata. Others cost microseconds."""
        return read_set.stored_items(self._current, ids)

    @while_present
    def stored_rows(self, ids: Sequence[str], taps: Sequence[str]) -> tuple[tuple[TapRows, ...], Array]:
        """Read the rows of each tap for those ids, in their order, and the items' keys. NotFound names an id that is missing."""
        return read_set.stored_rows(self._current, ids, taps)

    @while_present
    def read(self, selection: Selection, check: Check = always_waits) -> ReadResult:
        """Read a snapshot of one version, in batches of about `selection.batch_bytes`; rows are float32 views of Arrow's memory.

        `total` counts what matches before offset and limit. The order is the set's own: it stays the same within a version, so
        reading on with an offset asks for the version too. InvalidInput for an unknown tap or column and for a bad filter,
        NotFound for a version that is gone. The version is safe from pruning until the batches are read, closed or forgotten.
        `check` is called between parts of the work, and raises once the caller has left.
        """
        return read_set.read(self._current, self.presence, selection, check)

    @while_present
    def keys(self, where: str = "", ids: Sequence[str] | None = None, check: Check = always_waits) -> tuple[int, Array]:
        """Select items: the version, and the ascending int64 keys of those that match (all without a filter). InvalidInput."""
        return read_set.keys(self._current, where, ids, check)

    @while_present
    def fetch(
        self, keys: Array, *, taps: Sequence[str] | None = (), columns: Sequence[str] | None = (), inputs: bool = False
    ) -> ItemBatch:
        """Fetch items by key, in that order; those that are gone are left out (`keys` says which are there). None for
        `taps` or `columns` is all of them."""
        return read_set.fetch(self._current, keys, taps, columns, inputs)

    @while_present
    def ids_of(self, keys: Array) -> list[str | None]:
        """Look up the id of each key, None where it is gone. From memory."""
        return self._current.loaded_view().loaded_id_map.ids(keys)

    @while_present
    def add_listener(self, listener: Callable[[Change], None], on_lost: OnLost | None = None) -> int:
        """Call `listener` with every later change, in order, in the commit thread, before the writers are answered.

        Returns the version from which it follows. A version that changes no item (a new column, a compaction) is an empty
        change. A listener that raises is called no more, and `on_lost` is called with its error.
        """
        self._current.loaded_view()
        with self._listeners.lock:
            self._listeners.add(listener, on_lost)
            return self.version

    def remove_listener(self, listener: Callable[[Change], None]) -> None:
        """Remove a listener; one that was removed already is no error."""
        self._listeners.remove(listener)

    @while_present
    def versions(self) -> list[SetVersion]:
        """List the stored versions, oldest first: pinned ones, and others for an hour, 256 at most."""
        return versions.list_versions(self._current.checksums)

    @while_present
    def pin(self, pin: str, version: int = 0) -> SetVersion:
        """Keep a version (0: the current one) under a name. AlreadyExists, NotFound, InvalidInput."""
        return self._run_exclusive(lambda: self._pin(pin, version))

    @while_present
    def unpin(self, pin: str) -> None:
        self._run_exclusive(lambda: versions.remove_pin(self._current.checksums, pin))

    @while_present
    def prune(self, older_than: float) -> tuple[int, int]:
        """Delete versions older than so many seconds, but for pinned ones, the current one, and those that are read: (versions,
        bytes) that went."""
        return self._run_exclusive(lambda: self._maintenance.prune(older_than))

    @while_present
    def compact(self) -> int:
        """Join small fragments now, as happens by itself when many have gathered: how many steps were done."""
        return self._run_exclusive(self._maintenance.compact)

    def _pin(self, pin: str, version: int) -> SetVersion:
        if not version:
            self._current.check()
        return versions.pin(self._open_for_pinning(), self._current.checksums, pin, version or self.version)

    def _open_for_pinning(self) -> Any:
        """Open the dataset for one change of its pins: Lance refuses it ("Already borrowed") on one that others read."""
        with map_errors("opening the set"):
            return open_dataset(self.path, self.version)

    def _run_exclusive(self, call: Callable[[], T]) -> T:
        task = CommitTask(call)
        self._commit_queue.put(task)
        result: T = task.future.result()
        return result

    def drop(self) -> None:
        """Finish what waits; every call from now on is NotFound."""
        self.presence.dropped = True
        self.close()

    def close(self) -> None:
        """Finish what waits, and take no more writes. Reads under way go on."""
        self._commit_queue.close()
