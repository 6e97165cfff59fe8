"""Feature sets: their versions, deletions, and metadata, which is counted and changed without the vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from topwork._codec import decode_sets
from topwork._codec.items import describe
from topwork._codec.metadata import ColumnTypes, type_number
from topwork._ops.item_labels import KnownMetadata, columns_of, metadata_of, named, texts, unique
from topwork._transport.calls import ClientState, Steps, unary
from topwork._transport.methods import (
    CHANGE_COLUMN,
    COUNT_ROWS,
    DELETE_ROWS,
    DROP_SET,
    GET_SET,
    LIST_SETS,
    LIST_VERSIONS,
    PIN_VERSION,
    PRUNE_VERSIONS,
    UNPIN_VERSION,
    UPDATE_ROWS,
)
from topwork.errors import DataLoss, InvalidInput, NotFound
from topwork.sets import Pruned, SetInfo, UpdateReport, VersionInfo
from topwork.v1 import sets_pb2

#: Digits that no version has.
LONGEST_NUMBER = 19


def sets(session: ClientState, *, timeout: float | None = None) -> Steps[list[SetInfo]]:
    """List the server's feature sets by name."""
    reply = yield from unary(LIST_SETS, sets_pb2.ListSetsRequest(), timeout)
    return [decode_sets.feature_set(message) for message in reply.sets]


def set(session: ClientState, name: str, *, timeout: float | None = None) -> Steps[SetInfo]:
    """One set, as it stands now. Raises NotFound."""
    reply = yield from unary(GET_SET, sets_pb2.GetSetRequest(set=name), timeout)
    info = session.sets[name] = decode_sets.feature_set(reply)
    return info


def drop_set(session: ClientState, name: str, *, timeout: float | None = None) -> Steps[None]:
    """Delete a set with its versions and its indexes. Raises NotFound."""
    session.sets.pop(name, None)
    yield from unary(DROP_SET, sets_pb2.DropSetRequest(set=name), timeout)


def delete(
    session: ClientState,
    set: str,
    ids: str | int | Iterable[str | int] | None = None,
    *,
    where: str = "",
    timeout: float | None = None,
) -> Steps[int]:
    """Delete items by id (those that are not there are no error) or by a filter, not both. How many they were."""
    if (ids is None) == (not where):
        raise InvalidInput("a deletion is by ids or by a filter", remedy="pass one of the two")
    chosen = [] if ids is None else texts(ids)
    if ids is not None and not chosen:
        return 0
    request = sets_pb2.DeleteRowsRequest(set=set, ids=chosen, where=where)
    return (yield from unary(DELETE_ROWS, request, timeout)).deleted


def versions(session: ClientState, set: str, *, timeout: float | None = None) -> Steps[list[VersionInfo]]:
    """The versions that can still be read, oldest first."""
    return decode_sets.versions((yield from unary(LIST_VERSIONS, sets_pb2.ListVersionsRequest(set=set), timeout)))


def numbered(session: ClientState, set: str, version: int | str, timeout: float | None) -> Steps[int]:
    """The number of a version that is named by its number or by its pin. Raises NotFound, or DataLoss for a damaged pin."""
    if not isinstance(version, str):
        return version
    reply = yield from unary(LIST_VERSIONS, sets_pb2.ListVersionsRequest(set=set), timeout)
    pins = {pin: found.version for found in reply.versions for pin in found.pins}
    if version in pins:
        return pins[version]
    for damaged in reply.damaged_pins:
        if damaged.pin == version:
            raise DataLoss(damaged.damage, remedy=damaged.remedy)
    if version.isdecimal() and len(version) < LONGEST_NUMBER:
        return int(version)
    raise NotFound(f"{set} has no pin {version!r}", remedy=f"its pins: {', '.join(pins) or 'none'}")


def pin(session: ClientState, set: str, pin: str, version: int = 0, *, timeout: float | None = None) -> Steps[VersionInfo]:
    """Keep a version (0: the current one) from pruning, under a name."""
    request = sets_pb2.PinVersionRequest(set=set, pin=pin, version=version)
    return decode_sets.version((yield from unary(PIN_VERSION, request, timeout)))


def unpin(session: ClientState, set: str, pin: str, *, timeout: float | None = None) -> Steps[None]:
    """Let a pinned version be pruned again. Raises NotFound."""
    yield from unary(UNPIN_VERSION, sets_pb2.UnpinVersionRequest(set=set, pin=pin), timeout)


def prune(session: ClientState, set: str, older_than: float, *, timeout: float | None = None) -> Steps[Pruned]:
    """Delete the versions that are not pinned and are older than so many seconds. The current one stays."""
    reply = yield from unary(PRUNE_VERSIONS, sets_pb2.PruneVersionsRequest(set=set, older_than=older_than), timeout)
    return Pruned(reply.removed, reply.bytes)


#: Ids in one message of an update, each of which is one commit.
IDS = 50_000


def count(session: ClientState, set: str, where: str = "", *, version: int | str = 0, timeout: float | None = None) -> Steps[int]:
    """Count the items that a filter matches, or all items without one. `version` as for `read`."""
    number = yield from numbered(session, set, version, timeout)
    request = sets_pb2.CountRowsRequest(set=set, where=where, version=number)
    return (yield from unary(COUNT_ROWS, request, timeout)).count


def update(
    session: ClientState,
    set: str,
    ids: str | int | Iterable[str | int] | None = None,
    metadata: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    *,
    where: str = "",
    timeout: float | None = None,
) -> Steps[UpdateReport]:
    """Change metadata alone: the items' vectors are not sent, and other columns stay as they are.

    ids       with `metadata` as for `write`: a dict an item (all with the same columns), a dict of columns, a data frame; or one
              dict of single values for all of them. Ids that are not there are no error: see `missing` of what is returned
    where     a filter instead of ids, with one dict of values for all that match
    metadata  None takes a value away. A column that the set lacks is added; one of whole numbers widens to floats

    Up to 50,000 ids (or all that a filter matches) change in one commit.
    """
    if (ids is None) == (not where):
        raise InvalidInput("an update is of ids or of a filter", remedy="pass one of the two")
    described = yield from unary(GET_SET, sets_pb2.GetSetRequest(set=set), timeout)
    known = ColumnTypes(decode_sets.feature_set(described).columns)
    chosen, columns = ([], _by_filter(metadata)) if ids is None else _by_ids(ids, metadata)
    known.survey(columns)
    updated, missing, version = 0, list[str](), 0
    for start in range(0, len(chosen) if ids is not None else 1, IDS):
        end = start + IDS
        part = known.pack({name: values[start:end] for name, values in columns.items()}, start)
        request = sets_pb2.UpdateRowsRequest(set=set, ids=chosen[start:end], where=where, metadata=part)
        reply = yield from unary(UPDATE_ROWS, request, timeout, start)
        updated, version = updated + reply.updated, reply.version
        missing += reply.missing
    session.sets.pop(set, None)
    return UpdateReport(updated, tuple(missing), version)


def add_column(session: ClientState, set: str, column: str, type: str, *, timeout: float | None = None) -> Steps[SetInfo]:
    """Add a metadata column without values: "bool", "int", "float", "string", "time" or "strings". Raises AlreadyExists."""
    return (yield from _changed(session, sets_pb2.ChangeColumnRequest(set=set, column=column, add=type_number(type)), timeout))


def rename_column(session: ClientState, set: str, column: str, to: str, *, timeout: float | None = None) -> Steps[SetInfo]:
    """Give a metadata column another name. Raises NotFound, and AlreadyExists where the name is taken."""
    return (yield from _changed(session, sets_pb2.ChangeColumnRequest(set=set, column=column, rename=to), timeout))


def cast_column(session: ClientState, set: str, column: str, type: str, *, timeout: float | None = None) -> Steps[SetInfo]:
    """Give a metadata column another type. Raises InvalidInput, and changes nothing, where a value would be lost."""
    return (yield from _changed(session, sets_pb2.ChangeColumnRequest(set=set, column=column, cast=type_number(type)), timeout))


def drop_column(session: ClientState, set: str, column: str, *, timeout: float | None = None) -> Steps[SetInfo]:
    """Take a metadata column away; older versions keep it. Raises NotFound."""
    request = sets_pb2.ChangeColumnRequest(set=set, column=column, drop=sets_pb2.DropColumn())
    return (yield from _changed(session, request, timeout))


def _changed(session: ClientState, request: sets_pb2.ChangeColumnRequest, timeout: float | None) -> Steps[SetInfo]:
    reply = yield from unary(CHANGE_COLUMN, request, timeout)
    info = session.sets[request.set] = decode_sets.feature_set(reply)
    return info


def _by_filter(metadata: Any) -> dict[str, list[Any]]:
    """One value a column, for all items that match."""
    if not isinstance(metadata, Mapping) or not metadata:
        raise InvalidInput(
            f"an update by a filter is given {describe(metadata)}", remedy="pass a dict of values: {'label': 'owl'}"
        )
    return {named(name): [value] for name, value in metadata.items()}


def _by_ids(ids: Any, metadata: Any) -> tuple[list[str], dict[str, list[Any]]]:
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
    """Check that all rows set the same columns: one that is left out stays as it is."""
    for position, row in enumerate(rows):
        if isinstance(row, Mapping) and isinstance(rows[0], Mapping) and row.keys() != rows[0].keys():
            wrong = ", ".join(sorted(map(str, row.keys() ^ rows[0].keys())))
            raise InvalidInput(
                f"the rows of an update differ in their columns: {wrong}",
                remedy="name the same columns in each; None takes a value away",
                item=position,
            )
    return rows
