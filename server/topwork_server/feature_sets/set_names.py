"""Rules for the names of sets and metadata columns, and for ids."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from topwork_server.errors import InvalidInput

LONGEST_COLUMN = 100
RESERVED_NAMES = frozenset({"id", "key", "content"})
RESERVED_STARTS = ("features_", "spans_", "parts_", "input", "_")
MOST_ID_BYTES = 512


def is_reserved(column: str) -> bool:
    """Tell whether a column is the store's own, in any case of letters: SQL does not tell Key from key."""
    return column.lower() in RESERVED_NAMES or column.lower().startswith(RESERVED_STARTS)


def check_column_name(column: str) -> None:
    if is_reserved(column):
        starts = ", ".join(f"{start}..." for start in RESERVED_STARTS)
        raise InvalidInput(
            f"metadata column {column!r}: the name is the store's own",
            remedy=f"rename it; id, key, content and {starts} are taken",
        )
    if len(column) > LONGEST_COLUMN or not column.isidentifier() or unicodedata.normalize("NFC", column) != column:
        raise InvalidInput(
            f"metadata column {column!r:.200}: not a name that a filter can use",
            remedy=f"use a letter of any script, then letters, digits and '_', at most {LONGEST_COLUMN}, normalized as NFC",
        )


def to_arrow_strings(ids: Sequence[str]) -> Any:
    """Convert ids to an Arrow array. InvalidInput where one is no text."""
    import pyarrow as pa

    try:
        return pa.array(ids, pa.string())
    except (pa.ArrowException, TypeError, UnicodeError) as error:
        raise InvalidInput(f"ids are texts (UTF-8): {error}") from error


def id_array(ids: Sequence[str]) -> Any:
    """Convert the ids of a write to an Arrow array. Refuses empty, long and repeated ones, and those with NUL, each by name."""
    import pyarrow.compute as pc

    array = to_arrow_strings(ids)
    if not len(array):
        return array
    if array.null_count:
        raise InvalidInput(f"item {ids.index(None)}: no id", remedy="give every item an id")
    lengths = pc.binary_length(array).to_numpy(zero_copy_only=False)
    for position in (lengths == 0).nonzero()[0][:1]:
        raise InvalidInput("an empty id", remedy="give every item an id", item=int(position))
    for position in (lengths > MOST_ID_BYTES).nonzero()[0][:1]:
        raise InvalidInput(f"an id of {lengths[position]} bytes", remedy=f"at most {MOST_ID_BYTES}", item=int(position))
    if pc.any(pc.match_substring(array, "\0")).as_py():
        raise InvalidInput("an id holds the NUL character", remedy="take it out")
    if pc.count_distinct(array).as_py() != len(array):
        twice = next(id for id, count in Counter(ids).items() if count > 1)
        raise InvalidInput(f"the id {twice!r} stands more than once in one request", remedy="send each id once")
    return array
