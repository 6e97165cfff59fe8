"""What an update of metadata is given -> columns of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from topwork._codec.items import describe
from topwork._ops.item_labels import KnownMetadata, columns_of, metadata_of, named, texts, unique
from topwork.errors import InvalidInput


def by_filter(metadata: Any) -> dict[str, list[Any]]:
    """One value a column, for all items that match."""
    if not isinstance(metadata, Mapping) or not metadata:
        raise InvalidInput(
            f"an update by a filter is given {describe(metadata)}", remedy="pass a dict of values: {'label': 'owl'}"
        )
    return {named(name): [value] for name, value in metadata.items()}


def by_ids(ids: Any, metadata: Any) -> tuple[list[str], dict[str, list[Any]]]:
    """The ids, and a value for each in every column."""
    chosen = texts(ids)
    unique(chosen, 0)
    columns = _columns(metadata, len(chosen), isinstance(ids, str | int))
    if not columns:
        raise InvalidInput("an update of no column", remedy="pass metadata: a dict an item, or a dict of columns")
    for name, values in columns.items():
        if len(values) != len(chosen):
            raise InvalidInput(f"column {name!r} has {len(values)} values for {len(chosen)} ids", remedy="pass one an id")
    return chosen, columns


def _columns(metadata: Any, count: int, lone: bool) -> dict[str, list[Any]]:
    if isinstance(metadata, Mapping) and (lone or not any(_is_column(value) for value in metadata.values())):
        return {named(name): [value] * count for name, value in metadata.items()}
    if isinstance(metadata, list | tuple):
        return columns_of(_alike(metadata), 0)
    found = metadata_of(metadata)
    if not isinstance(found, KnownMetadata):
        raise InvalidInput(
            f"metadata comes as {describe(metadata)}", remedy="pass a list with a dict an item, or a dict of columns"
        )
    return found.columns


def _is_column(value: Any) -> bool:
    return not isinstance(value, str | bytes) and hasattr(value, "__len__") and hasattr(value, "__getitem__")


def _alike(rows: Sequence[Any]) -> Sequence[Any]:
    """A column that is left out stays as it is, so it must be left out of all."""
    for position, row in enumerate(rows):
        if isinstance(row, Mapping) and isinstance(rows[0], Mapping) and row.keys() != rows[0].keys():
            wrong = ", ".join(sorted(map(str, row.keys() ^ rows[0].keys())))
            raise InvalidInput(
                f"the rows of an update differ in their columns: {wrong}",
                remedy="name the same columns in each; None takes a value away",
                item=position,
            )
    return rows
