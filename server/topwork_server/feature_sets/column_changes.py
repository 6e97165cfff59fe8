"""Changes of a set's metadata without its vectors: columns added, renamed, cast and dropped, and values updated.

Rows keep their keys and places, so indexes have nothing to do. A change is seen as a whole or not at all: what prepares it stands
in columns whose names are the store's own, and the next change drops what a crash left of them. Runs in the commit thread.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from topwork_server.blocking_calls import Check
from topwork_server.errors import AlreadyExists, InvalidInput, NotFound
from topwork_server.feature_sets import lance_io, lance_layout, read_set
from topwork_server.feature_sets.commit import CommitWriter
from topwork_server.feature_sets.filter_values import parse_time
from topwork_server.feature_sets.from_arrow import column_values
from topwork_server.feature_sets.latest_version import LatestVersion
from topwork_server.feature_sets.open_set import VersionView
from topwork_server.feature_sets.schema import arrow_type
from topwork_server.feature_sets.set_names import check_column_name
from topwork_server.feature_sets.set_types import Column, ColumnType
from topwork_server.feature_sets.to_arrow import fit_columns, metadata_array
from topwork_server.feature_sets.write_checks import check_spelling

#: What a change prepares or leaves behind; `is_reserved` hides it from readers and filters.
TEMPORARY_PREFIX = "_change_"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """The result of a metadata update; `missing` are ids that the set does not have."""

    items: int
    missing: tuple[str, ...]
    version: int


class ColumnChanges:
    def __init__(self, current: LatestVersion, writer: CommitWriter) -> None:
        self._current, self._writer = current, writer
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
            _, keys = read_set.keys(self._current, where, None, check)
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
    for owner, rows in lance_layout.by_fragment(addresses):
        fragment = view.dataset.get_fragment(owner)
        made, modified = fragment.update_columns(table.take(pa.array(rows)).combine_chunks(), left_on="key")
        lance_io.sync_files(current.path, {*lance_io.data_files([made])} - {*lance_io.data_files([fragment.metadata])})
        updated.append(made)
        fields |= set(modified)
    operation = lance_io.load_lance().LanceOperation.Update(updated_fragments=updated, fields_modified=sorted(fields))
    return lance_io.commit(view.dataset, current.path, operation)


def cast_values(name: str, values: Sequence[Any], stored: ColumnType, type: ColumnType) -> list[Any]:
    """Cast the values; missing ones stay missing. InvalidInput gives an example and a count of values that cannot be cast."""
    if stored is type:
        return list(values)
    convert = _CASTS.get((stored, type))
    if convert is None:
        raise InvalidInput(
            f"metadata column {name!r}: {stored.value} does not become {type.value}", remedy="cast it to string, and that on"
        )
    made, bad = _convert_each(values, convert)
    if bad:
        raise InvalidInput(
            f"metadata column {name!r}: {len(bad)} of {len(values)} values are no {type.value}, such as {bad[0]!r:.60}",
            remedy="update or delete those, or cast to another type; the column is as it was",
        )
    return made


def _convert_each(values: Sequence[Any], convert: Callable[[Any], Any]) -> tuple[list[Any], list[Any]]:
    made: list[Any] = []
    bad: list[Any] = []
    for value in values:
        try:
            made.append(None if value is None else convert(value))
        except (ValueError, OverflowError):  # InvalidInput is a ValueError
            bad.append(value)
    return made, bad


def _int_to_float(value: int) -> float:
    found = float(value)
    if int(found) != value:
        raise ValueError(value)
    return found


def _float_to_int(value: float) -> int:
    found = int(value)
    if found != value or not -(1 << 63) <= found < 1 << 63:
        raise ValueError(value)
    return found


def _int_to_bool(value: int) -> bool:
    if value not in (0, 1):
        raise ValueError(value)
    return bool(value)


def _from_text(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make a cast of texts; an empty text is a missing value."""
    return lambda text: convert(text.strip()) if text.strip() else None


def _parse_int(text: str) -> int:
    found = int(text)
    if "_" in text or not -(1 << 63) <= found < 1 << 63:
        raise ValueError(text)
    return found


def _parse_float(text: str) -> float:
    if "_" in text:
        raise ValueError(text)
    return float(text)


def _parse_bool(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(text)
    return text.lower() in ("true", "1")


def _parse_micros(text: str) -> int:
    found = parse_time(text)
    if not isinstance(found, int):
        raise ValueError(text)
    return found


def _parse_list(text: str) -> list[str]:
    """Parse a JSON list of texts; any other text becomes a list of itself."""
    if not text.startswith("["):
        return [text]
    found = json.loads(text)
    if not all(isinstance(one, str) for one in found):
        raise ValueError(text)
    return list(found)


def _time_to_text(micros: int) -> str:
    return (EPOCH + timedelta(microseconds=micros)).isoformat()


_CASTS: Mapping[tuple[ColumnType, ColumnType], Callable[[Any], Any]] = {
    (ColumnType.INT, ColumnType.FLOAT): _int_to_float,
    (ColumnType.INT, ColumnType.BOOL): _int_to_bool,
    (ColumnType.INT, ColumnType.STRING): str,
    (ColumnType.FLOAT, ColumnType.INT): _float_to_int,
    (ColumnType.FLOAT, ColumnType.STRING): repr,
    (ColumnType.BOOL, ColumnType.INT): int,
    (ColumnType.BOOL, ColumnType.FLOAT): float,
    (ColumnType.BOOL, ColumnType.STRING): lambda value: "true" if value else "false",
    (ColumnType.TIME, ColumnType.STRING): _time_to_text,
    (ColumnType.STRINGS, ColumnType.STRING): lambda value: json.dumps(value, ensure_ascii=False),
    (ColumnType.STRING, ColumnType.INT): _from_text(_parse_int),
    (ColumnType.STRING, ColumnType.FLOAT): _from_text(_parse_float),
    (ColumnType.STRING, ColumnType.BOOL): _from_text(_parse_bool),
    (ColumnType.STRING, ColumnType.TIME): _from_text(_parse_micros),
    (ColumnType.STRING, ColumnType.STRINGS): _parse_list,
}
