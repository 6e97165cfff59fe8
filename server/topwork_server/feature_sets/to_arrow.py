"""Batches of items to Arrow tables, without a copy where the numbers allow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.feature_sets import stored_inputs, write_checks
from topwork_server.feature_sets.schema import SetMetadata, arrow_type, companion, input_fields, metadata_columns, tap_fields
from topwork_server.feature_sets.set_names import id_array
from topwork_server.feature_sets.set_types import Column, ColumnType, ItemBatch
from topwork_server.features import TapRows
from topwork_server.types import Array, Granularity

#: Microseconds since 1970 of 0001-01-01 and of the end of 9999.
FIRST_TIME, LAST_TIME = -62_135_596_800_000_000, 253_402_300_799_999_999


def to_arrow_table(set_metadata: SetMetadata, batch: ItemBatch) -> Any:
    """Convert a batch to the columns that the set stores, all but `key`: the commit gives that. Checks everything but whether the
    metadata fits what is stored (see `fit_columns`). InvalidInput or NotReady, each naming what was wrong."""
    import pyarrow as pa

    write_checks.check_batch(batch, set_metadata.definition.keep_inputs)
    ids = id_array(batch.ids)
    columns: dict[str, Any] = {"id": ids, "content": _contents(batch)}
    for rows in write_checks.check_taps(set_metadata.definition, batch):
        columns |= _tap_arrays(set_metadata, rows)
    if set_metadata.definition.keep_inputs:
        inputs = batch.inputs or [None] * len(batch.ids)
        columns |= zip((field.name for field in input_fields()), stored_inputs.to_arrays(inputs), strict=True)
    for column in batch.metadata:
        columns[column.name] = metadata_array(column)
    return pa.table(columns)


def _contents(batch: ItemBatch) -> Any:
    import pyarrow as pa

    return pa.array([content or None for content in batch.content_hashes] or [None] * len(batch.ids), pa.string())


def _tap_arrays(set_metadata: SetMetadata, rows: TapRows) -> dict[str, Any]:
    import pyarrow as pa

    tap, column = rows.tap.tap, set_metadata.columns[rows.tap.tap.name]
    numbers = _fixed_size_lists(rows.rows, np.float16 if set_metadata.definition.dtype == "float16" else np.float32)
    if tap.granularity is Granularity.ITEM:
        return {column: numbers}
    offsets = pa.array(np.concatenate([[0], np.cumsum(rows.counts)]).astype(np.int32))
    fields = tap_fields(tap, column, set_metadata.definition.dtype)
    arrays: dict[str, Any] = {field.name: pa.nulls(len(rows.counts), field.type) for field in fields}
    arrays[column] = pa.ListArray.from_arrays(offsets, numbers)
    if rows.spans is not None:
        arrays[companion(column, "spans")] = pa.ListArray.from_arrays(offsets, _fixed_size_lists(rows.spans.values, np.float32))
        if rows.spans.parts is not None and tap.granularity is Granularity.TOKEN:
            parts = pa.array(np.ascontiguousarray(rows.spans.parts, np.int32))
            arrays[companion(column, "parts")] = pa.ListArray.from_arrays(offsets, parts)
    return arrays


def _fixed_size_lists(numbers: Array, dtype: Any) -> Any:
    import pyarrow as pa

    rows = np.ascontiguousarray(numbers, dtype)
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def metadata_array(column: Column) -> Any:
    """The column's values as Arrow keeps them. InvalidInput that names the column where a value is not of its type."""
    import pyarrow as pa

    values = column.values.tolist() if isinstance(column.values, np.ndarray) else list(column.values)
    _check_values(column, values)
    try:
        if column.type is ColumnType.TIME:
            return pa.array(values, pa.int64()).cast(arrow_type(column.type))
        return pa.array(values, arrow_type(column.type), from_pandas=False)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(
            f"metadata column {column.name!r}: {error}", remedy=f"its values are {column.type.value}, or missing"
        ) from error


PYTHON_TYPES: dict[ColumnType, set[type]] = {
    ColumnType.BOOL: {bool},
    ColumnType.INT: {int},
    ColumnType.FLOAT: {float, int},
    ColumnType.STRING: {str},
    ColumnType.TIME: {int},
    ColumnType.STRINGS: {list, tuple},
}


def _check_values(column: Column, values: list[Any]) -> None:
    wrong = set(map(type, values)) - PYTHON_TYPES[column.type] - {type(None)}
    if not wrong and column.type is ColumnType.TIME:
        _check_times(column, values)
    if wrong:
        position = next(i for i, value in enumerate(values) if type(value) in wrong)
        raise InvalidInput(
            f"metadata column {column.name!r} holds {column.type.value}, and its value is {values[position]!r:.80}",
            remedy=f"send {column.type.value}, or leave it out",
            item=position,
        )


def _check_times(column: Column, values: list[Any]) -> None:
    """Refuse times outside of the years 1 to 9999, the calendar that every reader has."""
    for position, value in enumerate(values):
        if value is not None and not FIRST_TIME <= value <= LAST_TIME:
            raise InvalidInput(
                f"metadata column {column.name!r}: {value} microseconds since 1970 are not of the years 1 to 9999",
                remedy="send a time of these years, in microseconds",
                item=position,
            )


@dataclass(frozen=True, slots=True)
class FittedTable:
    """A table as a set takes it, the columns that must be grown for it, and those of whole numbers that must become floats."""

    table: Any
    new_columns: dict[str, ColumnType]
    widened: tuple[str, ...]


def fit_columns(table: Any, stored: dict[str, ColumnType]) -> FittedTable:
    """The table with its metadata as a set with the columns `stored` takes it.

    Whole numbers go into a column of floats, and floats into one of whole numbers, which widens unless they are all whole.
    Anything else of another type is InvalidInput, and so is a number that would change.
    """
    grown: dict[str, ColumnType] = {}
    widened: list[str] = []
    for name, given in metadata_columns(table.schema).items():
        column = table[name]
        empty = column.null_count == len(column)
        if name not in stored:
            write_checks.check_spelling(name, stored)
            grown[name] = given
            continue
        write_checks.check_column_type(name, stored[name], given, empty)
        if given is stored[name]:
            continue
        made = _convert_column(name, column, stored[name], empty)
        if made is None:
            widened.append(name)
        else:
            table = table.set_column(table.schema.get_field_index(name), name, made)
    return FittedTable(table, grown, tuple(widened))


def _convert_column(name: str, column: Any, type: ColumnType, empty: bool) -> Any:
    """The column in another type; None where it is of floats that are not all whole, and whole ones are stored."""
    import pyarrow as pa

    target = arrow_type(type)
    if empty:
        return pa.nulls(len(column), target)
    if type is ColumnType.INT:
        try:
            return column.cast(target)
        except pa.ArrowInvalid:
            return None
    try:
        return column.cast(target)
    except pa.ArrowInvalid:  # a whole number beyond 2**53: some of those are floats, others are not
        lost = [value for value in column.to_pylist() if value is not None and int(float(value)) != value]
    if lost:
        raise InvalidInput(
            f"metadata column {name!r} holds floats, and {lost[0]} is none: it has more than 53 bits",
            remedy="send it as a string, in a column of its own",
        )
    return column.cast(target, safe=False)


def with_all_columns(table: Any, schema: Any) -> Any:
    """The table with exactly the columns of `schema`, in its order: nulls where it has none."""
    import pyarrow as pa

    present = set(table.column_names)
    arrays = [table[f.name] if f.name in present else pa.nulls(len(table), f.type) for f in schema]
    return pa.table(arrays, schema=schema.remove_metadata())
