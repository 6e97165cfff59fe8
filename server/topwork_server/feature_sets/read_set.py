"""Reading a set: a snapshot at one version, cut into batches; items by key or id; which items match a filter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from topwork_server.blocking_calls import Check, always_waits
from topwork_server.errors import InvalidInput, NotFound
from topwork_server.feature_sets import filters, lance_layout
from topwork_server.feature_sets.dropped_sets import Present
from topwork_server.feature_sets.from_arrow import Projection, column_values, make_projection, rechunk, to_item_batch
from topwork_server.feature_sets.lance_io import map_errors, translate_error
from topwork_server.feature_sets.latest_version import LatestVersion, VersionReaders
from topwork_server.feature_sets.open_set import VersionView
from topwork_server.feature_sets.set_names import to_arrow_strings
from topwork_server.feature_sets.set_types import KEY_BITS, ItemBatch, ReadResult, Selection, StoredItem
from topwork_server.features import TapRows
from topwork_server.types import Array

# Lance reads ahead: bounded, so that a slow reader of large rows does not fill the memory.
READ_AHEAD = 2
READ_BUFFER = 64 << 20
MOST_ROWS = 8192


class BatchReader:
    """An iterator of batches that holds its version from pruning until it is exhausted, closed or forgotten. Errors are NotFound
    where the set was dropped meanwhile."""

    def __init__(self, batches: Iterator[ItemBatch], presence: Present, readers: VersionReaders, version: int) -> None:
        self._batches, self._presence, self._readers, self._version = batches, presence, readers, version
        self._open = True
        readers.acquire(version)

    def __iter__(self) -> BatchReader:
        return self

    def __next__(self) -> ItemBatch:
        try:
            return next(self._batches)
        except StopIteration:
            self.close()
            raise
        except BaseException as error:
            self.close()
            raise self._presence.explain(translate_error(error, "reading rows")) from error

    def close(self) -> None:
        if self._open:
            self._open = False
            self._readers.release(self._version)

    def __del__(self) -> None:
        self.close()


def read(current: LatestVersion, presence: Present, selection: Selection, check: Check = always_waits) -> ReadResult:
    """Read as FeatureSet.read says."""
    if selection.offset < 0 or selection.limit < 0 or selection.batch_bytes < 1:
        raise InvalidInput("offset and limit are not negative, and a block has at least one byte")
    with current.reading_at(selection.version) as view:
        return read_view(view, presence, current.readers, selection, check)


def count(current: LatestVersion, where: str, version: int, check: Check) -> tuple[int, int]:
    """Count as FeatureSet.count says."""
    with current.reading_at(version) as view:
        return count_matching(view, safe_condition(view, where), where, check), view.version


def read_view(
    view: VersionView, presence: Present, readers: VersionReaders, selection: Selection, check: Check = always_waits
) -> ReadResult:
    """Read a view that the caller keeps from pruning until this returns."""
    projection = make_projection(view.set_metadata, view.columns, selection.taps, selection.columns, selection.inputs)
    view.check()
    condition = _condition(view, selection)
    if selection.ids is None:
        total = count_matching(view, condition, selection.where, check)
        tables = _scan_tables(view, projection, condition, selection)
    else:
        addresses = _addresses(view, condition, selection, check)
        total = len(addresses)
        tables = _take_tables(view, projection, addresses, selection)
    batches = (to_item_batch(table, projection) for table in rechunk(_checked_between(tables, check), selection.batch_bytes))
    return ReadResult(view.version, total, BatchReader(batches, presence, readers, view.version))


def _condition(view: VersionView, selection: Selection) -> str:
    """The filter, safe and whole, joined with `since`."""
    where = safe_condition(view, selection.where)
    since = f"key >= {selection.since << KEY_BITS}" if selection.since else ""
    return f"{where} AND {since}" if where and since else where or since


def safe_condition(view: VersionView, where: str) -> str:
    """The filter as Lance is given it, in parentheses so that it may be joined with another."""
    return f"({filters.compile_filter(where, view.columns)})" if where else ""


def count_matching(view: VersionView, condition: str, where: str, check: Check = always_waits) -> int:
    """Count the items that match; `condition` as `safe_condition` gives it, of the filter `where`."""
    if not condition:
        return int(view.dataset.count_rows())
    return sum(batch.num_rows for batch in _scan_matching(view, "key", condition, where, check))


def _scan_matching(
    view: VersionView, column: str, condition: str, where: str, check: Check, *, addresses: bool = False
) -> Iterator[Any]:
    """Batches of one column of what matches. `check` is called at each, and as often as a filter that lets nothing through."""
    view.check()
    try:
        scanner = view.dataset.scanner(
            columns=[column], filter=condition or None, with_row_address=addresses, batch_size=MOST_ROWS
        )
        yield from _checked_between(scanner.to_batches(), check)
    except Exception as error:
        raise filters.translate_refusal(error, where) from error


def _checked_between(parts: Iterator[Any], check: Check) -> Iterator[Any]:
    for part in parts:
        check()
        yield part


def _scan_tables(view: VersionView, projection: Projection, condition: str, selection: Selection) -> Iterator[Any]:
    import pyarrow as pa

    with map_errors("reading rows"):
        scanner = view.dataset.scanner(
            columns=["id", "key", *projection.stored],
            filter=condition or None,
            offset=selection.offset or None,
            limit=selection.limit or None,
            batch_size_bytes=selection.batch_bytes,
            batch_size=MOST_ROWS,
            batch_readahead=READ_AHEAD,
            fragment_readahead=READ_AHEAD,
            io_buffer_size=READ_BUFFER,
        )
    for batch in scanner.to_batches():
        yield pa.Table.from_batches([batch])


def _addresses(view: VersionView, condition: str, selection: Selection, check: Check) -> Array:
    """Find the addresses of matching items with those ids, in the order of the set."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ids_given = _arrow_ids(selection.ids or ())
    if not condition and view.id_map is not None:
        keys, addresses = view.loaded_id_map.find(ids_given)
        return np.asarray(np.sort(addresses[keys >= 0]))
    found = [np.zeros(0, np.uint64)]
    for batch in _scan_matching(view, "id", condition, selection.where, check, addresses=True):
        table = pa.Table.from_batches([batch])
        found.append(table.filter(pc.is_in(table["id"], value_set=ids_given))["_rowaddr"].to_numpy())
    return np.sort(np.concatenate(found))


def _arrow_ids(ids: Sequence[str]) -> Any:
    """Return each id once, as Arrow strings; an empty one is no item's."""
    return to_arrow_strings([id for id in dict.fromkeys(ids) if id])


def _take_tables(view: VersionView, projection: Projection, addresses: Array, selection: Selection) -> Iterator[Any]:
    end = selection.offset + selection.limit if selection.limit else len(addresses)
    chosen = addresses[selection.offset : end]
    start, step = 0, 16
    while start < len(chosen):
        table = take_rows(view, chosen[start : start + step], ["id", "key", *projection.stored])
        yield table
        start += step
        # As many as make a batch, by what these took; but rows differ, so not much more than last time.
        step = max(1, min(MOST_ROWS, 8 * step, selection.batch_bytes * len(table) // max(1, table.nbytes)))


def take_rows(view: VersionView, addresses: Array, columns: Sequence[str]) -> Any:
    """Rows by address, in that order."""
    view.check(addresses)
    with map_errors("reading rows"):
        return lance_layout.take_rows(view.dataset, addresses, columns)


def keys(current: LatestVersion, where: str, ids: Sequence[str] | None, check: Check = always_waits) -> tuple[int, Array]:
    """Select as FeatureSet.keys says."""
    with current.reading() as view:
        matching = _matching_keys(view, where, check) if where else None
        if ids is None:
            return view.version, view.loaded_id_map.keys() if matching is None else matching
        found, _ = view.loaded_id_map.find(_arrow_ids(ids))
        there = np.sort(found[found >= 0])
        return view.version, there if matching is None else np.intersect1d(there, matching, assume_unique=True)


def _matching_keys(view: VersionView, where: str, check: Check) -> Array:
    batches = _scan_matching(view, "key", safe_condition(view, where), where, check)
    found = [np.zeros(0, np.int64), *(batch.column("key").to_numpy() for batch in batches)]
    return np.sort(np.concatenate(found))


def fetch(
    current: LatestVersion,
    keys: Array,
    taps: Sequence[str] | None,
    columns: Sequence[str] | None,
    inputs: bool,
) -> ItemBatch:
    """Fetch as FeatureSet.fetch says."""
    keys = np.asarray(keys, np.int64)
    if not len(keys):
        view = current.view
        projection = make_projection(view.set_metadata, view.columns, taps, columns, inputs)
        return to_item_batch(view.dataset.schema.empty_table(), projection, [], keys)
    with current.reading() as view:
        projection = make_projection(view.set_metadata, view.columns, taps, columns, inputs)
        addresses, there = view.loaded_id_map.addresses(keys)
        found_keys = keys[there]
        ids = [id or "" for id in view.loaded_id_map.ids(found_keys)]
        if projection.stored and len(found_keys):
            return to_item_batch(take_rows(view, addresses[there], projection.stored), projection, ids, found_keys)
        empty = view.dataset.schema.empty_table()
        return to_item_batch(empty, projection, ids, found_keys)


def stored_rows(current: LatestVersion, ids: Sequence[str], taps: Sequence[str]) -> tuple[tuple[TapRows, ...], Array]:
    """Read as FeatureSet.stored_rows says."""
    ids_given = _arrow_ids(ids)
    position = {id: at for at, id in enumerate(ids_given.to_pylist())}
    with current.reading() as view:
        keys, addresses = view.loaded_id_map.find(ids_given)
        for item, id in enumerate(ids):
            if id not in position or keys[position[id]] < 0:
                raise NotFound(f"the set {current.name} has no item {id!r}", remedy="send ids that it has", item=item)
        projection = make_projection(view.set_metadata, view.columns, taps, (), False)
        batch = to_item_batch(take_rows(view, addresses, projection.stored), projection, [], keys)
    at = np.array([position[id] for id in ids], np.int64)
    return tuple(rows.take(at) for rows in batch.taps), keys[at]


def stored_items(current: LatestVersion, ids: Sequence[str]) -> dict[str, StoredItem]:
    """Read as FeatureSet.stored_items says."""
    ids_given = _arrow_ids(ids)
    with current.reading() as view:
        keys, addresses = view.loaded_id_map.find(ids_given)
        there = np.flatnonzero(keys >= 0)
        if not len(there):
            return {}
        table = take_rows(view, addresses[there], ["content", *view.columns])
        found = [column_values(table[name], type) for name, type in view.columns.items()]
        metadata = [dict(zip(view.columns, row, strict=True)) for row in zip(*found, strict=True)] or [{}] * len(there)
        rows = zip(ids_given.take(there).to_pylist(), keys[there].tolist(), table["content"].to_pylist(), metadata, strict=True)
        return {id: StoredItem(key, content or "", one) for id, key, content, one in rows}
