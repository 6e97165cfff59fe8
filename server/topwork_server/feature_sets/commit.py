"""Commits a group of writes and deletions as one version of the dataset, and tells the followers. Runs in the commit thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from typing import Any

import numpy as np

from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.feature_sets import id_map as rosters
from topwork_server.feature_sets import lance_io, schema
from topwork_server.feature_sets.change_listeners import ChangeListeners
from topwork_server.feature_sets.commit_batch import CommitOutcome, PendingDelete, PendingWrite, outcome
from topwork_server.feature_sets.from_arrow import project, to_block
from topwork_server.feature_sets.id_map import IdMap
from topwork_server.feature_sets.latest_version import LatestVersion, VersionView
from topwork_server.feature_sets.set_types import KEY_BITS, Change, ColumnType, ItemBatch, WriteResult
from topwork_server.feature_sets.to_arrow import completed, fitted
from topwork_server.types import Array

log = logging.getLogger(__name__)

NONE = np.zeros(0, np.int64)


class CommitWriter:
    """`widen` makes a column of whole numbers one of floats, in a version of its own. InvalidInput where one would change."""

    def __init__(self, current: LatestVersion, followers: ChangeListeners) -> None:
        self._current, self._followers = current, followers
        self.widen: Callable[[str], None] = _never
        self._doubt = False
        self.commits = 0

    def apply(self, group: list[PendingWrite | PendingDelete]) -> None:
        """Commit the group and answer its futures. What raises here fails all of those not yet answered."""
        self.settle()
        accepted, grown = self._fitting(group)
        if not accepted:
            return
        self._prepare(accepted, grown)
        view = self._current.loaded()
        result = outcome(accepted, view.here)
        if self._rows_of(accepted) or len(result.dead):
            self._commit_rows(view, [op.table for op in accepted if isinstance(op, PendingWrite)], result)
        self._answer(accepted, result)

    @staticmethod
    def _rows_of(operations: list[PendingWrite | PendingDelete]) -> int:
        return sum(len(operation.table) for operation in operations if isinstance(operation, PendingWrite))

    def _fitting(
        self, group: list[PendingWrite | PendingDelete]
    ) -> tuple[list[PendingWrite | PendingDelete], dict[str, ColumnType]]:
        """Those whose metadata fits what is stored and what those before them grow; the others are told what is wrong."""
        columns = dict(self._current.loaded().columns)
        accepted: list[PendingWrite | PendingDelete] = []
        grown: dict[str, ColumnType] = {}
        for operation in group:
            try:
                accepted.append(self._fitted(operation, columns, grown) if isinstance(operation, PendingWrite) else operation)
            except InvalidInput as error:
                operation.future.set_exception(error)
        return [self._again(one, columns) if isinstance(one, PendingWrite) else one for one in accepted], grown

    def _fitted(self, write: PendingWrite, columns: dict[str, ColumnType], grown: dict[str, ColumnType]) -> PendingWrite:
        """Columns that must widen do so at once: what is stored, or what an earlier write of the group has just grown."""
        fit = fitted(write.table, columns)
        for name in fit.widened:
            if name not in grown:
                self.widen(name)
        wider = dict.fromkeys(fit.widened, ColumnType.FLOAT)
        columns |= fit.grown | wider
        grown |= fit.grown | {name: type for name, type in wider.items() if name in grown}
        return PendingWrite(fit.table, write.numerics, write.future)

    @staticmethod
    def _again(write: PendingWrite, columns: dict[str, ColumnType]) -> PendingWrite:
        """With the columns as the whole group leaves them: one that widened later holds floats now."""
        return PendingWrite(fitted(write.table, columns).table, write.numerics, write.future)

    def _prepare(self, accepted: list[PendingWrite | PendingDelete], grown: dict[str, ColumnType]) -> None:
        """New columns and new numerics, each in a version of its own before the rows: alone they change nothing that is read."""
        view = self._current.loaded()
        if grown:
            self.without_rows(lambda dataset: dataset.add_columns(_fields(grown)), "growing metadata columns")
        told = tuple(op.numerics for op in accepted if isinstance(op, PendingWrite) and op.numerics is not None)
        facts = schema.with_numerics(view.facts, told)
        if facts != view.facts:
            said = {schema.FACTS.decode(): schema.to_json(facts)}
            self.without_rows(lambda dataset: dataset.update_schema_metadata(said), "noting what computed the rows")

    def without_rows(self, change: Callable[[Any], Any], doing: str) -> None:
        """A version that `change` makes of a copy of the dataset, in place."""

        def make(view: VersionView) -> Any:
            dataset = lance_io.copy_of(view.dataset)
            change(dataset)
            lance_io.sync_version(self._current.path, dataset.version)
            return dataset

        self.renew(make, doing)

    def renew(self, make: Callable[[VersionView], Any], doing: str) -> None:
        """Commit a version with the same items at the same places: `make` gives its dataset. Followers hear an empty change."""
        view = self._current.loaded()
        view.check()  # what is damaged must not be written again under a new checksum
        self.publish(self._attempt(view, lambda: make(view), doing), view.here)

    def settle(self) -> None:
        """Where a failure left in doubt what is on disk: read it."""
        if self._doubt:
            self.catch_up()

    def publish(
        self,
        dataset: Any,
        roster: IdMap,
        change: Callable[[VersionView], Change] | None = None,
        touched: Container[int] | None = None,
    ) -> None:
        """Make it the newest version, and tell of it; a version that changes no item is told as an empty change. `touched` as
        `Current.publish` takes it."""
        with self._followers.lock:
            view = self._current.publish(dataset, roster, touched)
            following = self._followers.all()
        if following:
            self._followers.tell(following, change(view) if change else Change(view.version, NONE, _nothing(view)))

    def _attempt(self, view: VersionView, make: Callable[[], Any], doing: str) -> Any:
        """The dataset that `make` commits; where it raised though the version is there, that version: writers hear the truth."""
        try:
            with lance_io.mapped(f"{doing} ({self._current.name})"):
                return make()
        except BaseException:
            latest = self._reopened()
            if latest is None or latest.version == view.version:
                lance_io.sweep(view.dataset)
                raise
            log.exception("version %d of %s was committed, though it said:", latest.version, self._current.name)
            return latest

    def _reopened(self) -> Any:
        """The dataset as it is on disk; None where it cannot be opened now: then the next group begins with that."""
        self._doubt = True
        try:
            with lance_io.mapped("opening the set"):
                latest = lance_io.open_dataset(self._current.path)
        except Exception:
            log.exception("%s cannot be opened after a failed commit", self._current.path)
            return None
        self._doubt = False
        return latest

    def _commit_rows(self, view: VersionView, tables: list[Any], result: CommitOutcome) -> None:
        table = _joined(view, tables, result.keep)
        addresses, _ = view.here.addresses(result.dead)
        dataset = self._attempt(view, lambda: self._made(view, table, addresses), "writing rows")
        self.commits += 1
        if dataset.version != view.version + 1:
            return self._catch_up_to(view, dataset)
        born = _born(view, dataset, table)
        touched = frozenset((addresses >> np.uint64(32)).tolist())
        self.publish(dataset, view.here.changed(result.dead, born), lambda now: _change(now, table, result.dead), touched)
        return None

    def _made(self, view: VersionView, table: Any, addresses: Array) -> Any:
        lance = lance_io.load()
        path = self._current.path
        gone, updated = lance_io.kill_rows(view.dataset, path, addresses) if len(addresses) else ([], [])
        fragments = lance_io.write_rows(view.dataset, path, table, self._current.sums.take) if len(table) else []
        if not gone and not updated:
            return lance_io.commit(view.dataset, path, lance.LanceOperation.Append(fragments))
        operation = lance.LanceOperation.Update(removed_fragment_ids=gone, updated_fragments=updated, new_fragments=fragments)
        return lance_io.commit(view.dataset, path, operation)

    def catch_up(self) -> None:
        """After a failure that left in doubt what is on disk: read it, and tell the followers what they missed."""
        latest = lance_io.open_dataset(self._current.path)
        self._doubt = False
        view = self._current.loaded()
        if latest.version != view.version:
            self._catch_up_to(view, latest)

    def _catch_up_to(self, view: VersionView, dataset: Any) -> None:
        roster = rosters.load(dataset)
        before, after = view.here.keys(), roster.keys()
        born, _ = roster.addresses(np.setdiff1d(after, before))
        seen = VersionView(dataset, dataset.version, view.facts, schema.metadata_columns(dataset.schema))
        columns = ["id", "key", *project(seen.facts, seen.columns, None, None, False).stored]
        rows = dataset._take_rows(born, columns=columns) if len(born) else dataset.schema.empty_table()
        self.publish(dataset, roster, lambda now: _change(now, rows, np.setdiff1d(before, after)))

    def _answer(self, accepted: list[PendingWrite | PendingDelete], result: CommitOutcome) -> None:
        version = self._current.view.version
        for operation, (first, updated) in zip(accepted, result.counts, strict=True):
            if isinstance(operation, PendingWrite):
                operation.future.set_result(WriteResult(version, first, updated))
            else:
                operation.future.set_result((first, version))


def _never(name: str) -> None:
    raise InvalidInput(f"metadata column {name!r} holds int", remedy="cast it to float")


def _fields(grown: dict[str, ColumnType]) -> list[Any]:
    import pyarrow as pa

    return [pa.field(name, schema.arrow_type(type)) for name, type in grown.items()]


def _joined(view: VersionView, tables: list[Any], keep: Array | None) -> Any:
    """The rows that are born, with their keys."""
    import pyarrow as pa

    arrow = view.dataset.schema
    keyless = arrow.remove(arrow.get_field_index("key"))
    empty = [keyless.empty_table().replace_schema_metadata(None)]
    table = pa.concat_tables([completed(table, keyless) for table in tables] or empty)
    table = table if keep is None else table.take(pa.array(keep))
    if len(table) > 1 << KEY_BITS:
        raise TopworkError(f"{len(table)} rows in one commit, and a key counts to {1 << KEY_BITS}")
    keys = (view.version << KEY_BITS) + np.arange(len(table), dtype=np.int64)
    return table.add_column(1, arrow.field("key"), pa.array(keys))


def _born(view: VersionView, dataset: Any, table: Any) -> rosters.IdSegment | None:
    """The new rows' keys, ids and places: those of the fragments that the version before had not."""
    if not len(table):
        return None
    new = [fragment for fragment in dataset.get_fragments() if fragment.fragment_id not in view.files]
    places = [(np.uint64(f.fragment_id) << np.uint64(32)) + np.arange(f.physical_rows, dtype=np.uint64) for f in new]
    return rosters.segment(table["key"].combine_chunks().to_numpy(), table["id"].combine_chunks(), np.concatenate(places))


def _change(view: VersionView, table: Any, dead: Array) -> Change:
    """What the followers of this version hear: rows as they are stored, so that a float16 is the float16 that a reader sees."""
    return Change(view.version, dead, to_block(table, project(view.facts, view.columns, None, None, False)))


def _nothing(view: VersionView) -> ItemBatch:
    """A block of no items, with the set's taps and columns."""
    return _change(view, view.dataset.schema.empty_table(), NONE).born
