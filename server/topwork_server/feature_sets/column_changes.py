"""Changes of a set's metadata without its vectors: columns added, renamed, cast and dropped, and values updated.

Rows keep their keys and places, so indexes have nothing to do. A change is seen as a whole or not at all: what prepares it stands
in columns whose names are the store's own, and the next change drops what a crash left of them. Runs in the commit thread.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from topwork_server.blocking_calls import Check
from topwork_server.errors import AlreadyExists, InvalidInput, NotFound
from topwork_server.feature_sets import lance_io, lance_layout, read_set
from topwork_server.feature_sets.column_casts import cast_values
from topwork_server.feature_sets.commit import CommitWriter
from topwork_server.feature_sets.from_arrow import column_values
from topwork_server.feature_sets.latest_version import LatestVersion
from topwork_server.feature_sets.open_set import VersionView
from topwork_server.feature_sets.schema import arrow_type
from topwork_server.feature_sets.set_names import check_column_name
from topwork_server.feature_sets.set_types import Column, ColumnType
from topwork_server.feature_sets.to_arrow import fit_columns, metadata_array
from topwork_server.feature_sets.versions import VersionReaders
from topwork_server.feature_sets.write_checks import check_spelling
from topwork_server.types import Array

#: What a change prepares or leaves behind; `is_reserved` hides it from readers and filters.
TEMPORARY_PREFIX = "_change_"


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """The result of a metadata update; `missing` are ids that the set does not have."""

    items: int
    missing: tuple[str, ...]
    version: int


class ColumnChanges:
    def __init__(self, current: LatestVersion, writer: CommitWriter, readers: VersionReaders) -> None:
        self._current, self._writer, self._readers = current, writer, readers
        writer.widen = lambda name: self._cast(name, ColumnType.FLOAT)

    def add_column(self, name: str, type: ColumnType) -> None:
        """Add a column without values. AlreadyExists where the name is taken."""
        self._begin()
        check_column_name(name)
        self._check_free(name)
        self._alter_schema(lambda dataset: dataset.add_columns([_field(name, type)]), "adding a metadata column")

    def rename_column(self, name: str, to: str) -> None:
        self._begin()
        stored = self._stored_name(name)
        check_column_name(to)
        if to.lower() != stored.lower():
            self._check_free(to)
        if to != stored:
            self._alter_schema(lambda dataset: dataset.alter_columns({"path": stored, "name": to}), "renaming a metadata column")

    def drop_column(self, name: str) -> None:
        self._begin()
        stored = self._stored_name(name)
        self._alter_schema(lambda dataset: dataset.drop_columns([stored]), "dropping a metadata column")

    def cast_column(self, name: str, type: ColumnType) -> None:
        """Cast a column. InvalidInput, and nothing is changed, where a value would be lost."""
        self._begin()
        self._cast(self._stored_name(name), type)

    def update_values(self, where: str, ids: Any, columns: Sequence[Column], check: Check) -> UpdateResult:
        """Set some columns of the items with those ids (a value each) or of those that match (one value for all)."""
        import pyarrow as pa

        self._begin()
        check()
        _check_update(columns, 1 if where else len(ids))
        if where:
            _, keys = read_set.keys(self._current, self._readers, where, None, check)
            at, missing = np.zeros(len(keys), np.int64), []
        else:
            found, _ = self._current.loaded_view().loaded_id_map.find(ids)
            at = np.flatnonzero(found >= 0)
            keys, missing = found[at], ids.take(pa.array(np.flatnonzero(found < 0))).to_pylist()
        given = pa.table({column.name: metadata_array(column) for column in columns})
        if len(keys):
            table = self._fit_to_columns(given).take(pa.array(at)).append_column("key", pa.array(keys))
            self._set_values(table, "updating metadata")
        return UpdateResult(len(keys), tuple(missing), self._current.view.version)

    def _begin(self) -> None:
        self._writer.resolve_uncertainty()
        self._drop_leftovers()

    def _fit_to_columns(self, table: Any) -> Any:
        """Convert a table to the set's columns, after adding missing columns and widening those that must become floats."""
        fit = fit_columns(table, dict(self._current.view.columns))
        for name in fit.widened:
            self._cast(name, ColumnType.FLOAT)
        if fit.new_columns:
            fields = [_field(name, type) for name, type in fit.new_columns.items()]
            self._alter_schema(lambda dataset: dataset.add_columns(fields), "adding metadata columns")
        return fit.table

    def _cast(self, stored: str, type: ColumnType) -> None:
        view = self._current.loaded_view()
        stored_type = view.columns[stored]
        if stored_type is type:
            return
        with lance_io.map_errors(f"reading the column {stored}"):
            table = view.dataset.to_table(columns=["key", stored])
        made = cast_values(stored, column_values(table[stored], stored_type), stored_type, type)
        prepared, old = (f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}" for _ in range(2))
        self._alter_schema(lambda dataset: dataset.add_columns([_field(prepared, type)]), "casting a metadata column")
        if len(table):
            array = metadata_array(Column(prepared, type, made))
            self._set_values(table.select(["key"]).append_column(prepared, array), "casting a metadata column")
        swap = ({"path": stored, "name": old}, {"path": prepared, "name": stored})
        self._alter_schema(lambda dataset: dataset.alter_columns(*swap), "casting a metadata column")
        self._drop_leftovers()

    def _set_values(self, table: Any, doing: str) -> None:
        """Set the table's columns for the items with its keys, all of which exist."""
        self._writer.replace_dataset(lambda view: _commit_values(view, self._current, table), doing)

    def _drop_leftovers(self) -> None:
        """Drop columns that interrupted changes prepared, and those that finished changes replaced."""
        left = [name for name in self._current.view.dataset.schema.names if name.startswith(TEMPORARY_PREFIX)]
        if left:
            self._alter_schema(lambda dataset: dataset.drop_columns(left), "dropping what a change left")

    def _alter_schema(self, change: Any, doing: str) -> None:
        self._writer.alter_schema(change, f"{doing} of the set")

    def _stored_name(self, name: str) -> str:
        """Look up the stored spelling of a column: SQL does not tell Year from year."""
        columns = self._current.view.columns
        found = next((stored for stored in columns if stored.lower() == name.lower()), None)
        if found is None:
            there = ", ".join(list(columns)[:40]) or "none"
            raise NotFound(f"the set has no metadata column {name[:100]!r}", remedy=f"there are: {there}")
        return found

    def _check_free(self, name: str) -> None:
        columns = self._current.view.columns
        if name in columns:
            raise AlreadyExists(f"the set has a metadata column {name!r}", remedy="choose another name, or drop it first")
        check_spelling(name, columns)


def _check_update(columns: Sequence[Column], items: int) -> None:
    if not columns:
        raise InvalidInput("an update of no column", remedy="say which metadata changes")
    names = [column.name.lower() for column in columns]
    for column in columns:
        check_column_name(column.name)
        if names.count(column.name.lower()) > 1:
            raise InvalidInput(f"metadata column {column.name!r} stands twice", remedy="name each column once")
        if len(column.values) != items:
            raise InvalidInput(
                f"metadata column {column.name!r}: {len(column.values)} values for {items} items",
                remedy="send a value for each id, or one for all that match a filter",
            )


def _field(name: str, type: ColumnType) -> Any:
    import pyarrow as pa

    return pa.field(name, arrow_type(type))


def _commit_values(view: VersionView, current: LatestVersion, table: Any) -> Any:
    """Commit new files of those columns for the fragments that have some of the keys."""
    import pyarrow as pa

    addresses, _ = view.loaded_id_map.addresses(table["key"].to_numpy())
    updated, fields = [], set[int]()
    for owner, rows in _by_fragment(addresses):
        fragment = view.dataset.get_fragment(owner)
        made, modified = fragment.update_columns(table.take(pa.array(rows)).combine_chunks(), left_on="key")
        lance_io.sync_files(current.path, {*lance_io.data_files([made])} - {*lance_io.data_files([fragment.metadata])})
        updated.append(made)
        fields |= set(modified)
    operation = lance_io.load_lance().LanceOperation.Update(updated_fragments=updated, fields_modified=sorted(fields))
    return lance_io.commit(view.dataset, current.path, operation)


def _by_fragment(addresses: Array) -> Iterator[tuple[int, Array]]:
    owners = lance_layout.fragments_of(addresses)
    for owner in np.unique(owners).tolist():
        yield int(owner), np.flatnonzero(owners == owner)
