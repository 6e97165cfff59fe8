"""Arrow tables to batches of items, and tables cut into parts of about so many bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.feature_sets import stored_inputs
from topwork_server.feature_sets.schema import SPAN_KINDS, SetMetadata, companion, input_fields, tap_fields
from topwork_server.feature_sets.set_types import Column, ColumnType, ItemBatch
from topwork_server.features import Spans, TapRows
from topwork_server.types import Array, FingerprintedTap, Granularity


@dataclass(frozen=True, slots=True)
class Projection:
    """The columns that are read of a set: some of its taps and metadata, in the order requested, and the raw inputs."""

    set_metadata: SetMetadata
    taps: tuple[FingerprintedTap, ...]
    columns: dict[str, ColumnType]
    inputs: bool

    @property
    def stored(self) -> list[str]:
        """The dataset's columns that it takes, all but `id` and `key`."""
        fields = [
            f.name
            for t in self.taps
            for f in tap_fields(t.tap, self.set_metadata.columns[t.tap.name], self.set_metadata.definition.dtype)
        ]
        return [*fields, *self.columns, *([f.name for f in input_fields()] if self.inputs else [])]


def make_projection(
    set_metadata: SetMetadata,
    known: dict[str, ColumnType],
    taps: Sequence[str] | None,
    columns: Sequence[str] | None,
    inputs: bool,
) -> Projection:
    """The taps and columns of those names, None for all. InvalidInput names an unknown one and those that there are."""
    by_name = {info.tap.name: info for info in set_metadata.definition.taps}
    chosen_taps = _check_names("tap", taps, list(by_name))
    chosen = _check_names("metadata column", columns, list(known))
    if inputs and not set_metadata.definition.keep_inputs:
        raise InvalidInput(f"the set {set_metadata.definition.name!r} keeps no inputs", remedy="make a set with keep_inputs")
    return Projection(set_metadata, tuple(by_name[name] for name in chosen_taps), {name: known[name] for name in chosen}, inputs)


def _check_names(what: str, names: Sequence[str] | None, known: list[str]) -> list[str]:
    if names is None:
        return known
    for name in names:
        if name not in known:
            raise InvalidInput(f"the set has no {what} {name!r}", remedy=f"there are: {', '.join(known) or 'none'}")
    return list(dict.fromkeys(names))


def to_item_batch(table: Any, projection: Projection, ids: list[str] | None = None, keys: Array | None = None) -> ItemBatch:
    """Convert a table with the projection's columns; the ids and keys are the table's own where none are given."""
    taps = tuple(tap_rows(table, projection.set_metadata, info) for info in projection.taps)
    return ItemBatch(
        ids=table["id"].to_pylist() if ids is None else ids,
        taps=taps,
        metadata=tuple(Column(name, type, column_values(table[name], type)) for name, type in projection.columns.items()),
        inputs=stored_inputs.from_table(table) if projection.inputs else (),
        keys=table["key"].combine_chunks().to_numpy() if keys is None else keys,
    )


def column_values(column: Any, type: ColumnType) -> list[Any]:
    """Python values, None where missing; TIME in microseconds since 1970."""
    import pyarrow as pa

    return list((column.cast(pa.int64()) if type is ColumnType.TIME else column).to_pylist())


def tap_rows(table: Any, set_metadata: SetMetadata, info: FingerprintedTap) -> TapRows:
    """The rows of one tap: (n, dim) float32, a view of Arrow's memory where it is stored so."""
    tap, column = info.tap, set_metadata.columns[info.tap.name]
    array = _single_array(table[column])
    if tap.granularity is Granularity.ITEM:
        return TapRows(info, _numbers(array, tap.dim), np.ones(len(array), np.int64))
    counts = np.diff(array.offsets.to_numpy()).astype(np.int64)
    rows = _numbers(array.flatten(), tap.dim)
    return TapRows(info, rows, counts, _spans(table, tap.granularity, column, len(rows)))


def _spans(table: Any, granularity: Granularity, column: str, rows: int) -> Spans | None:
    kind, width = SPAN_KINDS[granularity]
    spans = _single_array(table[companion(column, "spans")])
    if spans.null_count == len(spans):
        return None
    covered = _fill_missing(spans, table[column], lambda array: _numbers(array, width), np.zeros((rows, width), np.float32))
    if granularity is not Granularity.TOKEN:
        return Spans(kind, covered)
    parts = _single_array(table[companion(column, "parts")])
    return Spans(kind, covered, _fill_missing(parts, table[column], lambda array: array.to_numpy(), np.zeros(rows, np.int32)))


def _fill_missing(array: Any, rows: Any, numbers: Any, nothing: Array) -> Array:
    """The numbers of a list column: zeros for the rows of items that have none of them, though others do."""
    given: Array = numbers(array.flatten())
    if len(given) == len(nothing):
        return given
    there = np.repeat(array.is_valid().to_numpy(zero_copy_only=False), np.diff(_single_array(rows).offsets.to_numpy()))
    nothing[there] = given
    return nothing


def _single_array(column: Any) -> Any:
    import pyarrow as pa

    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def _numbers(array: Any, width: int) -> Array:
    return np.asarray(array.flatten().to_numpy(zero_copy_only=False).reshape(-1, width), np.float32)


def rechunk(tables: Iterable[Any], batch_bytes: int) -> Iterator[Any]:
    """The same rows as tables of about `batch_bytes` each: small ones are joined, large ones are cut."""
    import pyarrow as pa

    waiting: list[Any] = []
    size = 0
    for table in tables:
        waiting.append(table)
        size += table.nbytes
        if size >= batch_bytes:
            yield from split_table(pa.concat_tables(waiting), batch_bytes)
            waiting, size = [], 0
    if waiting:
        yield from split_table(pa.concat_tables(waiting), batch_bytes)


def split_table(table: Any, batch_bytes: int) -> Iterator[Any]:
    """Even parts by the mean size of a row; a part that is still twice too large is halved."""
    if not len(table):
        return
    parts = max(1, round(table.nbytes / batch_bytes))
    rows = max(1, -(-len(table) // parts))
    for start in range(0, len(table), rows):
        part = table.slice(start, rows)
        if len(part) > 1 and part.nbytes > 2 * batch_bytes:
            yield from split_table(part.slice(0, len(part) // 2), batch_bytes)
            yield from split_table(part.slice(len(part) // 2), batch_bytes)
        else:
            yield part
