"""Commits a group of writes and deletions as one version of the dataset, and notifies listeners. Runs in the commit thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.feature_sets import lance_io, lance_layout, schema
from topwork_server.feature_sets.commit_queue import PendingDelete, PendingWrite
from topwork_server.feature_sets.from_arrow import make_projection, to_item_batch
from topwork_server.feature_sets.id_map import IdMap, IdSegment, load_id_map, make_segment
from topwork_server.feature_sets.latest_version import ChangeListeners, LatestVersion
from topwork_server.feature_sets.open_set import VersionView
from topwork_server.feature_sets.set_types import KEY_BITS, Change, ColumnType, ItemBatch, WriteResult
from topwork_server.feature_sets.to_arrow import fit_columns, with_all_columns
from topwork_server.types import Array

log = logging.getLogger(__name__)

NO_KEYS = np.zeros(0, np.int64)


class CommitWriter:
    """Commits of one set. `widen` turns an int column into floats in its own version; InvalidInput where a value would change."""

    def __init__(self, current: LatestVersion, listeners: ChangeListeners) -> None:
        self._current, self._listeners = current, listeners
        self.widen: Callable[[str], None] = _refuse_widening
        self._uncertain = False
        self.commits = 0

    def commit_group(self, group: list[PendingWrite | PendingDelete]) -> None:
        """Commit the group and answer its futures. What raises here fails all of those not yet answered."""
        self.resolve_uncertainty()
        accepted, grown = self._accept(group)
        if not accepted:
            return
        self._commit_schema_changes(accepted, grown)
        view = self._current.loaded_view()
        result = merge_operations(accepted, view.loaded_id_map)
        if self._row_count(accepted) or len(result.deleted):
            self._commit_rows(view, [op.table for op in accepted if isinstance(op, PendingWrite)], result)
        self._resolve_futures(accepted, result)

    @staticmethod
    def _row_count(operations: list[PendingWrite | PendingDelete]) -> int:
        return sum(len(operation.table) for operation in operations if isinstance(operation, PendingWrite))

    def _accept(
        self, group: list[PendingWrite | PendingDelete]
    ) -> tuple[list[PendingWrite | PendingDelete], dict[str, ColumnType]]:
        """Keep the operations whose metadata fits the stored columns and those that earlier ones add; fail the others."""
        columns = dict(self._current.loaded_view().columns)
        accepted: list[PendingWrite | PendingDelete] = []
        grown: dict[str, ColumnType] = {}
        for operation in group:
            try:
                accepted.append(self._fit_write(operation, columns, grown) if isinstance(operation, PendingWrite) else operation)
            except InvalidInput as error:
                operation.future.set_exception(error)
        return [self._refit(one, columns) if isinstance(one, PendingWrite) else one for one in accepted], grown

    def _fit_write(self, write: PendingWrite, columns: dict[str, ColumnType], grown: dict[str, ColumnType]) -> PendingWrite:
        """Columns that must widen do so at once: what is stored, or what an earlier write of the group has just grown."""
        fit = fit_columns(write.table, columns)
        for name in fit.widened:
            if name not in grown:
                self.widen(name)
        wider = dict.fromkeys(fit.widened, ColumnType.FLOAT)
        columns |= fit.new_columns | wider
        grown |= fit.new_columns | {name: type for name, type in wider.items() if name in grown}
        return PendingWrite(fit.table, write.numerics, write.future)

    @staticmethod
    def _refit(write: PendingWrite, columns: dict[str, ColumnType]) -> PendingWrite:
        """Fit a write to the columns that the whole group leaves: a column that widened later holds floats now."""
        return PendingWrite(fit_columns(write.table, columns).table, write.numerics, write.future)

    def _commit_schema_changes(self, accepted: list[PendingWrite | PendingDelete], grown: dict[str, ColumnType]) -> None:
        """Commit new columns and numerics before the rows, each in its own version: alone they change nothing that is read."""
        view = self._current.loaded_view()
        if grown:
            self.alter_schema(lambda dataset: dataset.add_columns(_fields(grown)), "growing metadata columns")
        numerics = tuple(op.numerics for op in accepted if isinstance(op, PendingWrite) and op.numerics is not None)
        set_metadata = schema.with_numerics(view.set_metadata, numerics)
        if set_metadata != view.set_metadata:
            record = {schema.METADATA_KEY.decode(): schema.to_json(set_metadata)}
            self.alter_schema(lambda dataset: dataset.update_schema_metadata(record), "noting what computed the rows")

    def alter_schema(self, change: Callable[[Any], Any], doing: str) -> None:
        """Commit a version that `change` makes in place, on a copy of the dataset."""

        def make(view: VersionView) -> Any:
            dataset = lance_io.copy_of(view.dataset)
            change(dataset)
            lance_io.sync_version(self._current.path, dataset.version)
            return dataset

        self.replace_dataset(make, doing)

    def replace_dataset(self, make: Callable[[VersionView], Any], doing: str) -> None:
        """Commit a version with the same items at the same places: `make` gives its dataset. Listeners get an empty change."""
        view = self._current.loaded_view()
        view.check()  # what is damaged must not be written again under a new checksum
        self.publish(self._attempt(view, lambda: make(view), doing), view.loaded_id_map)

    def resolve_uncertainty(self) -> None:
        """Read the dataset again where a failed commit left it uncertain what is on disk, and tell listeners what they missed."""
        if not self._uncertain:
            return
        latest = lance_io.open_dataset(self._current.path)
        self._uncertain = False
        view = self._current.loaded_view()
        if latest.version != view.version:
            self._catch_up_to(view, latest)

    def publish(
        self,
        dataset: Any,
        id_map: IdMap,
        change: Callable[[VersionView], Change] | None = None,
        touched: Container[int] | None = None,
    ) -> None:
        """Make it the newest version, and notify the listeners; a version that changes no item is an empty change. `touched` as
        `LatestVersion.publish` takes it."""
        with self._listeners.lock:
            view = self._current.publish(dataset, id_map, touched)
            listeners = self._listeners.current()
        if listeners:
            self._listeners.notify(listeners, change(view) if change else Change(view.version, NO_KEYS, _empty_batch(view)))

    def _attempt(self, view: VersionView, make: Callable[[], Any], doing: str) -> Any:
        """Return the dataset that `make` commits, or the committed version where `make` raised after committing it."""
        try:
            with lance_io.map_errors(f"{doing} ({self._current.name})"):
                return make()
        except BaseException:
            latest = self._reopen()
            if latest is None or latest.version == view.version:
                lance_io.delete_leftovers(view.dataset)
                raise
            log.exception("version %d of %s was committed although this was raised:", latest.version, self._current.name)
            return latest

    def _reopen(self) -> Any:
        """Open the dataset as it is on disk; None where that fails now, and the next group tries again."""
        self._uncertain = True
        try:
            with lance_io.map_errors("opening the set"):
                latest = lance_io.open_dataset(self._current.path)
        except Exception:
            log.exception("%s cannot be opened after a failed commit", self._current.path)
            return None
        self._uncertain = False
        return latest

    def _commit_rows(self, view: VersionView, tables: list[Any], result: CommitOutcome) -> None:
        table = _rows_with_keys(view, tables, result.keep)
        addresses, _ = view.loaded_id_map.addresses(result.deleted)
        dataset = self._attempt(view, lambda: self._commit_fragments(view, table, addresses), "writing rows")
        self.commits += 1
        if dataset.version != view.version + 1:
            return self._catch_up_to(view, dataset)
        inserted = _inserted_segment(view, dataset, table)
        touched = frozenset(lance_layout.fragments_of(addresses).tolist())
        self.publish(
            dataset,
            view.loaded_id_map.with_changes(result.deleted, inserted),
            lambda now: _change(now, table, result.deleted),
            touched,
        )
        return None

    def _commit_fragments(self, view: VersionView, table: Any, addresses: Array) -> Any:
        lance = lance_io.load_lance()
        path = self._current.path
        emptied, updated = lance_io.delete_rows(view.dataset, path, addresses) if len(addresses) else ([], [])
        fragments = lance_io.write_rows(view.dataset, path, table, self._current.checksums.compute) if len(table) else []
        if not emptied and not updated:
            return lance_io.commit(view.dataset, path, lance.LanceOperation.Append(fragments))
        operation = lance.LanceOperation.Update(removed_fragment_ids=emptied, updated_fragments=updated, new_fragments=fragments)
        return lance_io.commit(view.dataset, path, operation)

    def _catch_up_to(self, view: VersionView, dataset: Any) -> None:
        id_map = load_id_map(dataset)
        before, after = view.loaded_id_map.keys(), id_map.keys()
        inserted, _ = id_map.addresses(np.setdiff1d(after, before))
        seen = VersionView(dataset, dataset.version, view.set_metadata, schema.metadata_columns(dataset.schema))
        columns = ["id", "key", *make_projection(seen.set_metadata, seen.columns, None, None, False).stored]
        rows = lance_layout.take_rows(dataset, inserted, columns) if len(inserted) else dataset.schema.empty_table()
        self.publish(dataset, id_map, lambda now: _change(now, rows, np.setdiff1d(before, after)))

    def _resolve_futures(self, accepted: list[PendingWrite | PendingDelete], result: CommitOutcome) -> None:
        version = self._current.view.version
        for operation, (first, updated) in zip(accepted, result.counts, strict=True):
            if isinstance(operation, PendingWrite):
                operation.future.set_result(WriteResult(version, first, updated))
            else:
                operation.future.set_result((first, version))


def _refuse_widening(name: str) -> None:
    raise InvalidInput(f"metadata column {name!r} holds int", remedy="cast it to float")


def _fields(grown: dict[str, ColumnType]) -> list[Any]:
    import pyarrow as pa

    return [pa.field(name, schema.arrow_type(type)) for name, type in grown.items()]


def _rows_with_keys(view: VersionView, tables: list[Any], keep: Array | None) -> Any:
    """Join the tables to insert, with keys."""
    import pyarrow as pa

    arrow = view.dataset.schema
    keyless = arrow.remove(arrow.get_field_index("key"))
    empty = [keyless.empty_table().replace_schema_metadata(None)]
    table = pa.concat_tables([with_all_columns(table, keyless) for table in tables] or empty)
    table = table if keep is None else table.take(pa.array(keep))
    if len(table) > 1 << KEY_BITS:
        raise TopworkError(f"{len(table)} rows in one commit, and a key counts to {1 << KEY_BITS}")
    keys = (view.version << KEY_BITS) + np.arange(len(table), dtype=np.int64)
    return table.add_column(1, arrow.field("key"), pa.array(keys))


def _inserted_segment(view: VersionView, dataset: Any, table: Any) -> IdSegment | None:
    """Map the new rows' keys and ids to their places, in the fragments that the version before did not have."""
    if not len(table):
        return None
    new = [dataset.get_fragment(id) for id in dataset.fragment_ids() if id not in view.files]
    places = [lance_layout.addresses_of(fragment.fragment_id, fragment.physical_rows) for fragment in new]
    return make_segment(table["key"].combine_chunks().to_numpy(), table["id"].combine_chunks(), np.concatenate(places))


def _change(view: VersionView, table: Any, deleted: Array) -> Change:
    """Build the change that listeners get, with rows as stored, so that a float16 is what a reader sees."""
    return Change(
        view.version, deleted, to_item_batch(table, make_projection(view.set_metadata, view.columns, None, None, False))
    )


def _empty_batch(view: VersionView) -> ItemBatch:
    """Build a batch of no items, with the set's taps and columns."""
    return _change(view, view.dataset.schema.empty_table(), NO_KEYS).inserted


@dataclass(frozen=True, slots=True)
class CommitOutcome:
    """`keep` are positions in the tables of the writes, one after another, None for all; `deleted` keys that no longer exist;
    `inserted` (or, of a deletion, deleted) and `updated` by operation."""

    keep: Array | None
    deleted: Array
    counts: list[tuple[int, int]]


def merge_operations(operations: Sequence[PendingWrite | PendingDelete], id_map: IdMap) -> CommitOutcome:
    """Merge operations: of two writes of one id the last wins; a deletion affects only what was written before it."""
    if len(operations) == 1 and isinstance(operations[0], PendingWrite):
        keys, _ = id_map.find(operations[0].ids)
        updated = int(np.count_nonzero(keys >= 0))
        return CommitOutcome(None, np.unique(keys[keys >= 0]), [(len(keys) - updated, updated)])
    merging = _OperationMerger(id_map)
    for operation in operations:
        merging.write(operation.ids) if isinstance(operation, PendingWrite) else merging.delete(operation.ids)
    return merging.outcome()


class _OperationMerger:
    def __init__(self, id_map: IdMap) -> None:
        self._id_map = id_map
        self._present: dict[str, bool] = {}
        self._places: dict[str, int] = {}
        self._deleted: list[Array] = []
        self._counts: list[tuple[int, int]] = []
        self._rows = 0

    def _before(self, ids: Any) -> list[tuple[str, bool]]:
        """Pair each id with whether such an item exists so far."""
        keys, _ = self._id_map.find(ids)
        self._deleted.append(keys[keys >= 0])
        stored = (keys >= 0).tolist()
        return [(id, self._present.get(id, there)) for id, there in zip(ids.to_pylist(), stored, strict=True)]

    def write(self, ids: Any) -> None:
        before = self._before(ids)
        updated = sum(there for _, there in before)
        self._counts.append((len(before) - updated, updated))
        for row, (id, _) in enumerate(before, self._rows):
            self._present[id], self._places[id] = True, row
        self._rows += len(before)

    def delete(self, ids: Any) -> None:
        before = self._before(ids)
        self._counts.append((sum(there for _, there in before), 0))
        for id, _ in before:
            self._present[id] = False
            self._places.pop(id, None)

    def outcome(self) -> CommitOutcome:
        keep = np.sort(np.fromiter(self._places.values(), np.int64, len(self._places)))
        deleted = np.unique(np.concatenate(self._deleted)) if self._deleted else np.zeros(0, np.int64)
        return CommitOutcome(None if len(keep) == self._rows else keep, deleted, self._counts)
