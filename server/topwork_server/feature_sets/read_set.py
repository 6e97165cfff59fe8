"""Reading a set: a snapshot at one version, cut into blocks; items by key; which items match a filter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from topwork_server.blocking_calls import Check, always_waits
from topwork_server.errors import InvalidInput
from topwork_server.feature_sets import filters
from topwork_server.feature_sets.from_arrow import Projection, cut, project, to_block, values
from topwork_server.feature_sets.lance_io import mapped, translated
from topwork_server.feature_sets.latest_version import LatestVersion, VersionView
from topwork_server.feature_sets.set_types import KEY_BITS, ItemBatch, ReadResult, Selection, StoredItem
from topwork_server.feature_sets.versions import Readers
from topwork_server.types import Array

# Lance reads ahead: bounded, so that a slow reader of large rows does not fill the memory.
READ_AHEAD = 2
READ_BUFFER = 64 << 20
MOST_ROWS = 8192


class BatchReader:
    """An iterator of blocks that holds its version from pruning until it is exhausted, closed or forgotten."""

    def __init__(self, blocks: Iterator[ItemBatch], readers: Readers, version: int) -> None:
        self._blocks, self._readers, self._version = blocks, readers, version
        self._open = True
        readers.enter(version)

    def __iter__(self) -> BatchReader:
        return self

    def __next__(self) -> ItemBatch:
        try:
            return next(self._blocks)
        except StopIteration:
            self.close()
            raise
        except BaseException as error:
            self.close()
            raise translated(error, "reading rows") from error

    def close(self) -> None:
        if self._open:
            self._open = False
            self._readers.leave(self._version)

    def __del__(self) -> None:
        self.close()


@contextmanager
def newest(current: LatestVersion, readers: Readers) -> Iterator[VersionView]:
    """The newest view with its roster, safe from pruning while the block runs."""
    while True:
        view = current.loaded()
        readers.enter(view.version)
        # Still the newest after it was entered: so no pruning can have looked before and delete after.
        if current.view.version == view.version:
            break
        readers.leave(view.version)
    try:
        yield view
    finally:
        readers.leave(view.version)


def read(current: LatestVersion, readers: Readers, selection: Selection, check: Check = always_waits) -> ReadResult:
    """As FeatureSet.read says."""
    if selection.offset < 0 or selection.limit < 0 or selection.block_bytes < 1:
        raise InvalidInput("offset and limit are not negative, and a block has at least one byte")
    with _held(current, readers, selection.version) as view:
        return read_view(view, readers, selection, check)


def count(current: LatestVersion, readers: Readers, where: str, version: int, check: Check) -> tuple[int, int]:
    """As FeatureSet.count says."""
    with _held(current, readers, version) as view:
        return counted(view, checked(view, where), where, check), view.version


@contextmanager
def _held(current: LatestVersion, readers: Readers, version: int) -> Iterator[VersionView]:
    """The view of a version (0: the newest), safe from pruning while the block runs."""
    if version == 0 or (version == current.view.version and current.lost is None):
        with newest(current, readers) as view:
            yield view
    else:
        with readers.holding(version):
            yield current.at(version)


def read_view(view: VersionView, readers: Readers, selection: Selection, check: Check = always_waits) -> ReadResult:
    """Of a view that the caller keeps from pruning until this returns."""
    projection = project(view.facts, view.columns, selection.taps, selection.columns, selection.inputs)
    view.check()
    condition = _condition(view, selection)
    if selection.ids is None:
        total = counted(view, condition, selection.where, check)
        tables = _scanned(view, projection, condition, selection)
    else:
        addresses = _addresses(view, condition, selection, check)
        total = len(addresses)
        tables = _taken(view, projection, addresses, selection)
    blocks = (to_block(table, projection) for table in cut(_while_waited(tables, check), selection.block_bytes))
    return ReadResult(view.version, total, BatchReader(blocks, readers, view.version))


def _condition(view: VersionView, selection: Selection) -> str:
    """The filter, safe and whole, joined with `since`."""
    where = checked(view, selection.where)
    since = f"key >= {selection.since << KEY_BITS}" if selection.since else ""
    return f"{where} AND {since}" if where and since else where or since


def checked(view: VersionView, where: str) -> str:
    """The filter as Lance is given it, in parentheses so that it may be joined with another."""
    return f"({filters.compiled(where, view.columns)})" if where else ""


def counted(view: VersionView, condition: str, where: str, check: Check = always_waits) -> int:
    """How many items match; `condition` as `checked` gives it, of the filter `where`."""
    if not condition:
        return int(view.dataset.count_rows())
    return sum(batch.num_rows for batch in _matched(view, "key", condition, where, check))


def _matched(
    view: VersionView, column: str, condition: str, where: str, check: Check, *, addresses: bool = False
) -> Iterator[Any]:
    """Batches of one column of what matches. `check` is called at each, and as often as a filter that lets nothing through."""
    view.check()
    try:
        scanner = view.dataset.scanner(
            columns=[column], filter=condition or None, with_row_address=addresses, batch_size=MOST_ROWS
        )
        yield from _while_waited(scanner.to_batches(), check)
    except Exception as error:
        raise filters.refused(error, where) from error


def _while_waited(parts: Iterator[Any], check: Check) -> Iterator[Any]:
    for part in parts:
        check()
        yield part


def _scanned(view: VersionView, projection: Projection, condition: str, selection: Selection) -> Iterator[Any]:
    import pyarrow as pa

    with mapped("reading rows"):
        scanner = view.dataset.scanner(
            columns=["id", "key", *projection.stored],
            filter=condition or None,
            offset=selection.offset or None,
            limit=selection.limit or None,
            batch_size_bytes=selection.block_bytes,
            batch_size=MOST_ROWS,
            batch_readahead=READ_AHEAD,
            fragment_readahead=READ_AHEAD,
            io_buffer_size=READ_BUFFER,
        )
    for batch in scanner.to_batches():
        yield pa.Table.from_batches([batch])


def _addresses(view: VersionView, condition: str, selection: Selection, check: Check) -> Array:
    """Where the items of those ids are that match, in the order of the set."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = _texts(selection.ids or ())
    if not condition and view.roster is not None:
        keys, addresses = view.here.find(wanted)
        return np.asarray(np.sort(addresses[keys >= 0]))
    found = [np.zeros(0, np.uint64)]
    for batch in _matched(view, "id", condition, selection.where, check, addresses=True):
        table = pa.Table.from_batches([batch])
        found.append(table.filter(pc.is_in(table["id"], value_set=wanted))["_rowaddr"].to_numpy())
    return np.sort(np.concatenate(found))


def _texts(ids: Sequence[str]) -> Any:
    """Each id once, as Arrow strings; an empty one is no item's."""
    import pyarrow as pa

    try:
        return pa.array([id for id in dict.fromkeys(ids) if id], pa.string())
    except (pa.ArrowException, TypeError, UnicodeError) as error:
        raise InvalidInput(f"ids are texts (UTF-8): {error}") from error


def _taken(view: VersionView, projection: Projection, addresses: Array, selection: Selection) -> Iterator[Any]:
    end = selection.offset + selection.limit if selection.limit else len(addresses)
    chosen = addresses[selection.offset : end]
    start, step = 0, 16
    while start < len(chosen):
        table = take(view, chosen[start : start + step], ["id", "key", *projection.stored])
        yield table
        start += step
        # As many as make a block, by what these took; but rows differ, so not much more than last time.
        step = max(1, min(MOST_ROWS, 8 * step, selection.block_bytes * len(table) // max(1, table.nbytes)))


def take(view: VersionView, addresses: Array, columns: Sequence[str]) -> Any:
    """Rows by address, in that order."""
    import pyarrow as pa

    view.check(addresses)
    with mapped("reading rows"):
        return view.dataset._take_rows(pa.array(addresses, pa.uint64()), columns=list(columns))


def keys(
    current: LatestVersion, readers: Readers, where: str, ids: Sequence[str] | None, check: Check = always_waits
) -> tuple[int, Array]:
    """As FeatureSet.keys says."""
    with newest(current, readers) as view:
        matching = _matching(view, where, check) if where else None
        if ids is None:
            return view.version, view.here.keys() if matching is None else matching
        found, _ = view.here.find(_texts(ids))
        there = np.sort(found[found >= 0])
        return view.version, there if matching is None else np.intersect1d(there, matching, assume_unique=True)


def _matching(view: VersionView, where: str, check: Check) -> Array:
    batches = _matched(view, "key", checked(view, where), where, check)
    found = [np.zeros(0, np.int64), *(batch.column("key").to_numpy() for batch in batches)]
    return np.sort(np.concatenate(found))


def fetch(
    current: LatestVersion, readers: Readers, keys: Array, taps: Sequence[str] | None, columns: Sequence[str] | None, inputs: bool
) -> ItemBatch:
    """As FeatureSet.fetch says."""
    keys = np.asarray(keys, np.int64)
    if not len(keys):
        view = current.view
        projection = project(view.facts, view.columns, taps, columns, inputs)
        return to_block(view.dataset.schema.empty_table(), projection, [], keys)
    with newest(current, readers) as view:
        projection = project(view.facts, view.columns, taps, columns, inputs)
        addresses, there = view.here.addresses(keys)
        kept = keys[there]
        ids = [id or "" for id in view.here.ids(kept)]
        if projection.stored and len(kept):
            return to_block(take(view, addresses[there], projection.stored), projection, ids, kept)
        empty = view.dataset.schema.empty_table()
        return to_block(empty, projection, ids, kept)


def known(current: LatestVersion, readers: Readers, ids: Sequence[str]) -> dict[str, StoredItem]:
    """As FeatureSet.known says."""
    wanted = _texts(ids)
    with newest(current, readers) as view:
        keys, addresses = view.here.find(wanted)
        there = np.flatnonzero(keys >= 0)
        if not len(there):
            return {}
        table = take(view, addresses[there], ["content", *view.columns])
        found = [values(table[name], type) for name, type in view.columns.items()]
        metadata = [dict(zip(view.columns, row, strict=True)) for row in zip(*found, strict=True)] or [{}] * len(there)
        rows = zip(wanted.take(there).to_pylist(), keys[there].tolist(), table["content"].to_pylist(), metadata, strict=True)
        return {id: StoredItem(key, content or "", one) for id, key, content, one in rows}
