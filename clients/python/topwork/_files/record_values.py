"""Values of one record of a file: its id, its item, its metadata; and the columns that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from topwork._files.column_types import convert
from topwork._files.record_files import LINE, Record, RecordFile
from topwork.errors import InvalidInput


class RecordColumn(NamedTuple):
    """A column of a file that becomes one of metadata: its name there, its name in the set, its type."""

    source: str
    name: str
    kind: str


def id_of(table: RecordFile, column: str, record: Record) -> str:
    value = record.values.get(column)
    if value is None or value == "":
        raise InvalidInput(f"{table.name(record)} has no id under {column!r}", remedy="give each item one")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidInput(
            f"{table.name(record)}: the id under {column!r} is {value!r}",
            remedy="ids are texts or whole numbers",
        )
    return str(value)


def item_column(table: RecordFile, column: str | None, usual: Sequence[str]) -> str:
    """Choose the column that holds the items: that named, the only one, or the first of the `usual` that is there. Raises
    InvalidInput where the file has none such."""
    if table.columns == ():
        if column:
            table.check(column, "column")
        return LINE
    if table.columns and not column and len(table.columns) == 1:
        return table.columns[0]
    chosen = column or next((name for name in usual if name in (table.columns or ())), usual[-1])
    table.check(chosen, "column")
    return chosen


def text_of(table: RecordFile, column: str, record: Record) -> str | bytes:
    """Return the item itself: a text, the path of a file or (of .parquet) its bytes."""
    value = record.values.get(column, record.values.get(LINE))
    if isinstance(value, str) or (isinstance(value, bytes) and value):
        return value
    if value in (None, b""):
        raise InvalidInput(f"{table.name(record)} has no text under {column!r}", remedy="name where it is with `column`")
    raise InvalidInput(
        f"{table.name(record)}: {column!r} is {value!r:.60}, no text", remedy="name the column of texts with `column`"
    )


def is_blank(column: str, record: Record) -> bool:
    """Tell whether a record has no item: nothing, or a text of spaces."""
    value = record.values.get(column, record.values.get(LINE))
    return value is None or (isinstance(value, str | bytes) and not value.strip())


def value_of(table: RecordFile, column: str, kind: str, record: Record) -> Any:
    value = record.values.get(column)
    if table.texts and value == "":
        return None
    try:
        return convert(kind, value)
    except ValueError:
        raise InvalidInput(
            f"{table.name(record)}: {column!r} is {value!r}, no {kind}",
            remedy=f"correct it, say --type {column}=TYPE, or which columns to keep with --metadata",
        ) from None


def metadata_of(table: RecordFile, columns: Iterable[RecordColumn], record: Record) -> dict[str, Any]:
    """Convert a record's metadata, by the names in the set; what is missing is left out."""
    found: Iterator[tuple[str, Any]] = ((c.name, value_of(table, c.source, c.kind, record)) for c in columns)
    return {name: value for name, value in found if value is not None}
